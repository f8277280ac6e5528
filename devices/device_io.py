"""DeviceIo: what a device shows to the bus. dbs-device's traits in Python.

Deriving from :class:`DeviceIo` is all a device needs: override the accesses it
answers and the constraints it has. The rest has defaults that do nothing. A
device that would rather not think of threads derives from
:class:`DeviceIoMut`, and :class:`Locked` turns it into a DeviceIo.
"""

import threading
from typing import TYPE_CHECKING

from .resources import DeviceResources
from .state import refuse_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from .acpi_device import AcpiDevice
    from .doorbell import Doorbell
    from .fast_port import FastPort
    from .resources import ResourceConstraint
    from .state import State
    from .trigger import Interrupt


class _Callbacks:
    """What DeviceIo and DeviceIoMut have in common: all but who locks.

    An access names the `base` of the trapped range that was hit, the `offset`
    into it, and `data`: 1, 2, 4 or 8 bytes, little-endian, that lie wholly
    within the range. A read must fill all of `data`, which is only valid
    during the call. Nothing a guest passes may make an access raise: a device
    that raises ends the run, as the bug of ours or of the user's that it is.
    """

    resources: "DeviceResources | None" = None
    interrupts: "Sequence[Interrupt]" = ()
    is_pci: bool = False
    """Whether it is a function on a PCI bus, as PciDevice's heirs are."""
    own_thread: bool = False
    """Whether its doorbells ring on a thread of its own, beside the event loop's: for
    one that works long, or waits, when they do. Asked when it is plugged in."""
    call_soon: "Callable[[Callable[[], None]], None] | None" = None
    """Calls something on that thread as soon as it is free, once it is plugged in."""

    def read(self, base: int, offset: int, data: memoryview) -> None:
        """MMIO read of `len(data)` bytes at `base + offset`. Default: all ones."""
        data[:] = b"\xff" * len(data)

    def write(self, base: int, offset: int, data: memoryview) -> None:
        """MMIO write of `data` at `base + offset`. Default: ignored."""

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        """Port read of `len(data)` bytes at `base + offset`. Default: all ones."""
        data[:] = b"\xff" * len(data)

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        """Port write of `data` at `base + offset`. Default: ignored."""

    def get_resource_constraints(self) -> "Sequence[ResourceConstraint]":
        """What the device needs allocated before it can be registered."""
        return ()

    def assign_resources(
        self, resources: "DeviceResources", interrupts: "Sequence[Interrupt]"
    ) -> None:
        """Take what was allocated, and one Interrupt for each that is in it.

        The order is that of `DeviceResources.get_interrupts`: an MSI block of
        size n gives n. An unplugged device is given nothing, once no access and no
        ring is in it any more; on a thread of the host's.
        """
        self.resources = resources
        self.interrupts = interrupts

    def get_assigned_resources(self) -> "DeviceResources":
        """All resources assigned to the device; none before the assignment."""
        return DeviceResources() if self.resources is None else self.resources

    def get_trapped_io_resources(self) -> "DeviceResources":
        """The PIO and MMIO ranges to be trapped. Default: the assigned ones."""
        return self.get_assigned_resources()

    def get_fast_ports(self) -> "Mapping[int, FastPort]":
        """Trapped ports that a run loop may serve by itself. Default: none."""
        return {}

    def get_doorbells(self) -> "Sequence[Doorbell]":
        """Trapped writes that need no answer, for KVM to signal. Default: none."""
        return ()

    def get_kernel_parameters(self) -> "Sequence[str]":
        """Words for Linux's command line that tell it of the device. Default: none."""
        return ()

    def get_author_device(self) -> object:
        """What its author has written, where this stands before it. Default: this."""
        return self

    def get_report(self) -> str:
        """A line for the report of a crash or a hang. Default: none, ""."""
        return ""

    def get_acpi_devices(self) -> "Sequence[AcpiDevice]":
        """How ACPI tables describe it; asked at each power-on. Default: not at all."""
        return ()

    def reset(self) -> None:
        """Return to the power-on state: the machine is about to boot again."""

    def state(self) -> "State | None":
        """All that a guest could tell of the device. Default: None, nothing is kept.

        Called while the vCPUs stand still, and changes nothing that a guest sees. Not
        in it: counters for the host's eyes, what the host has taken already (a Sink's
        bytes), who listens, and the resources, which the machine assigns.
        """
        return None

    def restore(self, state: "State | None") -> None:
        """Go on from what `state` of such a device gave, whatever was before.

        Called while the vCPUs stand still, with resources assigned and interrupt
        controllers restored already. What neither of them keeps is the device's: it
        raises one edge again for each interrupt whose cause still holds (its driver
        has to stand one too many), sets each line of a level as it is in the state,
        high or low, lets its timers run for the time that was left, and begins with
        fast ports that nothing has been written to.

        Raises InvalidState, with nothing changed, for what is no state of such a
        device. Default: for all but None. Raises TriggerError for an interrupt that
        can't be delivered, with everything done but that.
        """
        refuse_state(self, state)


