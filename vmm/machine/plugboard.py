"""Plugboard: where each kind of device is plugged in: a bus, a slot, a transport."""

from typing import TYPE_CHECKING, cast

from ..devices.device_io import DeviceIo
from ..devices.errors import InvalidDevice
from ..devices.record import Record
from ..errors import ConfigError
from .builder import SavedBoot
from .state import MachineState

if TYPE_CHECKING:  # most machines have no use for the last ones
    from collections.abc import Callable

    from ..config import MachineConfig
    from ..devices.clock import Clock
    from ..devices.pc.pci_config_ports import PciConfigPorts
    from ..devices.pci.device import PciDevice
    from ..devices.virtio.device import VirtioDevice
    from ..event_loop import EventLoop
    from ..memory import GuestMemory
    from ..vhost_user.device import VhostUserDevice
    from .builder import Boot
    from .device_manager import DeviceManager
    from .pci import Pci
    from .saved_vm import SavedVm
    from .state import RunState
    from .virtio import Virtio


class Board(Record):
    """What devices come to meet: the buses, the guest's RAM and time, the loop.

    `boot` is that of a kernel, or of what the clone's guest had, of which `saved` is
    the rest; `warn` tells the machine's user; `ports` are 0xCF8's.
    """

    config: "MachineConfig"
    devices: "DeviceManager"
    ports: "PciConfigPorts"
    memory: "GuestMemory"
    boot: "Boot | SavedBoot"
    saved: "SavedVm | None"
    clock: "Clock"
    loop: "EventLoop"
    state: "RunState"
    warn: "Callable[[str], None]"


class Plugboard:
    """A machine's; see `Machine.plug` and `unplug`, which are these."""

    def __init__(self, board: Board) -> None:
        self.served: list[VhostUserDevice] = []
        """Those whose queues another process serves."""
        self._board = board
        self._pci: Pci | None = self._new_pci() if board.config.pci else None
        self._virtio: Virtio | None = None

    @property
    def has_pci(self) -> bool:
        """Whether there is a PCI bus, though nobody may be left in it."""
        return self._pci is not None

    def hints(self) -> list[str]:
        """Which virtio devices no driver has looked for, and why that may be."""
        return [] if self._virtio is None else self._virtio.hints()

    def close(self) -> None:
        """Let go of the processes that serve devices. Idempotent."""
        for served in self.served:
            served.close()

    def plug(self, device: "DeviceIo | VirtioDevice") -> None:
        """Raises ResourceError, DeviceOverlap, InvalidDevice or ConfigError."""
        if isinstance(device, DeviceIo):
            self._plug(device)
            return
        _check_virtio(device)
        self._check_before_start(device.name, "virtio", "plugged in")
        virtio = self._transports()
        if device.is_elsewhere:
            served = cast("VhostUserDevice", device)
            self.served.append(served)
            served.join(self._board.memory, self._board.loop)
        virtio.plug(device, self._plug)

    def _plug(self, device: DeviceIo) -> None:
        if not device.is_pci:
            self._board.devices.add(device)
            return
        self._check_before_start(type(device).__name__, "PCI", "plugged in")
        if self._pci is None:
            self._pci = self._new_pci(device)
        self._pci.plug(cast("PciDevice", device))

    def unplug(self, device: "DeviceIo | VirtioDevice") -> None:
        """Raises NoDevice, InvalidDevice, ConfigError or VmmError."""
        if isinstance(device, DeviceIo):
            self._unplug(device)
            return
        _check_virtio(device)
        virtio = self._transports()
        transport = virtio.transport_of(device)
        self._check_not_running(device.name, "virtio")
        self._unplug(transport)
        virtio.forget(device)

    def _unplug(self, device: DeviceIo) -> None:
        if not device.is_pci or self._pci is None:
            self._board.devices.remove(device)
            return
        self._check_not_running(type(device).__name__, "PCI")
        self._pci.unplug(cast("PciDevice", device))

    def _check_before_start(self, name: str, kind: str, what: str) -> None:
        if self._board.state.state is not MachineState.CREATED:
            raise ConfigError(
                f"{name} is a {kind} device, which can be {what} before the machine "
                "starts only: there is no hotplug"
            )

    def _check_not_running(self, name: str, kind: str) -> None:
        if self._board.state.state is not MachineState.ENDED:
            self._check_before_start(name, kind, "unplugged")

    def _transports(self) -> "Virtio":
        if self._virtio is None:
            from .virtio import Virtio, way_of, way_to

            board = self._board
            if isinstance(board.boot, SavedBoot):
                assert board.saved is not None
                way = way_of(board.saved, board.boot)
            else:
                way = way_to(board.config, board.boot)
            self._virtio = Virtio(board.memory, board.clock, board.warn, way)
        return self._virtio

    def _new_pci(self, device: DeviceIo | None = None) -> "Pci":
        """For the configuration, or for a `device`, which it may forbid."""
        board = self._board
        if device is not None and board.config.pci is False:
            raise ConfigError(
                f"pci: it is False, and {type(device).__name__} is a PCI device: leave "
                "it out, or pass True"
            )
        from .pci import Pci

        return Pci(board.devices, board.ports, board.memory, board.boot.ram)


def _check_virtio(device: object) -> None:
    from ..devices.virtio.device import VirtioDevice

    if not isinstance(device, VirtioDevice):
        raise InvalidDevice(
            f"{device!r} is no device: derive it from DeviceIo, PciDevice or "
            "VirtioDevice, or wrap a DeviceIoMut in Locked"
        )
