"""A Serial with everything around it, and one in lock-step with the oracle."""

import json
from collections.abc import Callable

from support.uart_oracle import UartOracle
from vmm.devices.clock import VirtualClock
from vmm.devices.errors import FullFifo, TriggerError
from vmm.devices.serial.events import SerialMetrics
from vmm.devices.serial.reg import (
    UART_FCR,
    UART_IER,
    UART_IIR,
    UART_IIR_NO_INT,
    UART_LSR,
    UART_LSR_DR,
    UART_LSR_THRE,
    UART_MSR,
    UART_RX,
    UART_TX,
)
from vmm.devices.serial.state import SerialState
from vmm.devices.serial.uart import Serial

TX_LOAD = 16  # what Linux's driver writes per THRE of a 16550A


class FailingTrigger:
    """An interrupt that can't be delivered any more."""

    def trigger(self) -> None:
        raise TriggerError("the line is cut")

    def set_level(self, high: bool) -> None:
        raise TriggerError("the line is cut")


class CountingTrigger:
    """Counts its edges, and has a level."""

    def __init__(self) -> None:
        self.edges = 0
        self.is_high = False

    def trigger(self) -> None:
        self.edges += 1

    def set_level(self, high: bool) -> None:
        self.is_high = high


class StallSink:
    """Takes as many bytes as the test made room for."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.on_room: Callable[[], None] | None = None
        self.left = room
        self.data = bytearray()
        self.refused = False

    def write(self, data: bytes, /) -> int:
        taken = min(len(data), self.left)
        self.data += data[:taken]
        self.left -= taken
        self.refused = self.refused or taken < len(data)
        return taken

    def room(self) -> int:
        return self.left

    def make_room(self, count: int) -> None:
        self.left += count
        if self.refused and self.left and self.on_room is not None:
            self.refused = False
            self.on_room()


class Rig:
    """A Serial, and what a test wants to see of its surroundings."""

    def __init__(self, room: int = 1 << 30, state: SerialState | None = None) -> None:
        self.clock = VirtualClock()
        self.trigger = CountingTrigger()
        self.sink = StallSink(room)
        self.metrics = SerialMetrics()
        if state is None:
            self.serial = Serial(
                self.trigger, self.sink, clock=self.clock, events=self.metrics
            )
        else:
            self.serial = Serial.from_state(
                state, self.trigger, self.sink, clock=self.clock, events=self.metrics
            )

    def read(self, offset: int) -> int:
        return self.serial.read(offset)

    def write(self, offset: int, value: int) -> None:
        self.serial.write(offset, value)

    def clone(self) -> "Rig":
        """One that goes on from the state of this one, by way of JSON."""
        text = json.dumps(self.serial.state().to_json())
        return Rig(self.sink.left, SerialState.from_json(json.loads(text)))


class FastRig(Rig):
    """A Rig whose guest's accesses are served as a run loop serves them."""

    def __init__(self, room: int = 1 << 30, state: SerialState | None = None) -> None:
        super().__init__(room, state)
        for port in self.serial.fast_ports.values():
            port.in_use = True
        self.served = 0

    def read(self, offset: int) -> int:
        port = self.serial.fast_ports.get(offset)
        answer = None if port is None else port.read()
        if answer is None:
            return self.serial.read(offset)
        self.served += 1
        return answer

    def write(self, offset: int, value: int) -> None:
        port = self.serial.fast_ports.get(offset)
        if port is not None and port.write(value):
            self.served += 1
        else:
            self.serial.write(offset, value)


class LinuxDriver:
    """The interrupt handler and start_tx of the driver, in its own order."""

    def __init__(self, serial: Serial) -> None:
        self.serial = serial
        self.ier = 0x05
        self.xmit = bytearray()
        self.received = bytearray()
        self.serial.write(UART_FCR, 0x01)
        self.serial.write(UART_FCR, 0x81)
        self.serial.write(UART_IER, self.ier)

    def start_tx(self, data: bytes) -> None:
        self.xmit += data
        if not self.ier & 2:
            self.ier |= 2
            self.serial.write(UART_IER, self.ier)

    def interrupt(self) -> None:
        while not (iir := self.serial.read(UART_IIR)) & UART_IIR_NO_INT:
            status = self.serial.read(UART_LSR)
            if iir & 0x04:
                status = self.receive()
            self.serial.read(UART_MSR)
            if status & UART_LSR_THRE:
                self._load()

    def receive(self) -> int:
        """Read RBR empty; the last LSR."""
        while (status := self.serial.read(UART_LSR)) & UART_LSR_DR:
            self.received.append(self.serial.read(UART_RX))
        return status

    def _load(self) -> None:
        for byte in self.xmit[:TX_LOAD]:
            self.serial.write(UART_TX, byte)
        del self.xmit[:TX_LOAD]
        if not self.xmit:
            self.ier &= ~2
            self.serial.write(UART_IER, self.ier)


