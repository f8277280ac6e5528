"""DeviceManager: from a device object to one the guest can reach, and back.

The flow is dbs-device's: create the device, ask its constraints, allocate,
assign, ask which ranges it wants trapped, register.
"""

import threading
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

from ..devices.acpi_device import AcpiDevice
from ..devices.bus.io_manager import IoManager, IoManagerContext
from ..devices.bus.resource_manager import ResourceManager
from ..devices.device_io import DeviceIo
from ..devices.errors import DeviceOverlap, NoDevice
from ..devices.resources import DeviceResources
from ..errors import ConfigError, VmmError
from ..event_loop import EventLoop
from ..kvm.vm import Vm
from ..vcpu.control import RunControl
from .kvm_wiring import Wiring, class_name
from .level_lines import LevelLines
from .video_window import VideoWindow

if TYPE_CHECKING:  # most machines have no use for most of them
    from collections.abc import Callable, Iterable, Iterator

    from ..boot.pci_tables import PciTables
    from ..devices.resources import Resource
    from .device_threads import DeviceThreads
    from .msi_routes import MsiRoutes

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
    are level-triggered, IRQ lines; its messages are irqfds, too; its doorbells are
    ioeventfds, and with `posts` its posted ports are coalesced.

    One that is unplugged is off the bus at once, but keeps its interrupts and all that
    it was given until no vCPU and no callback of a loop's is in it any more.

    Lock order: `_lock`, a device's, `_bus_lock`: a device may move its ranges while it
    is called, and may be called while others are plugged in.
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
        self.pci: PciTables | None = None
        """What there is to tell a guest of a PCI bus, if there is one."""
        self._routes: MsiRoutes | None = None
        self._threads: DeviceThreads | None = None
        self._runs = False  # the loop, and so the devices' threads
        self._vm: tuple[Vm, VideoWindow] | None = None
        self._lock = threading.RLock()  # a device may unplug in its reset
        self._bus_lock = threading.RLock()  # for the buses, and the wires to the VM
        self._resetting: int | None = None  # the thread that resets them

    def add(self, device: DeviceIo) -> None:
        """Plug a device in; the guest sees all of its ranges at once.

        Raises ResourceError, DeviceOverlap, ConfigError or VmmError; then nothing has
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

            loop = self._loop_for(device, undo)
            wiring = self._new_wiring(device, resources, loop)
            undo.callback(wiring.close)
            undo.callback(device.assign_resources, DeviceResources(), [])
            device.assign_resources(resources, wiring.interrupts)

            trapped = device.get_trapped_io_resources()

            with self._bus_lock, self._io_context.transaction() as tx:
                self._io_context.register_device_io(tx, device, trapped)
                with _taking(device, "doorbells, which take a file descriptor each"):
                    wiring.offload_accesses(device, trapped, self._posts)
                if self._vm is not None:
                    wiring.connect(*self._vm)
            self._wirings[device] = wiring
            undo.pop_all()

    def _loop_for(self, device: DeviceIo, undo: ExitStack) -> EventLoop:
        if not device.own_thread:
            return self._loop
        if self._threads is None:
            from .device_threads import DeviceThreads

            self._threads = DeviceThreads(self._loop)
            if self._runs:
                self._threads.start()
        with _taking(device, "a thread of its own, which takes file descriptors"):
            loop = self._threads.new(device)
        undo.callback(self._threads.end, loop)
        device.call_soon = loop.call_soon
        return loop

    def _new_wiring(
        self, device: DeviceIo, resources: DeviceResources, loop: EventLoop
    ) -> Wiring:
        count = len(resources.get_interrupts())
        with _taking(device, f"{count} interrupts, which take a file descriptor each"):
            return Wiring(resources, loop, self._lines, self._msi_routes)

    def _msi_routes(self) -> "MsiRoutes":
        if self._routes is None:
            from .msi_routes import MsiRoutes

            self._routes = MsiRoutes()
            if self._vm is not None:
                self._routes.connect(self._vm[0])
        return self._routes

    def remap(
        self,
        device: DeviceIo,
        before: "Iterable[Resource]",
        after: "Iterable[Resource]",
    ) -> bool:
        """Move trapped ranges of a device's that is plugged in, in one instant.

        For the device to call, from within an access, too, with its own lock held. It
        is asked for its doorbells in this call, as they will be; accesses and rings in
        flight reach it as ever. False, with nothing changed, where `after` overlaps
        what others have, or the device isn't plugged in any more.
        """
        with self._bus_lock:
            wiring = self._wirings.get(device)
            if wiring is None or wiring.is_leaving:
                return False
            try:
                with self._io_context.transaction() as tx:
                    self._io_context.unregister_device_io(tx, before)
                    self._io_context.register_device_io(tx, device, after)
            except DeviceOverlap:
                return False
            vm = None if self._vm is None else self._vm[0]
            wiring.move_doorbells(device, vm)
            return True

    def replace(self, device: DeviceIo, other: DeviceIo) -> None:
        """Plug in `other` in a device's place, before a VM is powered on.

        In the order of all, too. Raises as `add`; then nothing has changed.
        """
        with self._lock:
            order = list(self._wirings)
            at = order.index(device)
            self.remove(device)
            try:
                self.add(other)
                order[at] = other
            except BaseException:
                self.add(device)
                raise
            finally:
                self._wirings = {each: self._wirings[each] for each in order}

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
            self._take_off_bus(device, wiring)
            departure = _Departure(wiring, is_awaited=waits)
            self._departures[device] = departure
        release = partial(self._release, device, departure)
        self._when_nobody_is_inside(wiring.loop, release)
        if waits:
            self._await(device, departure, end)

    def _take_off_bus(self, device: DeviceIo, wiring: Wiring) -> None:
        with self._bus_lock:
            wiring.is_leaving = True  # from here on it moves nothing
        try:
            trapped = device.get_trapped_io_resources()
            with self._bus_lock, self._io_context.transaction() as tx:
                self._io_context.unregister_device_io(tx, trapped)
                del self._wirings[device]
        except BaseException:
            wiring.is_leaving = False
            raise

    def _is_called_by_a_device(self) -> bool:
        return (
            self._control.is_vcpu_thread()
            or self._loop.is_own_thread()
            or self.is_own_thread()
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

    def _when_nobody_is_inside(
        self, loop: EventLoop, callback: "Callable[[], None]"
    ) -> None:
        """Call it when nobody can be in a device that was taken off the bus before.

        It is called on the loop's thread, or wherever the last vCPU is if the loop
        doesn't run. `loop` is where the device's doorbells ring.
        """
        last = partial(self._loop.call, callback)
        if loop is not self._loop:
            last = partial(loop.call, last)
        self._control.after_accesses(last)

    def _release(self, device: DeviceIo, departure: _Departure) -> None:
        """Take away what the device has, which nobody is in."""
        wiring = departure.wiring
        try:
            with ExitStack() as stack:  # all of it, whatever a part raises
                stack.callback(self._take_back, device, wiring)
                stack.callback(wiring.ring_out)
                with self._lock, self._bus_lock:
                    wiring.disconnect()
                self._stop_loop(wiring.loop)
        except Exception as error:
            if not departure.is_awaited:
                raise
            departure.error = error
        finally:
            departure.is_over.set()

    def _stop_loop(self, loop: EventLoop) -> None:
        """So that nothing rings any more, if it is a device's own."""
        if loop is not self._loop and not loop.is_own_thread():
            loop.stop()

    def _end_loop(self, loop: EventLoop) -> None:
        if loop is not self._loop:
            assert self._threads is not None
            self._threads.end(loop)

    def _take_back(self, device: DeviceIo, wiring: Wiring) -> None:
        with self._lock, ExitStack() as stack:
            if self._departures.pop(device, None) is None:
                return  # closed
            resources = device.get_assigned_resources()
            stack.callback(self._resource_manager.free_device_resources, resources)
            stack.callback(self._end_loop, wiring.loop)
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
        with self._lock, self._bus_lock:
            self._vm = vm, video
            self._lines.connect(vm)
            if self._routes is not None:
                self._routes.connect(vm)
            for wiring in self._wirings.values():
                wiring.connect(vm, video)

    def power_off(self) -> None:
        """Disconnect them: the VM is about to go."""
        with self._lock, self._bus_lock:
            for wiring in self._all_wirings():
                wiring.disconnect(vm_goes=True)
            self._lines.disconnect()
            if self._routes is not None:
                self._routes.disconnect()
            self._vm = None

    def start_threads(self) -> None:
        """The loop runs: so do the devices' own. Raises VmmError."""
        with self._lock:
            self._runs = True
            if self._threads is not None:
                self._threads.start()

    def stop_threads(self) -> None:
        """End them, while the loop still runs. Idempotent."""
        with self._lock:
            self._runs = False
        if self._threads is not None:
            self._threads.stop()

    def settle(self) -> None:
        """When no vCPU runs: wait until each is through with what had rung.

        They are quiet then, for as long as nobody rings.
        """
        if self._threads is not None:
            self._threads.settle()

    def is_own_thread(self) -> bool:
        """Whether the calling thread is that of a device."""
        return self._threads is not None and self._threads.is_own_thread()

    def routing_together(self) -> "AbstractContextManager[None]":
        """What devices route in the ``with`` becomes one change of KVM's table."""
        return nullcontext() if self._routes is None else self._routes.together()

    @property
    def shared_level_irq(self) -> int:
        """What a device gets that asks for any line of a level, as PCI's do."""
        return self._resource_manager.layout.shared_level_irq

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

    def kernel_parameters(self) -> list[str]:
        """What Linux's command line has of those that are plugged in now, in order."""
        with self._lock:
            return [
                word
                for device in self._wirings
                for word in device.get_kernel_parameters()
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
        self.stop_threads()
        with self._lock, self._bus_lock:
            for wiring in self._all_wirings():
                wiring.close()
            for departure in self._departures.values():
                departure.is_over.set()
            self._wirings.clear()
            self._departures.clear()
        if self._threads is not None:
            self._threads.close()

    def _all_wirings(self) -> list[Wiring]:
        gone = (departure.wiring for departure in self._departures.values())
        return [*self._wirings.values(), *gone]


@contextmanager
def _taking(device: DeviceIo, what: str) -> "Iterator[None]":
    """There may be no descriptors left: raises VmmError with the remedy."""
    try:
        yield
    except OSError as error:
        text = f"{class_name(device)}: {what}: {error.strerror} (ulimit -n)"
        raise VmmError(text) from None


def _report_of(device: DeviceIo) -> str:
    try:
        return str(device.get_report() or "")  # whatever it is
    except Exception as error:  # a user's: it is no reason to lose the others
        return f"{type(device).__name__} has no report: {type(error).__name__}: {error}"
