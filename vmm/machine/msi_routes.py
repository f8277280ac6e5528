"""Message-signalled interrupts: KVM's routing table, and an irqfd for each of them.

A message is a number of the table (a GSI), beyond those of the IOAPIC's pins; an irqfd
makes an eventfd send it, with no exit and no Python on the way. The whole table is
given to KVM at once (KVM_SET_GSI_ROUTING, API 4.52), which waits for a grace period, up
to milliseconds. A machine whose devices never use one makes no such call.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from ..boot.layout import LAPIC, MIB
from ..devices.errors import TriggerError
from ..errors import KvmError
from ..eventfd import EventFdTrigger
from ..kvm.abi import (
    KVM_IOAPIC_NUM_PINS,
    KVM_IRQ_ROUTING_IRQCHIP,
    KVM_IRQ_ROUTING_MSI,
    KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    kvm_irq_routing_entry,
)
from ..kvm.vm import Vm

_PIC_PINS: Final = 8
_LOW: Final = (1 << 32) - 1


class MsiRoutes:
    """The messages of one machine, connected to one VM after the other. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vm: Vm | None = None
        self._messages: dict[MsiTrigger, tuple[int, int]] = {}
        self._wired: set[_Wire] = set()  # what has an irqfd in this VM
        self._held = 0  # who is in `together`
        self._late: set[MsiTrigger] = set()  # which were triggered meanwhile
        self._is_stale = False  # the VM's table isn't what it is to be

    def connect(self, vm: Vm) -> None:
        """Tell a new VM, which has KVM's own table, of all messages."""
        with self._lock:
            self._vm = vm
            self._wired.clear()
            self._is_stale = bool(self._messages)
            self._settle()

    def disconnect(self) -> None:
        """The VM is about to go, and takes its irqfds along.

        To take each away would be another grace period.
        """
        with self._lock:
            self._vm = None
            self._wired.clear()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is routed in the ``with`` takes effect at its end, as one change.

        What is triggered in it comes then, where its route leads. Raises KvmError.
        """
        with self._lock:
            self._held += 1
        try:
            yield
        finally:
            with self._lock:
                self._held -= 1
                # Whoever else is in one: a guest that is always in some holds up none.
                late, self._late = self._late, set()
                try:
                    self._settle()
                finally:
                    for trigger in late:
                        trigger.fire()

    def hold_back(self, trigger: "MsiTrigger") -> bool:
        """Whether its edge has to wait for the end of `together`."""
        if not self._held:  # as nearly always
            return False
        with self._lock:
            if self._held:
                self._late.add(trigger)
            return bool(self._held)

    def route(self, trigger: "MsiTrigger", address: int, data: int) -> None:
        """Have `trigger` send `data` to `address` from now on. Raises KvmError."""
        with self._lock:
            message = address, data
            if trigger.is_cut:
                return
            if self._messages.get(trigger) != message:
                self._messages[trigger] = message
                self._is_stale = True
            if not self._held:
                self._settle()

    def _settle(self) -> None:
        """Bring the VM, if there is one, up to date."""
        if self._vm is None:
            return
        if self._is_stale:
            routes = [*_pin_routes(), *map(_route, self._messages.items())]
            self._vm.set_gsi_routing(routes)
            self._is_stale = False
        wires = {(trigger, fd) for trigger in self._messages for fd in trigger.fds}
        for trigger, fd in wires - self._wired:
            if fd == trigger.eventfd.fd:
                trigger.eventfd.drain()  # of edges that had nowhere to go
            self._vm.assign_irqfd(fd, trigger.gsi)
            self._wired.add((trigger, fd))

    def new_trigger(self, gsi: int) -> "MsiTrigger":
        """Message number `gsi`, which goes nowhere yet. Raises OSError."""
        return MsiTrigger(self, gsi)

    def flush(self, trigger: "MsiTrigger") -> None:
        """Let what it has told KVM reach the interrupt controllers; see Wiring.flush.

        KVM delivers most messages at once, and the others by its worker.
        """
        with self._lock:
            own = trigger, trigger.eventfd.fd
            if self._vm is not None and own in self._wired:
                self._vm.deassign_irqfd(trigger.eventfd.fd, trigger.gsi)
                self._vm.assign_irqfd(trigger.eventfd.fd, trigger.gsi)

    def listen(self, trigger: "MsiTrigger", fd: int) -> None:
        """Have an eventfd of somebody else's send it, too. Raises KvmError."""
        with self._lock:
            if not trigger.is_cut:
                trigger.fds.add(fd)
                if not self._held:
                    self._settle()

    def unlisten(self, trigger: "MsiTrigger", fd: int) -> None:
        """Undo it. Idempotent."""
        with self._lock:
            trigger.fds.discard(fd)
            self._unwire(trigger, fd)

    def _unwire(self, trigger: "MsiTrigger", fd: int) -> None:
        if (trigger, fd) in self._wired:
            self._wired.remove((trigger, fd))
            assert self._vm is not None
            self._vm.deassign_irqfd(fd, trigger.gsi)

    def cut(self, trigger: "MsiTrigger") -> None:
        """Its device goes. Idempotent.

        KVM's table has the route until that changes again, and nobody uses it.
        """
        with self._lock:
            trigger.is_cut = True
            self._messages.pop(trigger, None)
            for fd in trigger.fds:
                self._unwire(trigger, fd)


