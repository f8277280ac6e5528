"""What a machine has beside a PC's devices, where its configuration asks for it."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..config import MachineConfig
from ..console.console import Console
from ..devices.clock import Clock
from ..devices.errors import DeviceError
from ..devices.serial import Serial
from ..errors import ConfigError, KvmError
from ..event_loop import EventLoop
from ..memory import GuestMemory
from .device_manager import DeviceManager
from .outcomes import Outcomes
from .state import RunState

if TYPE_CHECKING:  # one machine has this, another that
    from collections.abc import Callable

    from ..agent.port import AgentPort
    from ..devices.device_io import DeviceIo
    from ..devices.virtio.device import VirtioDevice
    from ..guest.ports import CommandPort
    from ..vsock.vsock import Vsock
    from .balloon import Balloon


class Extras:
    """Those of them that others have to do with; `plug` makes and plugs in all."""

    command: "CommandPort | None" = None
    agent: "AgentPort | None" = None
    debugcon: Console | None = None
    balloon: "Balloon | None" = None
    vsock: "Vsock | None" = None

    def __init__(
        self,
        config: MachineConfig,
        devices: DeviceManager,
        outcomes: Outcomes,
        console: Console,
        serial: Serial,
        plug: "Callable[[DeviceIo | VirtioDevice], None]",
    ) -> None:
        """`serial` is ttyS0, and `plug` the machine's, for all kinds of devices."""
        self._config = config
        self._devices = devices
        self._outcomes = outcomes
        self._console = console
        self._serial = serial
        self._plug = plug
        self.ports: dict[str, Console] = {}
        """Those with names, by them."""

    def plug(
        self,
        loop: EventLoop,
        clock: Clock,
        state: RunState,
        memory: GuestMemory,
        stack: ExitStack,
    ) -> None:
        """Raises ConfigError. `stack` closes what was opened."""
        config = self._config
        if config.command is not None and config.command.runs:
            self._plug_command_port(loop, stack)
        if config.agent:
            self._plug_agent(clock, state, memory)
        if config.debug_exit is not None:
            from ..devices.pc.isa_debug_exit import IsaDebugExit

            exit_ = IsaDebugExit(self._outcomes.debug_exit, config.debug_exit)
            self._add("debug_exit", exit_)
        if config.debugcon is not None:
            self._plug_debugcon(loop, stack)
        if (
            config.console_device == "virtio"
            or config.ports
            or config.rng
            or config.balloon is not None
            or config.vsock is not None
        ):
            self._plug_virtio_devices(loop, clock, state, memory, stack)

    def _plug_virtio_devices(
        self,
        loop: EventLoop,
        clock: Clock,
        state: RunState,
        memory: GuestMemory,
        stack: ExitStack,
    ) -> None:
        from .virtio_extras import VirtioExtras

        config, virtio = self._config, VirtioExtras(self._config, self._add)
        if config.console_device == "virtio":
            virtio.plug_console(self._console, self._serial, loop, state.after_accesses)
        if config.ports:
            virtio.plug_ports(loop, self._outcomes.write_failed, stack)
        if config.rng:
            virtio.plug_rng(clock)
        if config.balloon is not None:
            virtio.plug_balloon(memory, config.balloon)
        if config.vsock is not None:
            virtio.plug_vsock(loop, stack)
        self.ports, self.balloon = virtio.ports, virtio.balloon
        self.vsock = virtio.vsock

    def _plug_command_port(self, loop: EventLoop, stack: ExitStack) -> None:
        from ..guest.ports import CommandPort

        command, outcomes = self._config.command, self._outcomes
        assert command is not None
        self.command = CommandPort(
            loop,
            command.capture,
            self._config.console,
            outcomes.write_failed,
            outcomes.command_ended,
        )
        for device in self.command.devices:
            self._devices.add(device)
        if self.command.output is not None:
            stack.callback(self.command.output.close)

    def _plug_agent(self, clock: Clock, state: RunState, memory: GuestMemory) -> None:
        from ..agent.port import AgentPort
        from ..vcpu.virtual_memory import read_virtual

        def read_caller(size: int) -> bytes:
            """Up to `size` bytes where rsi points, for a device, in an access to it."""
            vcpu = state.own_vcpu()
            if vcpu is None:
                return b""
            try:
                return read_virtual(vcpu, memory, vcpu.get_regs().rsi, size)
            except KvmError:
                return b""

        self.agent = AgentPort(clock, read_caller)
        for device in self.agent.devices:
            self._add("agent", device)

    def _plug_debugcon(self, loop: EventLoop, stack: ExitStack) -> None:
        from ..devices.pc.debugcon import Debugcon

        assert self._config.debugcon is not None
        settings = self._config.console.replace(
            serial=self._config.debugcon,
            serial_policy="drop",  # its driver never asks whether there is room
            tee=(),
        )
        fail = self._outcomes.write_failed
        console = self.debugcon = Console(loop, settings, fail, field="debugcon")
        console.owner = "the debug console"
        stack.callback(console.close)
        self._add("debugcon", Debugcon(console.sink))

    def _add(self, field: str, device: "DeviceIo | VirtioDevice") -> None:
        """Plug in what `field` of the configuration asks for.

        Raises ConfigError with its name where another device has the ports.
        """
        try:
            self._plug(device)
        except DeviceError as error:
            raise ConfigError(f"{field}: {error}") from None
