"""Wiring: what KVM itself does for one device: interrupts, doorbells, posted writes."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from .devices.device_io import DeviceIo
from .devices.doorbell import Doorbell
from .errors import ConfigError
from .event_loop import READ, EventLoop
from .eventfd import EventFd, EventFdTrigger
from .kvm.vm import Vm

IOAPIC_PINS: Final = 24


class Wiring:
    """One device's wires, to be connected to one VM after the other.

    `triggers` are its interrupt lines, in the order of `gsis`. What rings is told
    to the device on the event loop's thread.
    """

    def __init__(self, gsis: Iterable[int], loop: EventLoop) -> None:
        """Raises ConfigError for an interrupt that the IOAPIC hasn't got."""
        self.gsis = list(gsis)
        for gsi in self.gsis:
            if gsi >= IOAPIC_PINS:
                raise ConfigError(f"interrupt {gsi} is an MSI, which needs a PCI bus")
        self.triggers = [EventFdTrigger() for _ in self.gsis]
        self._loop = loop
        self._bells: list[tuple[EventFd, Doorbell]] = []
        self._posted: list[int] = []
        self._undo: list[Callable[[], None]] = []
        self._undo_posted: list[Callable[[], None]] = []

    def take_accesses(self, device: DeviceIo, posts: bool) -> None:
        """Find out which accesses KVM is to take over, once resources are assigned."""
        for bell in device.get_doorbells():
            event = EventFd()
            self._bells.append((event, bell))
            watch = partial(
                self._loop.watch, event.fd, READ, partial(_ring, event, bell)
            )
            self._loop.call_soon(watch)
        if posts:
            fast = device.get_fast_ports().items()
            self._posted = [port for port, fast_port in fast if fast_port.posted]

    def connect(self, vm: Vm) -> None:
        """Tell the VM of every wire."""
        for gsi, trigger in zip(self.gsis, self.triggers, strict=True):
            fd = trigger.eventfd.fd
            vm.assign_irqfd(fd, gsi)
            self._undo.append(partial(vm.deassign_irqfd, fd, gsi))
        for event, bell in self._bells:
            vm.assign_ioeventfd(event.fd, bell)
            self._undo.append(partial(vm.deassign_ioeventfd, event.fd, bell))
        for port in self._posted:
            vm.register_coalesced_pio(port)
            self._undo_posted.append(partial(vm.unregister_coalesced_pio, port))

    def disconnect(self, *, vm_goes: bool = False) -> None:
        """Cut the wires from the VM, which still exists. Idempotent.

        One that goes takes its posted ports along: to unregister one takes 4 ms.
        """
        while self._undo_posted:
            undo = self._undo_posted.pop()
            if not vm_goes:
                undo()
        while self._undo:
            self._undo.pop()()

    def close(self) -> None:
        """Close the interrupt lines at once, the doorbells when the loop has let go."""
        self.disconnect()
        for trigger in self.triggers:
            trigger.close()
        for event, _ in self._bells:
            self._loop.forget(event.fd, event.close)
        self._bells.clear()


def _ring(event: EventFd, bell: Doorbell) -> None:
    event.drain()
    bell.on_ring()
