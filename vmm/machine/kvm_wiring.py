"""Wiring: what KVM itself does for one device: interrupts, doorbells, posted writes."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from ..boot.layout import VIDEO
from ..devices.device_io import DeviceIo
from ..devices.resources import DeviceResources
from ..event_loop import EventLoop
from ..eventfd import EventFdTrigger
from ..kvm.abi import KVM_IOAPIC_NUM_PINS
from ..kvm.vm import Vm
from .level_lines import LevelInterrupt, LevelLines
from .video_window import VideoWindow

if TYPE_CHECKING:  # most machines have no use for the last two
    from collections.abc import Callable

    from ..devices.trigger import Interrupt
    from .doorbell_wires import DoorbellWires
    from .msi_routes import MsiRoutes, MsiTrigger


class Wiring:
    """One device's wires, to be connected to one VM after the other.

    `interrupts` are its lines and messages, in the order of its resources. What rings
    is told to the device on the loop's thread.
    """

    def __init__(
        self,
        resources: DeviceResources,
        loop: EventLoop,
        lines: LevelLines,
        routes: "Callable[[], MsiRoutes]",
    ) -> None:
        """Raises OSError where there are no more descriptors.

        `routes` gives the machine's, which has them once it is asked.
        """
        levels = resources.get_level_irqs()
        self.loop = loop
        self.is_leaving = False
        """Whether its device is about to be off the bus; for DeviceManager."""
        self.interrupts: list[Interrupt] = []
        self._edges: list[tuple[int, EventFdTrigger]] = []
        self._levels: list[LevelInterrupt] = []
        self._msis: list[MsiTrigger] = []
        self._routes = routes
        self._bells: DoorbellWires | None = None
        self._posted: list[int] = []
        self._has_video = False
        self._undo: list[Callable[[], None]] = []
        self._undo_posts: list[Callable[[], None]] = []
        self._undo_if_vm_stays: list[Callable[[], None]] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            for gsi in resources.get_interrupts():
                self._add_interrupt(gsi, lines if gsi in levels else None)
            undo.pop_all()

    def _add_interrupt(self, gsi: int, lines: LevelLines | None) -> None:
        if gsi >= KVM_IOAPIC_NUM_PINS:  # a message's number
            self._msis.append(self._routes().new_trigger(gsi))
            self.interrupts.append(self._msis[-1])
        elif lines is not None:
            self._levels.append(LevelInterrupt(lines, gsi))
            self.interrupts.append(self._levels[-1])
        else:
            self._edges.append((gsi, EventFdTrigger()))
            self.interrupts.append(self._edges[-1][1])

    def offload_accesses(
        self, device: DeviceIo, trapped: DeviceResources, posts: bool
    ) -> None:
        """Find out which accesses KVM is to take over, once resources are assigned."""
        if bells := device.get_doorbells():
            self._bell_wires(device, None).add(bells)
        if posts:
            fast = device.get_fast_ports().items()
            self._posted = [port for port, fast_port in fast if fast_port.posted]
        video_end = VIDEO.guest_addr + VIDEO.size
        self._has_video = any(
            base < video_end and VIDEO.guest_addr < base + size
            for base, size in trapped.get_mmio_address_ranges()
        )

    def move_doorbells(self, device: DeviceIo, vm: Vm | None) -> None:
        """The device's ranges have moved; `vm` is the one that there is now, if any."""
        bells = device.get_doorbells()
        if bells or self._bells is not None:
            self._bell_wires(device, vm).move(bells)

    def _bell_wires(self, device: DeviceIo, vm: Vm | None) -> "DoorbellWires":
        if self._bells is None:
            from .doorbell_wires import DoorbellWires

            self._bells = DoorbellWires(class_name(device), self.loop, vm)
        return self._bells

    def connect(self, vm: Vm, video: VideoWindow) -> None:
        """Tell the VM of every wire but those of level-triggered lines and messages,
        which it hears of from LevelLines and MsiRoutes."""
        if self._has_video:
            video.open()
            self._undo_if_vm_stays.append(video.close)
        for gsi, trigger in self._edges:
            fd = trigger.eventfd.fd
            vm.assign_irqfd(fd, gsi)
            self._undo.append(partial(vm.deassign_irqfd, fd, gsi))
        if self._bells is not None:
            self._bells.connect(vm)
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
        for msi in self._msis:
            msi.flush()

    def stop_posting(self) -> bool:
        """Let KVM collect no more writes; whether it may have some that it has."""
        had_any = bool(self._undo_posts)
        while self._undo_posts:
            self._undo_posts.pop()()
        return had_any

    def disconnect(self, *, vm_goes: bool = False) -> None:
        """Cut the wires from the VM, which still exists. Idempotent.

        One that goes takes its posted ports, memory slots and doorbells along: to
        unregister one takes 4 ms.
        """
        if self._bells is not None:
            self._bells.disconnect(vm_goes=vm_goes)
        for undos in self._undo_posts, self._undo_if_vm_stays:
            while undos:
                undo = undos.pop()
                if not vm_goes:
                    undo()
        while self._undo:
            self._undo.pop()()

    def ring_out(self) -> None:
        """Ring for the last time what has rung before the wires were cut.

        On the loop's thread, or while the loop doesn't run. All bells are closed and
        all that have rung do, whatever one of them raises.
        """
        if self._bells is not None:
            self._bells.ring_out()

    def close(self) -> None:
        """Close the interrupts at once, the doorbells when the loop has let go."""
        self.disconnect()
        for _, trigger in self._edges:
            trigger.close()
        for msi in self._msis:
            msi.close()
        for level in self._levels:
            level.close()
        if self._bells is not None:
            self._bells.close()


def class_name(device: DeviceIo) -> str:
    """What the author of the device calls it."""
    return type(device.get_author_device()).__name__
