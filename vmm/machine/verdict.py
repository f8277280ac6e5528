"""Verdict: why a boot has ended, which may be a panic whatever came after it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..console.console import Console
from ..devices.clock import Clock
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory
from ..result import ExitReason
from ..vcpu.control import End, RunControl
from ..watch.panic import PanicWatch

if TYPE_CHECKING:  # most runs never panic
    from ..watch.panic_signs import PanicSigns

# How a boot that has panicked may end, beside at once: by its own reset, by reboot=t,
# or not at all. Where only words tell of the panic, this is a second sign.
_SIGNS: Final = {
    ExitReason.RESET: "a reset follows",
    ExitReason.CRASH: "a crash follows",
    ExitReason.HANG: "nothing follows",
}
_AFTER_A_PANIC: Final = (ExitReason.PANIC, *_SIGNS)


class Verdict:
    """Judges what the console and the vCPUs show; on the thread of vCPU 0.


    `clock` is the guest's: the time between two looks doesn't pass in a pause.
    """

    def __init__(
        self, control: RunControl, console: Console, watch: PanicWatch, clock: Clock
    ) -> None:
        self._control = control
        self._console = console
        self._watch = watch
        self._clock = clock
        self._signs: PanicSigns | None = None

    def begin(self) -> None:
        """A boot begins, or goes on."""
        self._signs = None

    def look(self, vcpus: Sequence[Vcpu], memory: GuestMemory) -> None:
        """Words of a panic were printed: do the vCPUs, which stand still, show one?

        Ends the run if they do; asks for another look if they may.
        """
        from ..watch.panic_signs import PanicSigns

        watch, turn = self._watch, self._control.turn
        signs = self._signs = self._signs or PanicSigns()
        if not self._console.is_held:
            printed = self._console.printed
            signs.look(vcpus, memory, by_printk=watch.by_printk, printed=printed)
        if signs.is_refuted:
            watch.dismiss()
            self._signs = None  # the next words are a case of their own
        if signs.sign is not None:
            watch.prove(signs.sign)
        if watch.has_crash_kernel:
            return
        if watch.is_proven:
            self._control.finish(End(ExitReason.PANIC, watch.detail), turn)
        elif watch.line is not None:
            due = self._clock.now_ns() + signs.next_look_ns
            self._clock.call_at(due, lambda: self._control.look(turn))

    def weigh(self, end: End) -> None:
        """Words of a panic that nobody has been sure of: its `end` may tell."""
        sign, watch = _SIGNS.get(end.reason), self._watch
        if sign is None:
            return
        self._console.show_rest()
        if watch.line is None or watch.is_proven:
            return
        if watch.restarts_in_order:
            watch.dismiss()
        else:
            watch.prove(sign)

    @property
    def effective_end(self) -> End:
        """Why the boot has ended."""
        end, watch = self._control.end, self._watch
        assert end is not None
        if watch.is_proven and end.reason in _AFTER_A_PANIC:
            return End(ExitReason.PANIC, watch.detail)
        return end
