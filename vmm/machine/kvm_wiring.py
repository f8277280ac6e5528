"""Wiring: what KVM itself does for one device: interrupts, doorbells, posted writes."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from ..boot.layout import VIDEO
from ..devices.device_io import DeviceIo
from ..devices.doorbell import Doorbell
from ..devices.resources import DeviceResources
from ..errors import ConfigError
from ..event_loop import READ, EventLoop
from ..eventfd import EventFd, EventFdTrigger
from ..kvm.vm import Vm
from .level_lines import LevelInterrupt, LevelLines
from .video_window import VideoWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..devices.trigger import Interrupt

IOAPIC_PINS: Final = 24


class Wiring:
    """One device's wires, to be connected to one VM after the other.

    `interrupts` are its lines, in the order of its resources. What rings is told to
    the device on the event loop's thread.
    """

    def __init__(
        self, resources: DeviceResources, loop: EventLoop, lines: LevelLines
    ) -> None:
        """Raises ConfigError for an interrupt that the IOAPIC hasn't got."""
        levels = resources.get_level_irqs()
        gsis = resources.get_interrupts()
        for gsi in gsis:
            if gsi >= IOAPIC_PINS:
                raise ConfigError(f"interrupt {gsi} is an MSI, which needs a PCI bus")
        self.interrupts: list[Interrupt] = []
        self._edges: list[tuple[int, EventFdTrigger]] = []
        self._levels: list[LevelInterrupt] = []
        for gsi in gsis:
            if gsi in levels:
                self._levels.append(LevelInterrupt(lines, gsi))
                self.interrupts.append(self._levels[-1])
            else:
                self._edges.append((gsi, EventFdTrigger()))
                self.interrupts.append(self._edges[-1][1])
        self._loop = loop
        self._bells: list[tuple[EventFd, Doorbell]] = []
        self._posted: list[int] = []
        self._has_video = False
        self._undo: list[Callable[[], None]] = []
        self._undo_posts: list[Callable[[], None]] = []
        self._undo_if_vm_stays: list[Callable[[], None]] = []

    def offload_accesses(
        self, device: DeviceIo, trapped: DeviceResources, posts: bool
    ) -> None:
        """Find out which accesses KVM is to take over, once resources are assigned."""
        for bell in device.get_doorbells():
            event = EventFd()
            self._bells.append((event, bell))
            self._loop.call_soon(partial(self._watch, event, bell))
        if posts:
            fast = device.get_fast_ports().items()
            self._posted = [port for port, fast_port in fast if fast_port.posted]
        video_end = VIDEO.guest_addr + VIDEO.size
        self._has_video = any(
            base < video_end and VIDEO.guest_addr < base + size
            for base, size in trapped.get_mmio_address_ranges()
        )

    def connect(self, vm: Vm, video: VideoWindow) -> None:
        """Tell the VM of every wire but those of level-triggered lines."""
        if self._has_video:
            video.open()
            self._undo_if_vm_stays.append(video.close)
        for gsi, trigger in self._edges:
            fd = trigger.eventfd.fd
            vm.assign_irqfd(fd, gsi)
            self._undo.append(partial(vm.deassign_irqfd, fd, gsi))
        for event, bell in self._bells:
            vm.assign_ioeventfd(event.fd, bell)
            self._undo.append(partial(vm.deassign_ioeventfd, event.fd, bell))
        for port in self._posted:
            vm.register_coalesced_pio(port)
            self._undo_posts.append(partial(vm.unregister_coalesced_pio, port))

    def flush(self, vm: Vm) -> None:
        """Let what its edges have told KVM reach the interrupt controllers.

        KVM injects them by a worker of its own, for which taking one away waits; and
        for a grace period, milliseconds on a busy host, so that only those that may be
        under way are.
        """
        for gsi, trigger in self._edges:
            if not trigger.has_fired():
                continue
            vm.deassign_irqfd(trigger.eventfd.fd, gsi)
            vm.assign_irqfd(trigger.eventfd.fd, gsi)

    def stop_posting(self) -> bool:
        """Let KVM collect no more writes; whether it may have some that it has."""
        had_any = bool(self._undo_posts)
        while self._undo_posts:
            self._undo_posts.pop()()
        return had_any

    def disconnect(self, *, vm_goes: bool = False) -> None:
        """Cut the wires from the VM, which still exists. Idempotent.

        One that goes takes its posted ports and memory slots along: to unregister one
        takes 4 ms.
        """
        for undos in self._undo_posts, self._undo_if_vm_stays:
            while undos:
                undo = undos.pop()
                if not vm_goes:
                    undo()
        while self._undo:
            self._undo.pop()()

    def deliver_rings(self) -> None:
        """Ring for the last time what has rung before the wires were cut.

        On the loop's thread, or while the loop doesn't run. All bells are closed and
        all that have rung do, whatever one of them raises.
        """
        bells, self._bells = self._bells, []
        with ExitStack() as rings:
            for event, bell in reversed(bells):
                self._loop.unwatch(event.fd)
                if event.take():
                    rings.callback(bell.on_ring)
                event.close()

    def _watch(self, event: EventFd, bell: Doorbell) -> None:
        if event.fd >= 0:  # it may have been unplugged again
            self._loop.watch(event.fd, READ, partial(_ring, event, bell))

    def close(self) -> None:
        """Close the interrupt lines at once, the doorbells when the loop has let go."""
        self.disconnect()
        for _, trigger in self._edges:
            trigger.close()
        for level in self._levels:
            level.close()
        for event, _ in self._bells:
            self._loop.forget(event.fd, event.close)
        self._bells.clear()


def _ring(event: EventFd, bell: Doorbell) -> None:
    event.drain()
    bell.on_ring()