class MsiTrigger(EventFdTrigger):
    """A devices.MsiInterrupt: an eventfd that sends the message number `gsi`."""

    def __init__(self, routes: MsiRoutes, gsi: int) -> None:
        super().__init__()
        self._routes = routes
        self.gsi = gsi
        self.is_cut = False
        """For `routes`, under their lock."""
        self.fds = {self.eventfd.fd}
        """Likewise: the eventfds that send it."""

    def route(self, address: int, data: int) -> None:
        """As MsiInterrupt's. Raises TriggerError where no LAPIC is, or KVM refuses.

        On a PC such a write would go to RAM, or to another device.
        """
        if not LAPIC <= address < LAPIC + MIB:
            raise TriggerError(f"no CPU takes interrupts at {address:#x}")
        try:
            self._routes.route(self, address, data)
        except KvmError as error:
            raise TriggerError(f"MSI {self.gsi}: {error.strerror}") from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """As MsiInterrupt's."""
        try:
            with self._routes.together():
                yield
        except KvmError as error:
            raise TriggerError(f"MSIs: {error.strerror}") from error

    def trigger(self) -> None:
        """Send it, once it leads where it was routed to. Raises as EventFdTrigger's."""
        if not self._routes.hold_back(self):
            self.fire()

    def fire(self) -> None:
        """Send it now."""
        super().trigger()

    def listen(self, eventfd: int) -> None:
        """As MsiInterrupt's. Raises TriggerError where KVM refuses."""
        try:
            self._routes.listen(self, eventfd)
        except KvmError as error:
            self._routes.unlisten(self, eventfd)
            raise TriggerError(f"MSI {self.gsi}: {error.strerror}") from error

    def unlisten(self, eventfd: int) -> None:
        """As MsiInterrupt's."""
        self._routes.unlisten(self, eventfd)

    def flush(self) -> None:
        """As MsiRoutes.flush, if it was triggered since the last time."""
        if self.has_fired():
            self._routes.flush(self)

    def close(self) -> None:
        self._routes.cut(self)
        super().close()


_Wire: TypeAlias = tuple[MsiTrigger, int]
"""A message, and an eventfd that sends it."""


def _pin_routes() -> list[kvm_irq_routing_entry]:
    """KVM's own table: pin n is n of the IOAPIC and, up to 15, of the PICs.

    Source: default_routing in arch/x86/kvm/irq_comm.c of Linux.
    """
    routes = []
    for gsi in range(KVM_IOAPIC_NUM_PINS):
        if gsi < 2 * _PIC_PINS:
            pic = KVM_IRQCHIP_PIC_MASTER if gsi < _PIC_PINS else KVM_IRQCHIP_PIC_SLAVE
            routes.append(_pin_route(gsi, pic, gsi % _PIC_PINS))
        routes.append(_pin_route(gsi, KVM_IRQCHIP_IOAPIC, gsi))
    return routes


def _pin_route(gsi: int, chip: int, pin: int) -> kvm_irq_routing_entry:
    route = kvm_irq_routing_entry(gsi=gsi, type=KVM_IRQ_ROUTING_IRQCHIP)
    route.u.irqchip.irqchip = chip
    route.u.irqchip.pin = pin
    return route


def _route(item: tuple[MsiTrigger, tuple[int, int]]) -> kvm_irq_routing_entry:
    trigger, (address, data) = item
    route = kvm_irq_routing_entry(gsi=trigger.gsi, type=KVM_IRQ_ROUTING_MSI)
    route.u.msi.address_lo = address & _LOW
    route.u.msi.address_hi = address >> 32
    route.u.msi.data = data
    return route
