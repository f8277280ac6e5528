"""VirtioConsole: a terminal of the guest's, or lines of bytes with names.

Linux's driver makes its console, /dev/hvc0, of a port, and /dev/vport*p* of others.
Output to hvc0 spins until its buffer is used, with a lock held, so that each is used at
once; what its sink has no room for waits here, and keeps the next one waiting.
Sources: VIRTIO 1.3, 5.3; Linux drivers/char/virtio_console.c.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Annotated, Final

from ..sink import BinaryFile, Sink, as_sink
from ..state import State
from .device import VirtioDevice

if TYPE_CHECKING:
    from .queue import Virtqueue

VIRTIO_CONSOLE_F_SIZE: Final = 0
VIRTIO_CONSOLE_F_MULTIPORT: Final = 1
VIRTIO_CONSOLE_F_EMERG_WRITE: Final = 2

# Events of control messages
VIRTIO_CONSOLE_DEVICE_READY: Final = 0
VIRTIO_CONSOLE_PORT_ADD: Final = 1
VIRTIO_CONSOLE_PORT_READY: Final = 3
VIRTIO_CONSOLE_CONSOLE_PORT: Final = 4
VIRTIO_CONSOLE_RESIZE: Final = 5
VIRTIO_CONSOLE_PORT_OPEN: Final = 6
VIRTIO_CONSOLE_PORT_NAME: Final = 7

PORTS_MAX: Final = 31
NAME_MAX: Final = 128
SIZE_MAX: Final = 0xFFFF
WRITE_MAX: Final = 1 << 20
"""Bytes of one buffer that a port takes: no more than a guest's pipe has, which is what
splice(2) sends at once. What is beyond them is lost."""
INPUT_BUFFER: Final = 4096
SYSRQ: Final = b"\x0f"
"""What Linux's hvc driver takes for a BREAK: drivers/tty/hvc/hvc_console.c."""

_CONFIG: Final = Struct("<HHII")  # cols, rows, max_nr_ports, emerg_wr
_EMERG_WR: Final = 8
_CONTROL: Final = Struct("<IHH")  # id, event, value
_SIZE: Final = Struct("<HH")  # cols, rows
INPUT: Final = -1
"""An occasion to remind of the size, as the indices of a console's two queues are."""
_CONTROL_IN: Final = 2
_CONTROL_OUT: Final = 3
# What the driver is to be told of a port, in this order.
_TOLD: Final = (
    VIRTIO_CONSOLE_PORT_ADD,
    VIRTIO_CONSOLE_CONSOLE_PORT,
    VIRTIO_CONSOLE_PORT_NAME,
    VIRTIO_CONSOLE_RESIZE,
    VIRTIO_CONSOLE_PORT_OPEN,
)

_Uint16 = Annotated[int, range(1 << 16)]


class PortState(State):
    """A ConsolePort's."""

    is_open: bool
    is_ready: bool
    due: tuple[Annotated[int, range(8)], ...]
    """Events that the driver is still to be told of."""
    rest: Annotated[bytes, range(WRITE_MAX + 1)]
    """What the guest has written, and the sink had no room for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = tuple(event for event in _TOLD if event in self.due)
        self.require(self.due == ordered, f"due are some of {_TOLD}, in that order")


class ConsoleState(State):
    """A VirtioConsole's: the size of its terminal, and its ports."""

    cols: _Uint16
    rows: _Uint16
    ports: Annotated[tuple[PortState, ...], range(1, PORTS_MAX + 1)]