class DeviceIo(_Callbacks):
    """A device that is safe to call from several vCPU threads at once.

    One that keeps something says so by `state` and `restore`, and so is in a
    snapshot of its machine:

    >>> from vmm.devices import Byte, State
    >>> class LatchState(State):
    ...     value: Byte
    >>> class Latch(DeviceIo):
    ...     value = 0
    ...
    ...     def pio_write(self, base, offset, data):
    ...         self.value = data[0]
    ...
    ...     def state(self):
    ...         return LatchState(self.value)
    ...
    ...     def restore(self, state):
    ...         self.value = LatchState.of(state).value
    >>> latch, copy = Latch(), Latch()
    >>> latch.pio_write(0, 0, memoryview(b"*"))
    >>> saved = latch.state().to_json()
    >>> saved
    {'value': 42}
    >>> copy.restore(LatchState.from_json(saved))
    >>> copy.value
    42
    >>> copy.restore(LatchState.from_json({"value": 256}))
    Traceback (most recent call last):
        ...
    vmm.devices.errors.InvalidState: LatchState.value is 256: it must be 0..0xff
    """


class DeviceIoMut(_Callbacks):
    """A device that must be called by one thread at a time; see :class:`Locked`."""


class Locked(DeviceIo):
    """A DeviceIo made of a DeviceIoMut and a lock that every call takes.

    Whoever reaches `device` other than through this object holds `lock`. The
    default lock is reentrant, so that a device may call what calls it back.
    """

    def __init__(
        self,
        device: DeviceIoMut,
        lock: "AbstractContextManager[object] | None" = None,
    ) -> None:
        self.device = device
        self.lock = threading.RLock() if lock is None else lock
        self.own_thread = device.own_thread

    @property
    def call_soon(self) -> "Callable[[Callable[[], None]], None] | None":
        """The device's."""
        return self.device.call_soon

    @call_soon.setter
    def call_soon(
        self, call_soon: "Callable[[Callable[[], None]], None] | None"
    ) -> None:
        self.device.call_soon = call_soon

    def read(self, base: int, offset: int, data: memoryview) -> None:
        with self.lock:
            self.device.read(base, offset, data)

    def write(self, base: int, offset: int, data: memoryview) -> None:
        with self.lock:
            self.device.write(base, offset, data)

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        with self.lock:
            self.device.pio_read(base, offset, data)

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        with self.lock:
            self.device.pio_write(base, offset, data)

    def get_resource_constraints(self) -> "Sequence[ResourceConstraint]":
        with self.lock:
            return self.device.get_resource_constraints()

    def assign_resources(
        self, resources: "DeviceResources", interrupts: "Sequence[Interrupt]"
    ) -> None:
        with self.lock:
            super().assign_resources(resources, interrupts)
            self.device.assign_resources(resources, interrupts)

    def get_assigned_resources(self) -> "DeviceResources":
        with self.lock:
            return self.device.get_assigned_resources()

    def get_trapped_io_resources(self) -> "DeviceResources":
        with self.lock:
            return self.device.get_trapped_io_resources()

    def get_fast_ports(self) -> "Mapping[int, FastPort]":
        with self.lock:
            return self.device.get_fast_ports()

    def get_doorbells(self) -> "Sequence[Doorbell]":
        with self.lock:
            bells = self.device.get_doorbells()
        return [bell.replace(on_ring=self._locked(bell.on_ring)) for bell in bells]

    def _locked(self, ring: "Callable[[], None]") -> "Callable[[], None]":
        def locked() -> None:
            with self.lock:
                ring()

        return locked

    def get_kernel_parameters(self) -> "Sequence[str]":
        with self.lock:
            return self.device.get_kernel_parameters()

    def get_author_device(self) -> object:
        return self.device

    def get_report(self) -> str:
        with self.lock:
            return self.device.get_report()

    def get_acpi_devices(self) -> "Sequence[AcpiDevice]":
        with self.lock:
            return self.device.get_acpi_devices()

    def reset(self) -> None:
        with self.lock:
            self.device.reset()

    def state(self) -> "State | None":
        with self.lock:
            return self.device.state()

    def restore(self, state: "State | None") -> None:
        with self.lock:
            self.device.restore(state)
