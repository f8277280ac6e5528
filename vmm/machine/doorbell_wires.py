"""DoorbellWires: the doorbells of one device, which KVM signals by ioeventfds."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import TypeAlias

from ..devices.doorbell import Doorbell
from ..event_loop import READ, EventLoop
from ..eventfd import EventFd
from ..kvm.vm import Vm

_Place: TypeAlias = tuple[bool, int, int, "int | None"]


class DoorbellWires:
    """They ring on the loop's thread. All methods are for one thread at a time."""

    def __init__(self, owner: str, loop: EventLoop, vm: Vm | None) -> None:
        """`owner` is the device's name, and `vm` the one that there is now, if any."""
        self._owner = owner
        self._loop = loop
        self._vm = vm
        self._wires: dict[_Place, _Wire] = {}

    def add(self, bells: Iterable[Doorbell]) -> None:
        """Before `connect`. Raises OSError where there are no more descriptors."""
        for bell in bells:
            self._wires[_place(bell)] = _Wire(bell, self._owner, self._loop)

    def move(self, bells: Iterable[Doorbell]) -> None:
        """Have these in place of those from before; no ring is lost.

        What KVM doesn't take stays an exit, which reaches the device as well: it is a
        guest that moves them.
        """
        wanted = {_place(bell): bell for bell in bells}
        for place in self._wires.keys() - wanted.keys():
            wire = self._wires.pop(place)
            wire.disconnect()
            self._loop.call(wire.ring_out)
        for place, bell in wanted.items():
            if place in self._wires:
                self._wires[place].bell = bell
                continue
            with suppress(OSError):
                wire = self._wires[place] = _Wire(bell, self._owner, self._loop)
                if self._vm is not None:
                    wire.connect(self._vm)

    def connect(self, vm: Vm) -> None:
        """Raises KvmError."""
        self._vm = vm
        for wire in self._wires.values():
            wire.connect(vm)

    def disconnect(self, *, vm_goes: bool = False) -> None:
        """Cut them from the VM, or have it take them along. Idempotent."""
        self._vm = None
        for wire in self._wires.values():
            wire.disconnect(vm_goes=vm_goes)

    def ring_out(self) -> None:
        """Ring for the last time what has rung before the wires were cut.

        On the loop's thread, or while the loop doesn't run. All bells are closed and
        all that have rung do, whatever one of them raises.
        """
        wires, self._wires = self._wires, {}
        with ExitStack() as rings:
            for wire in reversed(wires.values()):  # a stack's last is its first
                rings.callback(wire.ring_out)

    def close(self) -> None:
        """Close them when the loop has let go."""
        wires, self._wires = self._wires, {}
        for wire in wires.values():
            self._loop.forget(wire.event.fd, wire.event.close)


class _Wire:
    def __init__(self, bell: Doorbell, owner: str, loop: EventLoop) -> None:
        self.bell = bell
        self._owner = owner
        self.event = EventFd()
        self._loop = loop
        self._undo: Callable[[], None] | None = None
        loop.call_soon(self._watch)

    def connect(self, vm: Vm) -> None:
        event, bell = self.event, self.bell
        vm.assign_ioeventfd(event.fd, bell)
        self._undo = lambda: vm.deassign_ioeventfd(event.fd, bell)

    def disconnect(self, *, vm_goes: bool = False) -> None:
        undo, self._undo = self._undo, None
        if undo is not None and not vm_goes:
            undo()

    def ring_out(self) -> None:
        self._loop.unwatch(self.event.fd)
        try:
            if self.event.take():
                self.bell.on_ring()
        finally:
            self.event.close()

    def _watch(self) -> None:
        if self.event.fd >= 0:  # it may have been unplugged again
            self._loop.watch(self.event.fd, READ, self._ring)

    def _ring(self) -> None:
        self.event.drain()
        try:
            self.bell.on_ring()
        except Exception as error:
            error.add_note(f"when a doorbell of device {self._owner} rang")
            raise


def _place(bell: Doorbell) -> _Place:
    return bell.is_pio, bell.base, bell.size, bell.value
