"""DoorbellWires: the doorbells of one device, which KVM signals by ioeventfds."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import partial
from typing import TypeAlias

from ..devices.doorbell import Doorbell
from ..event_loop import READ, EventLoop
from ..eventfd import EventFd
from ..kvm.vm import Vm

_Place: TypeAlias = tuple[bool, int, int, "int | None", "int | None"]


class DoorbellWires:
    """They ring on the loop's thread. All methods are for one thread at a time.

    A guest may move them as often as it likes: wires without a bell are kept for those
    that come, so that there are never more than it once had bells.
    """

    def __init__(self, owner: str, loop: EventLoop, vm: Vm | None) -> None:
        """`owner` is the device's name, and `vm` the one that there is now, if any."""
        self._owner = owner
        self._loop = loop
        self._vm = vm
        self._wires: list[_Wire] = []

    def add(self, bells: Iterable[Doorbell]) -> None:
        """Before `connect`. Raises OSError where there are no more descriptors."""
        for bell in bells:
            self._new_wire().bell = bell

    def _new_wire(self) -> "_Wire":
        wire = _Wire(self._owner, self._loop)
        self._wires.append(wire)
        return wire

    def move(self, bells: Iterable[Doorbell]) -> None:
        """Have these in place of those from before; no ring is lost.

        What KVM doesn't take stays an exit, which reaches the device as well: it is a
        guest that moves them.
        """
        wanted = {_place(bell): bell for bell in bells}
        for wire in self._wires:
            if wire.bell is not None and _place(wire.bell) in wanted:
                wire.bell = wanted.pop(_place(wire.bell))
            else:
                wire.withdraw()
        free = [wire for wire in self._wires if wire.bell is None]
        with suppress(OSError):
            for bell in wanted.values():
                wire = free.pop() if free else self._new_wire()
                wire.bell = bell
                if self._vm is not None:
                    wire.connect(self._vm)

    def connect(self, vm: Vm) -> None:
        """Raises KvmError."""
        self._vm = vm
        for wire in self._wires:
            wire.connect(vm)

    def disconnect(self, *, vm_goes: bool = False) -> None:
        """Cut them from the VM, or have it take them along. Idempotent."""
        self._vm = None
        for wire in self._wires:
            wire.disconnect(vm_goes=vm_goes)

    def ring_out(self) -> None:
        """Ring for the last time what has rung before the wires were cut.

        On the loop's thread, or while the loop doesn't run. All bells are closed and
        all that have rung do, whatever one of them raises.
        """
        wires, self._wires = self._wires, []
        with ExitStack() as rings:
            for wire in reversed(wires):  # a stack's last is its first
                rings.callback(wire.ring_out)

    def close(self) -> None:
        """Close them when the loop has let go."""
        wires, self._wires = self._wires, []
        for wire in wires:
            self._loop.forget(wire.event.fd, wire.event.close)


class _Wire:
    """An eventfd that the loop watches, and the bell that it is tied to, if any.

    A bell with an eventfd of the device's own has KVM signal that instead.
    """

    def __init__(self, owner: str, loop: EventLoop) -> None:
        self.bell: Doorbell | None = None
        self.event = EventFd()
        self._owner = owner
        self._loop = loop
        self._undo: Callable[[], None] | None = None
        loop.call_soon(self._watch)

    def connect(self, vm: Vm) -> None:
        bell = self.bell
        if bell is not None:
            fd = self.event.fd if bell.eventfd is None else bell.eventfd
            vm.assign_ioeventfd(fd, bell)
            self._undo = partial(vm.deassign_ioeventfd, fd, bell)

    def disconnect(self, *, vm_goes: bool = False) -> None:
        undo, self._undo = self._undo, None
        if undo is not None and not vm_goes:
            undo()

    def withdraw(self) -> None:
        """Have no bell any more; the one from before rings if it has."""
        self.disconnect()
        rung, bell = self.event.take(), self.bell
        self.bell = None  # after the event: who drains it is to find its bell
        if rung:
            self._loop.call(partial(self._tell, bell))

    def ring_out(self) -> None:
        self._loop.unwatch(self.event.fd)
        try:
            if self.event.take():
                self._tell(self.bell)
        finally:
            self.event.close()

    def _watch(self) -> None:
        if self.event.fd >= 0:  # it may have been unplugged again
            self._loop.watch(self.event.fd, READ, self._ring)

    def _ring(self) -> None:
        # Another may have taken its place on either side of the drain: whose ring it
        # was, nobody knows then, and one too many is fine.
        before = self.bell
        self.event.drain()
        after = self.bell
        self._tell(before)
        if after is not before:
            self._tell(after)

    def _tell(self, bell: Doorbell | None) -> None:
        try:
            if bell is not None:
                bell.on_ring()
        except Exception as error:
            error.add_note(f"when a doorbell of device {self._owner} rang")
            raise


def _place(bell: Doorbell) -> _Place:
    return bell.is_pio, bell.base, bell.size, bell.value, bell.eventfd
