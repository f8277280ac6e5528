"""AgentLine: the host's side of COM2, no faster than the guest takes it.

Everything happens on the thread that makes it possible: a guest that has emptied its
FIFO finds the next bytes there when its access is over, and who waits for an answer is
woken by the vCPU whose byte ended it. Nothing is collected, and no other thread has a
turn in between.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..devices.device_io import DeviceIo
from ..devices.errors import FullFifo
from ..devices.fast_port import FastPort
from ..devices.pc.platform import SerialPio
from ..devices.resources import PioAddressConstraint, ResourceConstraint
from ..devices.serial import Serial
from ..devices.serial.events import SerialEvents
from ..devices.serial.receiver import FIFO_SIZE
from ..devices.serial.reg import UART_LSR, UART_SCR
from ..devices.state import State, refuse_state
from ..devices.trigger import InterruptLine

COM2: Final = 0x2F8
COM2_IRQ: Final = 3
# Less than its receiver's trigger level waits for a timeout: the tail isn't shorter.
TAIL: Final = 14
# The short way, as agent/ports.h has it
INBOX: Final = 0x2F0
OUTBOX: Final = 0x2F4
POST: Final = 0x2E0
POST_MAX: Final = 16 << 10
FETCHES: Final = 0xA6  # in SCR: the guest fetches, and is to be rung for
FETCH_FIRST: Final = 128
FETCH_MAX: Final = 4096
MORE: Final = 0x8000
PIECE: Final = 4096  # of output without an end of a frame, before it is looked at


class AgentLine(SerialEvents):
    """A Sink that hands on what the guest sends, and a queue of what it is to get.

    `send`, `clear`, `hold` and `release` are for any thread. Lock order: whoever calls
    `send` has the session's lock, then ours, then the Serial's, then that for output.
    """

    def __init__(self) -> None:
        self.on_output: Callable[[], None] = lambda: None
        """Called on a vCPU's thread when it is time to `take`."""
        self.on_room: Callable[[], None] | None = None  # never called: it never refuses
        self.is_due = False
        """The guest has emptied its FIFO, or ended a frame: `serve` is to be called."""
        self._serial: Serial | None = None
        self._lock = threading.Lock()  # for what follows
        self._queue = bytearray()
        self._is_held = False
        self._has_ports = False  # the guest has used its port
        self._has_rung = False  # and nobody has come to fetch
        self._piece, self._at = b"", 0  # what is being fetched
        self._output_lock = threading.Lock()  # for the next
        self._output = bytearray()

    def power_on(self) -> None:
        """The guest is about to boot: it may be another."""
        self._has_ports = False

    def connect(self, serial: Serial) -> None:
        """Wire the device, which writes to this and tells it of its events."""
        self._serial = serial

    # The device's side, under its lock

    def write(self, data: bytes, /) -> int:
        """Take what the guest sends by its UART, unless it has a shorter way.

        Then it is somebody else's.
        """
        if not self._has_ports:
            self._add(data)
        return len(data)

    def _add(self, data: bytes) -> None:
        with self._output_lock:
            self._output += data
            if b"\0" in data or len(self._output) >= PIECE:
                self.is_due = True

    def in_buffer_empty(self) -> None:
        """The guest has read all."""
        self.is_due = True

    def serve(self) -> None:
        """After an access, on its thread: take and give what it made possible."""
        self.is_due = False
        if self._output:
            self.on_output()
        with self._lock:
            self._feed()

    # The guest's side, for AgentPorts

    def put(self, data: bytes) -> None:
        """Take what the guest sends by its port."""
        self._has_ports = True
        self._add(data)

    def fetch(self) -> int:
        """The next byte of a piece's beginning, its size in front."""
        with self._lock:  # vCPUs may fetch at once, and a session may end meanwhile
            if self._at >= FETCH_FIRST or not self._piece:
                self._cut_piece()
            self._at += 1
            return self._piece[self._at - 1]

    def fetch_rest(self) -> int:
        """The next byte of its rest; 0: there is none, for another host had cut it."""
        with self._lock:
            if self._at >= len(self._piece):
                return 0
            self._at += 1
            return self._piece[self._at - 1]

    def _cut_piece(self) -> None:
        size = min(len(self._queue), FETCH_MAX)
        more = MORE if len(self._queue) > size else 0
        piece = (size | more).to_bytes(2, "little") + self._queue[:size]
        del self._queue[:size]
        self._piece, self._at = piece.ljust(FETCH_FIRST, b"\0"), 0
        self._has_rung = False

    # The session's side

    def take(self) -> bytes:
        """All that the guest has sent since the last call."""
        with self._output_lock:
            data = bytes(self._output)
            self._output.clear()
        return data

    def send(self, data: bytes) -> None:
        """Send `data` as soon as the guest takes it."""
        with self._lock:
            self._queue += data
            self._feed()

    def clear(self) -> None:
        """Forget what the guest hasn't got."""
        with self._lock:
            self._queue.clear()
            self._piece, self._at = b"", 0
            self._has_rung = False

    @property
    def waiting(self) -> int:
        """Bytes that the guest hasn't got."""
        return len(self._queue)

    def hold(self) -> None:
        """The guest stands still: nothing is to reach its UART until `release`."""
        with self._lock:
            self._is_held = True

    def release(self) -> None:
        """It goes on."""
        with self._lock:
            self._is_held = False
            self._feed()

    def _feed(self) -> None:
        serial = self._serial
        if serial is None or self._is_held or not self._queue:
            return
        if serial.read(UART_SCR) == FETCHES:
            if not self._has_rung:
                self._has_rung = serial.inject_break()
            return
        while self._queue and self._feed_some(serial):
            pass

    def _feed_some(self, serial: Serial) -> bool:
        """Fill its FIFO; False if it takes no more."""
        count = min(len(self._queue), FIFO_SIZE)
        leaves_tail = 0 < len(self._queue) - count < TAIL
        if leaves_tail:
            count -= TAIL
        try:
            taken = serial.enqueue_raw_bytes(self._queue[:count])
        except FullFifo:
            return False
        del self._queue[:taken]
        # Nothing in loopback, the end of which is an event, too.
        return taken > 0 and not leaves_tail


