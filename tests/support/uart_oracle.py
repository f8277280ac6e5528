"""A second 16550A, written from the datasheet's tables, to check Serial against.

Nothing is cached: every register is derived anew from what has happened, by
looking it up in tables that follow those of the PC16550D datasheet. It knows
no Sink, Clock, Trigger or lock: the test tells it the time and how many bytes
the outside would take, and compares reads, interrupt edges and output.
"""

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Table II, Summary of Registers: (direction, A2-A0, DLAB or None) -> register
ADDRESSES = {
    ("r", 0, 0): "RBR",
    ("w", 0, 0): "THR",
    ("r", 0, 1): "DLL",
    ("w", 0, 1): "DLL",
    ("r", 1, 0): "IER",
    ("w", 1, 0): "IER",
    ("r", 1, 1): "DLM",
    ("w", 1, 1): "DLM",
    ("r", 2, None): "IIR",
    ("w", 2, None): "FCR",
    ("r", 3, None): "LCR",
    ("w", 3, None): "LCR",
    ("r", 4, None): "MCR",
    ("w", 4, None): "MCR",
    ("r", 5, None): "LSR",
    ("r", 6, None): "MSR",
    ("r", 7, None): "SCR",
    ("w", 7, None): "SCR",
}
# Registers that only store: name -> (bits that exist, value after master reset)
STORED = {
    "DLL": (0xFF, 0x0C),
    "DLM": (0xFF, 0x00),
    "IER": (0x0F, 0x00),
    "LCR": (0xFF, 0x03),
    "MCR": (0x1F, 0x08),
    "SCR": (0xFF, 0x00),
}
# Table IV, Interrupt Control Functions: (IIR bits 3-0, IER bit), by priority
SOURCES = {
    "line status": (0b0110, 0x04),
    "data available": (0b0100, 0x01),
    "timeout": (0b1100, 0x01),
    "THR empty": (0b0010, 0x02),
    "modem status": (0b0000, 0x08),
}
TRIGGER_LEVEL = {0b00: 1, 0b01: 4, 0b10: 8, 0b11: 14}
# Loopback: MCR bit -> MSR bit; and MSR bit -> its delta
LOOP_WIRES = {0x01: 0x20, 0x02: 0x10, 0x04: 0x40, 0x08: 0x80}
DELTA_OF = {0x10: 0x01, 0x20: 0x02, 0x80: 0x08}
WORD = {0: 5, 1: 6, 2: 7, 3: 8}

OVERRUN, PARITY, FRAMING, BREAK = 0x02, 0x04, 0x08, 0x10
DEPTH = 64


