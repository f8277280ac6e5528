"""DeviceManager: from a device object to one the guest can reach, and back.

The flow is dbs-device's: create the device, ask its constraints, allocate,
assign, ask which ranges it wants trapped, register.
"""

import threading
from contextlib import ExitStack

from ..devices.acpi_device import AcpiDevice
from ..devices.bus.io_manager import IoManager, IoManagerContext
from ..devices.bus.resource_manager import ResourceManager
from ..devices.device_io import DeviceIo
from ..devices.errors import NoDevice
from ..devices.resources import DeviceResources
from ..errors import ConfigError
from ..event_loop import EventLoop
from ..kvm.vm import Vm
from .kvm_wiring import Wiring
from .level_lines import LevelLines
from .video_window import VideoWindow


class DeviceManager:
    """Owns the devices' resources and what KVM does for them. Thread-safe.

    While a VM is powered on, a device's interrupt lines are irqfds in it or, if they
    are level-triggered, IRQ lines; its doorbells are ioeventfds, and with `posts` its
    posted ports are coalesced.
    """

    def __init__(
        self,
        resource_manager: ResourceManager,
        io_manager: IoManager,
        loop: EventLoop,
        *,
        posts: bool = False,
    ) -> None:
        self._resource_manager = resource_manager
        self.io_manager = io_manager
        self._loop = loop
        self._posts = posts
        self._io_context = IoManagerContext(io_manager)
        self._wirings: dict[DeviceIo, Wiring] = {}
        self._lines = LevelLines()
        self._vm: tuple[Vm, VideoWindow] | None = None
        self._lock = threading.Lock()

    def add(self, device: DeviceIo) -> None:
        """Plug a device in; the guest sees all of its ranges at once.

        Raises ResourceError, DeviceOverlap or ConfigError; then nothing has
        changed.
        """
        with self._lock, ExitStack() as undo:
            if device in self._wirings:
                raise ConfigError(f"{type(device).__name__} is plugged in already")

            constraints = device.get_resource_constraints()

            resources = self._resource_manager.allocate_device_resources(constraints)
            undo.callback(self._resource_manager.free_device_resources, resources)

            wiring = Wiring(resources, self._loop, self._lines)
            undo.callback(wiring.close)
            undo.callback(device.assign_resources, DeviceResources(), [])
            device.assign_resources(resources, wiring.interrupts)

            trapped = device.get_trapped_io_resources()

            with self._io_context.transaction() as tx:
                self._io_context.register_device_io(tx, device, trapped)
                wiring.take_accesses(device, trapped, self._posts)
                if self._vm is not None:
                    wiring.connect(*self._vm)
            self._wirings[device] = wiring
            undo.pop_all()

    def remove(self, device: DeviceIo) -> None:
        """Unplug a device: off the bus, its lines cut, its resources free again.

        A vCPU that is inside the device at this moment finishes its access.
        Raises NoDevice if it isn't plugged in.
        """
        with self._lock:
            if device not in self._wirings:
                raise NoDevice(f"{type(device).__name__} is not plugged in")
            with self._io_context.transaction() as tx:
                self._io_context.unregister_device_io(
                    tx, device.get_trapped_io_resources()
                )
            resources = device.get_assigned_resources()
            device.assign_resources(DeviceResources(), [])
            self._wirings.pop(device).close()
            self._resource_manager.free_device_resources(resources)

    def power_on(self, vm: Vm, video: VideoWindow) -> None:
        """Connect every device to a new VM."""
        with self._lock:
            self._vm = vm, video
            self._lines.connect(vm)
            for wiring in self._wirings.values():
                wiring.connect(vm, video)

    def power_off(self) -> None:
        """Disconnect them: the VM is about to go."""
        with self._lock:
            for wiring in self._wirings.values():
                wiring.disconnect(vm_goes=True)
            self._lines.disconnect()
            self._vm = None

    def level_irqs(self) -> set[int]:
        """The lines that are level-triggered, as those who have them have asked."""
        with self._lock:
            return {
                irq
                for device in self._wirings
                for irq in device.get_assigned_resources().get_level_irqs()
            }

    def reports(self) -> list[str]:
        """What the devices have to say about a crash or a hang; never raises."""
        with self._lock:
            return [line for device in self._wirings if (line := _report_of(device))]

    def acpi_devices(self) -> list[AcpiDevice]:
        """How the devices that are plugged in now describe themselves, in order."""
        with self._lock:
            return [
                described
                for device in self._wirings
                for described in device.get_acpi_devices()
            ]

    def reset(self) -> None:
        """Return every device to its power-on state."""
        with self._lock:
            for device in self._wirings:
                device.reset()

    def close(self) -> None:
        """Close what was opened for the devices; their interrupts go nowhere then."""
        with self._lock:
            for wiring in self._wirings.values():
                wiring.close()
            self._wirings.clear()


def _report_of(device: DeviceIo) -> str:
    try:
        return str(device.get_report() or "")  # whatever it is
    except Exception as error:  # a user's: it is no reason to lose the others
        return f"{type(device).__name__} has no report: {type(error).__name__}: {error}"