class AgentSerialPio(SerialPio):
    """COM2, which serves the line after each access; its THR is no fast port.

    What is written to a fast port may be collected, and somebody waits for it.
    """

    def __init__(
        self, serial: Serial, irq_line: InterruptLine, line: AgentLine
    ) -> None:
        super().__init__(serial, irq_line, base=COM2, irq=COM2_IRQ)
        self._line = line

    def get_fast_ports(self) -> Mapping[int, FastPort]:
        port = COM2 + UART_LSR
        return {port: super().get_fast_ports()[port]}

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        super().pio_read(base, offset, data)
        if self._line.is_due:
            self._line.serve()

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        super().pio_write(base, offset, data)
        if self._line.is_due:
            self._line.serve()


class AgentPorts(DeviceIo):
    """The short way beside COM2: see guest/linux/agent/ports.h.

    They keep nothing but an answer that is read at once: what the guest hasn't fetched
    is the host's, as what stands in the queue of a UART is, and goes when another host
    says HELLO.
    """

    def __init__(self, line: AgentLine, read_caller: Callable[[int], bytes]) -> None:
        """`read_caller` gives so many bytes of the program that makes an access.

        From where its rsi points on, as far as there is memory.
        """
        self._line = line
        self._read_caller = read_caller
        self._posted = 0

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        ports = (INBOX, 2), (OUTBOX, 4), (POST, 4)
        return [PioAddressConstraint.at(base, size) for base, size in ports]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        if base == INBOX and len(data) == 1:
            data[0] = self._line.fetch_rest() if offset else self._line.fetch()
        elif base == POST and len(data) == 4:
            data[:] = self._posted.to_bytes(4, "little")
        else:
            super().pio_read(base, offset, data)

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        if base == OUTBOX:
            self._line.put(bytes(data))
        elif base == POST and len(data) == 4:
            size = int.from_bytes(data, "little")
            taken = self._read_caller(size) if size <= POST_MAX else b""
            self._posted = len(taken)
            self._line.put(taken)
        if self._line.is_due:
            self._line.serve()

    def state(self) -> State | None:
        return None

    def restore(self, state: State | None) -> None:
        refuse_state(self, state)
