"""DeviceManager: from a device object to one the guest can reach, and back.

The flow is dbs-device's: create the device, ask its constraints, allocate,
assign, ask which ranges it wants trapped, register.
"""

import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from ..devices.acpi_device import AcpiDevice
from ..devices.bus.io_manager import IoManager, IoManagerContext
from ..devices.bus.resource_manager import ResourceManager
from ..devices.device_io import DeviceIo
from ..devices.errors import NoDevice
from ..devices.resources import DeviceResources
from ..errors import ConfigError, VmmError
from ..event_loop import EventLoop
from ..kvm.vm import Vm
from ..vcpu.control import RunControl
from .kvm_wiring import Wiring
from .level_lines import LevelLines
from .video_window import VideoWindow

if TYPE_CHECKING:
    from collections.abc import Callable

UNPLUG_S: Final = 10.0  # for what takes microseconds, but for a device that blocks


class _Departure:
    """A device that is off the bus, while somebody may still be in it."""

    def __init__(self, wiring: Wiring, *, is_awaited: bool) -> None:
        self.wiring = wiring
        self.is_awaited = is_awaited
        self.is_over = threading.Event()
        self.error: Exception | None = None  # for who awaits it


class DeviceManager:
    """Owns the devices' resources and what KVM does for them. Thread-safe.

    While a VM is powered on, a device's interrupt lines are irqfds in it or, if they
    are level-triggered, IRQ lines; its doorbells are ioeventfds, and with `posts` its
    posted ports are coalesced.

    One that is unplugged is off the bus at once, but keeps its interrupts and all that
    it was given until no vCPU and no callback of the loop's is in it any more.
    """

    def __init__(
        self,
        resource_manager: ResourceManager,
        io_manager: IoManager,
        loop: EventLoop,
        control: RunControl,
        *,
        posts: bool = False,
    ) -> None:
        self._resource_manager = resource_manager
        self.io_manager = io_manager
        self._loop = loop
        self._control = control
        self._posts = posts
        self._io_context = IoManagerContext(io_manager)
        self._wirings: dict[DeviceIo, Wiring] = {}
        self._departures: dict[DeviceIo, _Departure] = {}
        self._lines = LevelLines()
        self._vm: tuple[Vm, VideoWindow] | None = None
        self._lock = threading.RLock()  # a device may unplug in its reset
        self._resetting: int | None = None  # the thread that resets them

    def add(self, device: DeviceIo) -> None:
        """Plug a device in; the guest sees all of its ranges at once.

        Raises ResourceError, DeviceOverlap or ConfigError; then nothing has
        changed.
        """
        with self._lock, ExitStack() as undo:
            if device in self._wirings:
                raise ConfigError(f"{type(device).__name__} is plugged in already")
            if device in self._departures:
                raise ConfigError(f"{type(device).__name__} is still being unplugged")

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
                wiring.offload_accesses(device, trapped, self._posts)
                if self._vm is not None:
                    wiring.connect(*self._vm)
            self._wirings[device] = wiring
            undo.pop_all()

    def remove(self, device: DeviceIo) -> None:
        """Unplug a device: off the bus, its lines cut, its resources free again.

        Accesses in flight, posted writes and rings reach it as ever; when they are
        over it is told by `assign_resources` that it has nothing any more, on the
        event loop's thread. All of that has happened on return, unless a device calls
        it: in an access, a callback of the loop's, or its reset. Then the device is
        off the bus, and the rest follows soon; a callback of the loop's, which can't
        wait for a vCPU, loses the posted writes that KVM has collected by then.

        Raises NoDevice if it isn't plugged in, and VmmError if somebody is in a device
        for longer than UNPLUG_S: the rest follows when he comes out.
        """
        end = time.monotonic() + UNPLUG_S
        waits = not self._is_called_by_a_device()
        if waits:
            self._collect_posted(device, end)
        with self._lock:
            wiring = self._wiring_of(device)
            with self._io_context.transaction() as tx:
                self._io_context.unregister_device_io(
                    tx, device.get_trapped_io_resources()
                )
            del self._wirings[device]
            departure = _Departure(wiring, is_awaited=waits)
            self._departures[device] = departure
        self._when_nobody_is_inside(partial(self._release, device, departure))
        if waits:
            self._await(device, departure, end)

    def _is_called_by_a_device(self) -> bool:
        return (
            self._control.is_vcpu_thread()
            or self._loop.is_own_thread()
            or self._resetting == threading.get_ident()
        )

    def _wiring_of(self, device: DeviceIo) -> Wiring:
        if device not in self._wirings:
            raise NoDevice(f"{type(device).__name__} is not plugged in")
        return self._wirings[device]

    def _collect_posted(self, device: DeviceIo, end: float) -> None:
        """Have the device get what KVM has collected for it, while it is on the bus."""
        with self._lock:
            if not self._wiring_of(device).stop_posting():
                return
        collected = threading.Event()
        self._control.after_accesses(collected.set)
        collected.wait(end - time.monotonic())

    def _when_nobody_is_inside(self, callback: "Callable[[], None]") -> None:
        """Call it when nobody can be in a device that was taken off the bus before.

        It is called on the loop's thread, or wherever the last vCPU is if the loop
        doesn't run. For all that changes the buses: an address that moves, for one.
        """
        self._control.after_accesses(partial(self._loop.call, callback))

    def _release(self, device: DeviceIo, departure: _Departure) -> None:
        """Take away what the device has, which nobody is in."""
        wiring = departure.wiring
        try:
            with ExitStack() as stack:  # all of it, whatever a part raises
                stack.callback(self._take_back, device, wiring)
                stack.callback(wiring.deliver_rings)
                with self._lock:
                    wiring.disconnect()
        except Exception as error:
            if not departure.is_awaited:
                raise
            departure.error = error
        finally:
            departure.is_over.set()

    def _take_back(self, device: DeviceIo, wiring: Wiring) -> None:
        with self._lock, ExitStack() as stack:
            if self._departures.pop(device, None) is None:
                return  # closed
            resources = device.get_assigned_resources()
            stack.callback(self._resource_manager.free_device_resources, resources)
            stack.callback(wiring.close)
            device.assign_resources(DeviceResources(), [])

    def _await(self, device: DeviceIo, departure: _Departure, end: float) -> None:
        if not departure.is_over.wait(end - time.monotonic()):
            departure.is_awaited = False
            raise VmmError(
                f"{type(device).__name__} is off the bus, but a vCPU or the event loop "
                f"has not come out of a device for {UNPLUG_S:g} s: what it was given "
                "stays its own until then"
            )
        if departure.error is not None:
            raise departure.error

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
            for wiring in self._all_wirings():
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

    def plugged(self) -> list[DeviceIo]:
        """All that are plugged in now, the first one first."""
        with self._lock:
            return list(self._wirings)

    def flush(self) -> None:
        """Let interrupts that are under way reach KVM's controllers."""
        with self._lock:
            assert self._vm is not None
            for wiring in self._wirings.values():
                wiring.flush(self._vm[0])

    def put_back(self) -> None:
        """The VM is to go on from elsewhere: nothing of its former life may come later.

        Neither interrupts nor translations: where KVM shadows page tables, as on PVM,
        it isn't told of any that change under it, and would go on by those of before.
        """
        with self._lock:
            self.flush()
            assert self._vm is not None
            self._vm[1].renew()

    def reset(self) -> None:
        """Return every device to its power-on state."""
        with self._lock:
            self._resetting = threading.get_ident()
            try:
                for device in list(self._wirings):
                    device.reset()
            finally:
                self._resetting = None

    def close(self) -> None:
        """Close what was opened for the devices; their interrupts go nowhere then."""
        with self._lock:
            for wiring in self._all_wirings():
                wiring.close()
            for departure in self._departures.values():
                departure.is_over.set()
            self._wirings.clear()
            self._departures.clear()

    def _all_wirings(self) -> list[Wiring]:
        gone = (departure.wiring for departure in self._departures.values())
        return [*self._wirings.values(), *gone]


def _report_of(device: DeviceIo) -> str:
    try:
        return str(device.get_report() or "")  # whatever it is
    except Exception as error:  # a user's: it is no reason to lose the others
        return f"{type(device).__name__} has no report: {type(error).__name__}: {error}"
