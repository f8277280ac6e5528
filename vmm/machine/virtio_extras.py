"""VirtioExtras: what a machine has by virtio, where its configuration asks for it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..config import MachineConfig
from ..console.console import Console
from ..devices.clock import Clock
from ..devices.serial import Serial
from ..devices.sink import Sink
from ..devices.virtio.console import ConsolePort, VirtioConsole
from ..devices.virtio.device import VirtioDevice
from ..event_loop import EventLoop
from ..memory import GuestMemory
from .balloon import Balloon

if TYPE_CHECKING:  # few runs import it
    from ..vsock.vsock import Vsock


class AfterSerial:
    """hvc0's way into the console's sink: behind what ttyS0 has printed before.

    The kernel changes from one to the other in the middle of its messages, when KVM and
    the run loop may have collected some of ttyS0's: nothing is taken before they were
    asked for those, by `collect`, which calls what it is given when they have come.
    """

    def __init__(
        self,
        sink: Sink,
        serial: Serial,
        loop: EventLoop,
        collect: Callable[[Callable[[], None]], None],
    ) -> None:
        self.on_room: Callable[[], None] | None = None
        sink.on_room = self._tell
        self._sink = sink
        self._serial = serial
        self._loop = loop
        self._collect = collect
        self._has_asked = False
        self._may_pass = False

    def write(self, data: bytes, /) -> int:
        """As a Sink does; not before its turn."""
        if self._may_pass or not self._serial.is_collecting:
            self._may_pass = False
            return self._sink.write(data)
        if not self._has_asked:
            self._has_asked = True
            self._collect(lambda: self._loop.call_soon(self._go_on))
        return 0

    def _go_on(self) -> None:
        self._serial.flush()
        self._has_asked, self._may_pass = False, True
        self._tell()

    def _tell(self) -> None:
        if self.on_room is not None:
            self.on_room()


class VirtioExtras:
    """Those of them that others have to do with; each method plugs one in.

    `plug` does that, for a field of the configuration. Raises ConfigError.
    """

    def __init__(
        self, config: MachineConfig, plug: Callable[[str, VirtioDevice], None]
    ) -> None:
        self.ports: dict[str, Console] = {}
        self.balloon: Balloon | None = None
        self.vsock: Vsock | None = None
        self._config = config
        self._plug = plug

    def plug_console(
        self,
        console: Console,
        serial: Serial,
        loop: EventLoop,
        collect: Callable[[Callable[[], None]], None],
    ) -> None:
        """hvc0. A device of its own, which tells its size as all drivers know it.

        `serial` is ttyS0, which prints to the same `console`; see AfterSerial.
        """
        sink = AfterSerial(console.branch(), serial, loop, collect)
        on_room = console.events.in_buffer_empty
        port = ConsolePort(sink, is_console=True, on_room=on_room)
        device = VirtioConsole([port])
        console.connect(port, device.resize)
        self._plug("console_device", device)

    def plug_ports(
        self, loop: EventLoop, on_failure: Callable[[str], None], stack: ExitStack
    ) -> None:
        """Those with names, each with a host's side as the console has; see `stack`."""
        device_ports = []
        for name, place in self._config.ports:
            settings = self._config.console.replace(serial=place, tee=())
            console = Console(loop, settings, on_failure, field="ports")
            console.owner = f"port {name!r}"
            stack.callback(console.close)
            on_room = console.events.in_buffer_empty
            port = ConsolePort(console.sink, name, on_room=on_room)
            console.connect(port)
            self.ports[name] = console
            device_ports.append(port)
        self._plug("ports", VirtioConsole(device_ports))

    def plug_vsock(self, loop: EventLoop, stack: ExitStack) -> None:
        """The guest's sockets; `stack` closes the host's."""
        from ..vsock.vsock import Vsock

        settings = self._config.vsock
        assert settings is not None
        self.vsock = Vsock(loop, settings, self._config.console.socket_mode)
        stack.callback(self.vsock.close)
        self._plug("vsock", self.vsock.device)

    def plug_rng(self, clock: Clock) -> None:
        """The host's random bytes."""
        from ..devices.virtio.rng import VirtioRng

        self._plug("rng", VirtioRng(clock))

    def plug_balloon(self, memory: GuestMemory, size: int) -> None:
        """One that takes `size` bytes at first."""
        from ..devices.virtio.balloon import VirtioBalloon

        device = VirtioBalloon(memory, memory.size, size)
        self.balloon = Balloon(device)
        self._plug("balloon", device)