class LockStep:
    """Does everything to a Serial, a restored copy, one with fast ports, the oracle.

    Every method compares what can be seen of the four, and fails if it
    differs: result, edges, output, events, LSR and IIR.
    """

    def __init__(self) -> None:
        self.rig = Rig(room=0)
        self.copy = Rig(room=0)
        self.fast = FastRig(room=0)
        self.oracle = UartOracle()
        self.pins = 0xB0

    def restore(self) -> None:
        """Replace the copy by one made of the present state."""
        self.copy = self.rig.clone()

    def read(self, offset: int) -> None:
        self._all(lambda rig: rig.read(offset), lambda it: it.read(offset))

    def write(self, offset: int, value: int) -> None:
        self._all(
            lambda rig: rig.write(offset, value),
            lambda it: it.write(offset, value),
        )

    def offer(self, data: bytes) -> None:
        def enqueue(rig: Rig) -> int | None:
            try:
                return rig.serial.enqueue_raw_bytes(data)
            except FullFifo:
                return None

        self._all(enqueue, lambda it: it.offer(data))

    def inject_break(self) -> None:
        self._all(lambda rig: rig.serial.inject_break(), lambda it: it.inject(0, 0x10))

    def inject_error(self, value: int, bits: int) -> None:
        self._all(
            lambda rig: rig.serial.inject_error(value, bits),
            lambda it: it.inject(value, bits),
        )

    def inject_overrun(self) -> None:
        self._all(lambda rig: rig.serial.inject_overrun(), lambda it: it.overrun())

    def set_pins(self, pins: int) -> None:
        self._all(
            lambda rig: rig.serial.set_modem_lines(
                cts=bool(pins & 0x10),
                dsr=bool(pins & 0x20),
                ri=bool(pins & 0x40),
                dcd=bool(pins & 0x80),
            ),
            lambda it: it.set_pins(pins),
        )

    def advance(self, delta_ns: int) -> None:
        self._all(
            lambda rig: rig.clock.advance(delta_ns), lambda it: it.advance(delta_ns)
        )

    def make_room(self, count: int) -> None:
        self._all(lambda rig: rig.sink.make_room(count), lambda it: it.make_room(count))

    def reset(self) -> None:
        self._all(lambda rig: rig.serial.reset(), lambda it: it.reset())

    def _all(
        self, act: Callable[[Rig], object], model: Callable[[UartOracle], object]
    ) -> None:
        rigs = (self.rig, self.copy, self.fast)
        seen = [self._observe(rig, act) for rig in rigs]
        assert seen[0] == seen[1], "the restored copy went another way"
        assert seen[0] == seen[2], "a run loop's guest saw something else"
        assert seen[0] == self._predict(model)

    def _observe(self, rig: Rig, act: Callable[[Rig], object]) -> dict[str, object]:
        edges, sent = rig.trigger.edges, len(rig.sink.data)
        m = rig.metrics
        before = m.buffer_reads, m.out_bytes, m.tx_lost_bytes, m.in_buffer_empties
        result = act(rig)
        state = rig.serial.state()
        after = m.buffer_reads, m.out_bytes, m.tx_lost_bytes, m.in_buffer_empties
        return {
            "result": result,
            "edges": rig.trigger.edges - edges,
            "sent": bytes(rig.sink.data[sent:]),
            "told": tuple(b - a for a, b in zip(before, after, strict=True)),
            "iir": state.interrupt_identification,
            "lsr": state.line_status,
            "msr": state.modem_status,
            "capacity": rig.serial.fifo_capacity(),
        }

    def _predict(self, model: Callable[[UartOracle], object]) -> dict[str, object]:
        it = self.oracle
        edges, sent, told = it.edges, len(it.sent), it.told.copy()
        result = model(it)
        names = ("read", "out", "lost", "empty")
        return {
            "result": result,
            "edges": it.edges - edges,
            "sent": bytes(it.sent[sent:]),
            "told": tuple(it.told[name] - told[name] for name in names),
            "iir": it.interrupt_identification() & 0x0F,
            "lsr": it.line_status(),
            "msr": it.lines() | it.deltas,
            "capacity": 64 - len(it.received),
        }