class UartOracle:
    """Tell it what happens; it tells what a 16550A would show."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.room = 0
        self.sent = bytearray()
        self.edges = 0
        self.told: Counter[str] = Counter()
        self.pins = 0xB0
        self.master_reset()

    def master_reset(self) -> None:
        """The MR pin."""
        self.stored = {name: value for name, (_, value) in STORED.items()}
        self.fifo_on = False
        self.level = 1
        self.received: list[tuple[int, int]] = []
        self.held: list[int] = []
        self.shown_errors = 0
        self.fifo_error = False
        self.deltas = 0
        self.thr_empty_latch = False
        self.timeout = False
        self.timeout_due: int | None = None
        self.asserted: set[str] = set()

    # -- registers as they read ---------------------------------------------

    def line_status(self) -> int:
        return (
            (0x01 if self.received else 0)
            | self.shown_errors
            | (0x00 if self.held else 0x60)
            | (0x80 if self.fifo_error else 0)
        )

    def lines(self) -> int:
        if not self.looped():
            return self.pins
        mcr = self.stored["MCR"]
        return sum(pin for out, pin in LOOP_WIRES.items() if mcr & out)

    def pending(self) -> list[str]:
        conditions: dict[str, Callable[[], bool]] = {
            "line status": lambda: self.shown_errors != 0,
            "data available": lambda: len(self.received) >= self.level,
            "timeout": lambda: self.timeout,
            "THR empty": lambda: self.thr_empty_latch,
            "modem status": lambda: self.deltas != 0,
        }
        ier = self.stored["IER"]
        return [
            name
            for name, (_, enable) in SOURCES.items()
            if ier & enable and conditions[name]()
        ]

    def interrupt_identification(self) -> int:
        pending = self.pending()
        identity = SOURCES[pending[0]][0] if pending else 0b0001
        return identity | (0xC0 if self.fifo_on else 0)

    def looped(self) -> bool:
        return bool(self.stored["MCR"] & 0x10)

    def four_characters_ns(self) -> int:
        lcr = self.stored["LCR"]
        divisor = self.stored["DLM"] * 256 + self.stored["DLL"]
        stop = Fraction(1)
        if lcr & 4:
            stop = Fraction(3, 2) if lcr & 3 == 0 else Fraction(2)
        bits = 1 + WORD[lcr & 3] + (1 if lcr & 8 else 0) + stop
        baud = Fraction(1_843_200, 16 * max(divisor, 1))
        return int(4 * bits / baud * 10**9)

    # -- the guest ----------------------------------------------------------

    def locate(self, direction: str, offset: int) -> str | None:
        dlab = self.stored["LCR"] >> 7
        either = ADDRESSES.get((direction, offset, None))
        return ADDRESSES.get((direction, offset, dlab), either)

    def read(self, offset: int) -> int:
        register = self.locate("r", offset)
        if register == "RBR":
            value = self.take_oldest()
        elif register == "IIR":
            value = self.interrupt_identification()
            if value & 0x0F == SOURCES["THR empty"][0]:
                self.thr_empty_latch = False
        elif register == "LSR":
            value = self.line_status()
            self.shown_errors = 0
            self.fifo_error = self.fifo_on and any(e for _, e in self.received)
        elif register == "MSR":
            value = self.lines() | self.deltas
            self.deltas = 0
        else:
            value = self.stored[register] if register else 0
        self.settle()
        return value

    def take_oldest(self) -> int:
        if not self.received:
            return 0
        self.told["read"] += 1
        byte, _ = self.received.pop(0)
        self.timeout = False
        self.character_event()
        if not self.received:
            self.told["empty"] += 1
        return byte

    def write(self, offset: int, value: int) -> None:
        register = self.locate("w", offset)
        before = self.lines()
        was = dict(self.stored)
        if register in STORED:
            self.stored[register] = value & STORED[register][0]
        self.modem_changes(before)
        if register == "THR":
            self.transmit(value)
        elif register == "FCR":
            self.fifo_control(value)
        elif register == "IER":
            self.enables_changed(was["IER"])
        elif register in ("LCR", "MCR"):
            self.loop_or_break_changed(was)
        self.settle()

    def fifo_control(self, value: int) -> None:
        on = bool(value & 1)
        clear_rx = clear_tx = on != self.fifo_on
        self.fifo_on = on
        self.level = 1
        if on:
            self.level = TRIGGER_LEVEL[value >> 6]
            clear_rx = clear_rx or bool(value & 2)
            clear_tx = clear_tx or bool(value & 4)
        if clear_rx:
            self.told["empty"] += bool(self.received)
            self.received = []
            self.fifo_error = self.timeout = False
            self.timeout_due = None
        if clear_tx and self.held:
            self.told["lost"] += len(self.held)
            self.held = []
            self.transmitter_ran_empty()

    def enables_changed(self, was: int) -> None:
        on = self.stored["IER"] & 2
        if not on:
            self.thr_empty_latch = False
        elif not was & 2:
            self.thr_empty_latch = not self.held

    def loop_or_break_changed(self, was: dict[str, int]) -> None:
        def spacing(stored: dict[str, int]) -> bool:
            return bool(stored["MCR"] & 0x10 and stored["LCR"] & 0x40)

        if spacing(self.stored) and not spacing(was):
            self.line_delivers(0, BREAK)
        if was["MCR"] & 0x10 and not self.looped():
            self.told["empty"] += 1

    # -- the transmitter ----------------------------------------------------

    def transmit(self, byte: int) -> None:
        if self.looped():
            if self.received and not self.fifo_on:
                self.received[0] = (byte, 0)
                self.shown_errors |= OVERRUN
                self.arrived()
            else:
                self.line_delivers(byte, 0)
            if not self.held:
                self.transmitter_ran_empty()
        elif len(self.held) >= (DEPTH if self.fifo_on else 1):
            self.told["lost"] += 1
        else:
            self.held.append(byte)
            self.thr_empty_latch = self.thr_empty_latch and self.room > 0
            self.send_held()

    def send_held(self) -> None:
        count = min(self.room, len(self.held))
        self.sent += bytes(self.held[:count])
        self.told["out"] += count
        self.room -= count
        del self.held[:count]
        if not self.held:
            self.transmitter_ran_empty()

    def transmitter_ran_empty(self) -> None:
        self.thr_empty_latch = bool(self.stored["IER"] & 2)

    def make_room(self, count: int) -> None:
        self.room += count
        if self.held:
            self.send_held()
        self.settle()

    # -- the receiver -------------------------------------------------------

    def line_delivers(self, byte: int, errors: int) -> None:
        if len(self.received) >= DEPTH:
            self.shown_errors |= OVERRUN
        else:
            self.received.append((byte, errors))
            if errors and self.fifo_on:
                self.fifo_error = True
        self.arrived()

    def arrived(self) -> None:
        if not self.timeout:
            self.character_event()
        else:
            self.reveal()
        self.asserted -= {"data available", "timeout", "line status"}

    def character_event(self) -> None:
        """A character came or was read: errors show, the timeout starts anew."""
        self.reveal()
        running = self.fifo_on and self.received
        self.timeout_due = self.now_ns + self.four_characters_ns() if running else None

    def reveal(self) -> None:
        if self.received:
            byte, errors = self.received[0]
            self.shown_errors |= errors
            self.received[0] = (byte, 0)

    def offer(self, data: bytes) -> int | None:
        """Host input; how many bytes were taken, None for FullFifo."""
        if self.looped() or not data:
            return 0
        count = min(len(data), DEPTH - len(self.received))
        if not count:
            return None
        self.received += [(byte, 0) for byte in data[:count]]
        self.arrived()
        self.settle()
        return count

    def inject(self, byte: int, errors: int) -> bool:
        if self.looped():
            return False
        self.line_delivers(byte, errors)
        self.settle()
        return True

    def overrun(self) -> bool:
        if self.looped():
            return False
        self.shown_errors |= OVERRUN
        self.asserted -= {"line status"}
        self.settle()
        return True

    # -- modem, time, reset, edges ------------------------------------------

    def set_pins(self, pins: int) -> None:
        before = self.lines()
        self.pins = pins
        if self.modem_changes(before):
            self.asserted -= {"modem status"}
        self.settle()

    def modem_changes(self, before: int) -> bool:
        after = self.lines()
        for pin, delta in DELTA_OF.items():
            if (before ^ after) & pin:
                self.deltas |= delta
        if before & ~after & 0x40:
            self.deltas |= 0x04
        return before != after

    def advance(self, delta_ns: int) -> None:
        self.now_ns += delta_ns
        if self.timeout_due is not None and self.now_ns >= self.timeout_due:
            self.timeout_due = None
            self.timeout = True
        self.settle()

    def reset(self) -> None:
        self.told["lost"] += len(self.held)
        self.told["empty"] += 1
        self.master_reset()

    def settle(self) -> None:
        """An edge if something is asserted that was not before."""
        now = set(self.pending())
        self.edges += bool(now - self.asserted)
        self.asserted = now