class ConsolePort:
    """One port: what the guest writes goes to `out`, and `enqueue_raw_bytes` types.

    `on_room` is called when the guest may take input again that it had no room for;
    with the device's lock held, so that it must not block, nor call the device.
    """

    def __init__(
        self,
        out: Sink | BinaryFile,
        name: str = "",
        *,
        is_console: bool = False,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises ValueError for a name of more than 128 bytes."""
        if len(name.encode()) > NAME_MAX:
            raise ValueError(f"name: {name!r} has more than {NAME_MAX} bytes")
        self.name = name
        self.is_console = is_console
        self.on_room = on_room
        self._sink = as_sink(out)
        self._sink.on_room = self._on_sink_room
        self._device: VirtioConsole | None = None
        self._input: Virtqueue | None = None
        self._output: Virtqueue | None = None
        self.rest = b""
        """What the guest has written, and the sink had no room for."""
        self.power_on()

    def power_on(self) -> None:
        """As before a driver has found it; what the guest has written isn't lost."""
        self.is_open = False
        """Whether the guest has opened it, as it says."""
        self.is_ready = False
        """Whether the driver has made something of it."""
        self.due: set[int] = set()
        """Events that the driver is still to be told of."""

    def connect(
        self, device: "VirtioConsole", received: "Virtqueue", sent: "Virtqueue"
    ) -> None:
        """Be a port of `device`, with these two queues."""
        self._device, self._input, self._output = device, received, sent

    # For the host

    @property
    def listens(self) -> bool:
        """Whether the guest would take input, if not now."""
        device = self._device
        if device is None or not device.is_active:
            return False
        return self.is_open or not device.has_control

    def enqueue_raw_bytes(self, data: bytes) -> int:
        """Type `data`; how many bytes the guest has room for. `on_room` follows."""
        device, queue = self._device, self._input
        done = 0
        if device is None or queue is None:
            return done
        with device.working():
            if data and self.listens:
                device.remind(INPUT)
                for chain in queue:
                    done += chain.write(data[done:])
                    queue.push(chain)
                    if done == len(data):
                        break
                else:
                    device.look_again(queue)
        return done

    def fifo_capacity(self) -> int:
        """Bytes that it makes sense to type at once: what one of Linux's buffers has.

        0 while the guest doesn't listen. Whether there is a buffer isn't said.
        """
        return INPUT_BUFFER if self.listens else 0

    def inject_break(self) -> bool:
        """Type what Linux takes for a BREAK; False if there was no room for it."""
        return self.enqueue_raw_bytes(SYSRQ) > 0

    def flush(self) -> None:
        """Take all that the guest has written, whoever was to tell the device of it.

        For when the guest has stopped.
        """
        if self._device is not None and self._output is not None:
            self._device.serve(self._output)

    def _on_sink_room(self) -> None:
        device, queue = self._device, self._output
        if device is None or queue is None:
            return
        with device.lock:
            self.send(b"")
            device.serve(queue)

    # For the device, with its lock held

    def handle(self, queue: "Virtqueue") -> None:
        """Look at one of its queues."""
        if queue is self._output:
            self._take_output(queue)
        else:
            self.on_room()

    def _take_output(self, queue: "Virtqueue") -> None:
        """Take what the guest has written, as long as there is room for it."""
        if self.rest:
            return
        for chain in queue:
            self.send(chain.read(WRITE_MAX))
            queue.push(chain)
            if self.rest:
                break

    def send(self, data: bytes) -> None:
        """Give the sink the rest and `data`, as far as there is room."""
        self.rest += data
        if self.rest:
            self.rest = self.rest[self._sink.write(self.rest) :]

    def told(self, event: int, value: int) -> None:
        """The driver says something of this port."""
        if event == VIRTIO_CONSOLE_PORT_OPEN:
            self.is_open = value == 1
            if self.is_open:
                self.on_room()
        elif event == VIRTIO_CONSOLE_PORT_READY and value == 1:
            self.is_ready = True
            self.due.add(VIRTIO_CONSOLE_PORT_OPEN)
            if self.is_console:
                self.due |= {VIRTIO_CONSOLE_CONSOLE_PORT, VIRTIO_CONSOLE_RESIZE}
            if self.name:
                self.due.add(VIRTIO_CONSOLE_PORT_NAME)

    def state(self) -> PortState:
        """What becomes of it in another one."""
        due = tuple(event for event in _TOLD if event in self.due)
        return PortState(self.is_open, self.is_ready, due, bytes(self.rest))

    def restore(self, state: PortState) -> None:
        """Go on from `state`; what the guest had written goes to today's sink."""
        self.is_open, self.is_ready = state.is_open, state.is_ready
        self.due = set(state.due)
        self.rest = state.rest
        self.send(b"")
        self.on_room()


class VirtioConsole(VirtioDevice):
    """A console of one port, without a name; or several ports, told of by messages.

    The size of its terminal is that of all that are consoles. To a driver of several it
    is told as the specification says, columns, then rows, which Linux took for rows and
    columns until 6.15 (5326ab737a47). With one port there is no such doubt.
    """

    device_type = 3

    def __init__(self, ports: Sequence[ConsolePort]) -> None:
        """Raises ValueError unless there are 1..31 ports."""
        if not 1 <= len(ports) <= PORTS_MAX:
            raise ValueError(f"{len(ports)} ports, not 1..{PORTS_MAX}")
        has_names = len(ports) > 1 or bool(ports[0].name)
        self.features = 1 << VIRTIO_CONSOLE_F_SIZE | 1 << VIRTIO_CONSOLE_F_EMERG_WRITE
        self.queue_sizes = (64, 64)
        if has_names:
            self.features |= 1 << VIRTIO_CONSOLE_F_MULTIPORT
            self.queue_sizes += (32, 32) + (64, 64) * (len(ports) - 1)
        super().__init__()
        self.ports: Final = tuple(ports)
        self._cols = self._rows = 0
        self._reminders: set[int] = set()
        self._port_of: dict[int, ConsolePort] = {}  # by the index of a queue
        for number, port in enumerate(ports):
            first = 2 * number + 2 if number else 0  # 2 and 3 are the messages'
            received, sent = self.queues[first : first + 2]
            port.connect(self, received, sent)
            self._port_of |= {received.index: port, sent.index: port}

    @property
    def has_control(self) -> bool:
        """Whether the driver speaks of ports by messages."""
        return self.has(VIRTIO_CONSOLE_F_MULTIPORT)

    def resize(self, cols: int, rows: int) -> None:
        """Tell the driver the size of its terminal, now or when it is there.

        Callable from any thread. Raises ValueError unless both are 0..65535.
        """
        if not (0 <= cols <= SIZE_MAX and 0 <= rows <= SIZE_MAX):
            raise ValueError(f"{cols} columns and {rows} rows: each is 0..{SIZE_MAX}")
        with self.working():
            if (cols, rows) == (self._cols, self._rows):
                return
            self._cols, self._rows = cols, rows
            self._tell_size()

    def _tell_size(self) -> None:
        self._note_size()
        if self.has_control:
            self._send_messages()
        else:
            self._set_reminders()
            self.config_changed()

    def _set_reminders(self) -> None:
        has_size = (self._cols, self._rows) != (0, 0)
        alone = has_size and not self.has_control
        self._reminders = {*self._port_of, INPUT} if alone else set()

    def remind(self, occasion: int) -> None:
        """Tell the driver the size, once on each occasion after it was set.

        Linux (config_work_handler) looks at it only when told of a change, and forgets
        it if it hasn't finished its port by then, which nobody is told of.
        """
        if occasion in self._reminders:
            self._reminders.discard(occasion)
            self.config_changed()

    def _note_size(self) -> None:
        """Whom there are messages for is to be told."""
        for port in self.ports:
            if port.is_console and port.is_ready:
                port.due.add(VIRTIO_CONSOLE_RESIZE)

    # As its driver has it

    def config(self) -> bytes:
        return _CONFIG.pack(self._cols, self._rows, len(self.ports), 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Of all that is there a driver writes emerg_wr alone: one character."""
        port = self.ports[0]
        if offset == _EMERG_WR and len(port.rest) < WRITE_MAX:
            port.send(data[:1])

    def activate(self) -> None:
        self._set_reminders()

    def handle(self, queue: "Virtqueue") -> None:
        port = self._port_of.get(queue.index)
        if port is not None:
            self.remind(queue.index)
            port.handle(queue)
        elif self.has_control:
            if queue.index == _CONTROL_OUT:
                self._take_messages(queue)
            self._send_messages()

    def _take_messages(self, queue: "Virtqueue") -> None:
        for chain in queue:
            data = chain.read(_CONTROL.size)
            queue.push(chain)
            if len(data) < _CONTROL.size:
                continue
            number, event, value = _CONTROL.unpack(data)
            if event == VIRTIO_CONSOLE_DEVICE_READY and value == 1:
                for port in self.ports:
                    port.due.add(VIRTIO_CONSOLE_PORT_ADD)
            elif number < len(self.ports):
                self.ports[number].told(event, value)

    def _send_messages(self) -> None:
        """Tell the driver what is due, as far as there are buffers for it."""
        due = [
            (number, event)
            for number, port in enumerate(self.ports)
            for event in _TOLD
            if event in port.due
        ]
        if not due:
            return
        due.reverse()
        queue = self.queues[_CONTROL_IN]
        for chain in queue:
            number, event = due[-1]
            message = self._message(number, event)
            if chain.writable_size >= len(message):
                chain.write(message)
                self.ports[number].due.discard(event)
                due.pop()
            queue.push(chain)
            if not due:
                return
        self.look_again(queue)

    def look_again(self, queue: "Virtqueue") -> None:
        """At a queue that was looked at, and not because it was kicked."""
        if queue.more:
            self.transport.serve_again(queue)

    def _message(self, number: int, event: int) -> bytes:
        message = _CONTROL.pack(number, event, 1)
        if event == VIRTIO_CONSOLE_RESIZE:
            message += _SIZE.pack(self._cols, self._rows)
        elif event == VIRTIO_CONSOLE_PORT_NAME:
            message += self.ports[number].name.encode()
        return message

    def reset(self) -> None:
        for port in self.ports:
            port.power_on()

    def state(self) -> ConsoleState:
        ports = tuple(port.state() for port in self.ports)
        return ConsoleState(self._cols, self._rows, ports)

    def restore(self, state: State | None) -> None:
        """The terminal stays that of today's host, if it has said how large it is."""
        saved = ConsoleState.of(state)
        saved.require(
            len(saved.ports) == len(self.ports), f"it has {len(self.ports)} ports"
        )
        for port, its in zip(self.ports, saved.ports, strict=True):
            port.restore(its)
        if (self._cols, self._rows) == (0, 0):
            self._cols, self._rows = saved.cols, saved.rows
        elif (self._cols, self._rows) != (saved.cols, saved.rows):
            self._note_size()
        self._set_reminders()  # its driver may be in the middle of its start
