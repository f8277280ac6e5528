"""RunControl: the one door through which every run ends, or stands still.

A reset, a crash, a timeout, a signal, a user's stop: whoever comes first is the
end, and every vCPU is made to leave KVM_RUN and look.
"""

import signal
import threading
from typing import TYPE_CHECKING, Final

from ..devices.record import Record
from ..errors import VmmError
from ..kvm._libc import KICK_SIGNAL
from ..kvm.abi import KVM_RUN_IMMEDIATE_EXIT
from ..kvm.vcpu import Vcpu
from ..result import ExitReason

if TYPE_CHECKING:
    from collections.abc import Callable


class End(Record):
    """Why a run is over. `exit_code` None means the reason's own."""

    reason: ExitReason
    detail: str = ""
    exit_code: int | None = None
    error: Exception | None = None


def failure(error: Exception) -> End:
    """The end for something that we, or a device of the user's, have raised."""
    known = isinstance(error, VmmError)
    detail = str(error) if known else f"{type(error).__name__}: {error}"
    detail = " ".join([detail, *getattr(error, "__notes__", ())])
    return End(ExitReason.ERROR, detail, error=error)


# No ends: the vCPUs stand still and may go on. Any other comes first.
LOOK: Final = End(ExitReason.PANIC, "a look at the vCPUs")
PAUSE: Final = End(ExitReason.STOPPED, "a pause")

# What ends a run, though a boot may have ended by itself just before.
_OF_THE_RUN: Final = (ExitReason.STOPPED, ExitReason.TIMEOUT, ExitReason.ERROR)


class RunControl:
    """Thread-safe. `end` is None while the guest may run; vCPUs test it per exit.

    It follows from what has happened and what was asked for, which are kept apart: how
    the boot has ended, what has ended the run, and halts. `turn` counts how often the
    guest was set going: a watcher passes the one that it has watched, and what it finds
    out too late doesn't end the next.
    """

    def __init__(self) -> None:
        self.end: End | None = None
        self.turn = 0
        self._boot_end: End | None = None  # the guest's own; until it boots again
        self._stop: End | None = None  # of the run: never taken back
        self._halts: list[End] = []  # LOOK, PAUSE: asked for, and not over yet
        self._lock = threading.RLock()  # signal handlers stop, too
        self._changed = threading.Condition(self._lock)
        self._running: dict[Vcpu, int] = {}  # to the ident of its thread
        # Those that are to come to the top of their loops, and whom to tell then.
        self._awaited: list[tuple[set[Vcpu], Callable[[], None]]] = []

    def finish(self, end: End, turn: int | None = None) -> None:
        """End the run for `end`, unless something else has ended it already.

        What is for the whole run ends the next boot, then, if there is one.
        """
        with self._lock:
            if turn is not None and turn != self.turn:
                return
            if end.reason in _OF_THE_RUN:
                self._stop = self._stop or end
            elif self._boot_end is None and self._stop is None:
                self._boot_end = end
            self._settle()
            self._changed.notify_all()
            self._kick()

    def fail(self, error: Exception) -> None:
        """We can't go on: whatever the end is, unless it is an error, it is this."""
        with self._lock:
            self._boot_end = None
            if self._stop is None or self._stop.reason is not ExitReason.ERROR:
                self._stop = failure(error)
            self._settle()

    def _settle(self) -> None:
        """Make `end` what follows from all the rest, which has changed.

        A signal handler may stop the run between any two steps of the thread that it
        interrupts, lock or not: so what was set is looked at once more.
        """
        while self.end is not (end := self._due()):
            self.end = end

    def _due(self) -> End | None:
        return self._boot_end or self._stop or (self._halts[0] if self._halts else None)

    def look(self, turn: int) -> None:
        """Make the guest stand still, with `end` LOOK, until it ends or may `go_on`.

        Not if it has ended, nor another turn than `turn`; after a pause, if it pauses.
        """
        with self._lock:
            if turn == self.turn and (self.end is None or self.end is PAUSE):
                self._halt(LOOK)

    def _halt(self, halt: End) -> None:
        if halt not in self._halts:
            self._halts.append(halt)
        self._settle()
        self._kick()

    def _unhalt(self, halt: End) -> None:
        self._halts = [each for each in self._halts if each is not halt]

    def go_on(self) -> bool:
        """The look is over: let the guest run on; False if it has ended meanwhile."""
        with self._lock:
            if self.end is not LOOK:
                return False
            self._unhalt(LOOK)
            self._settle()
            return True

    def _kick(self) -> None:
        for vcpu, thread in self._running.items():
            # The flag for a vCPU that is just about to enter KVM_RUN, the
            # signal for one that is inside: either alone loses the stop.
            vcpu.kvm_run[KVM_RUN_IMMEDIATE_EXIT] = 1
            signal.pthread_kill(thread, KICK_SIGNAL)

    def poke(self) -> None:
        """Make a vCPU for which KVM has collected writes come and take them."""
        with self._lock:
            for vcpu, thread in self._running.items():
                posted = vcpu.posted
                if posted is not None and posted.ends[0] != posted.ends[1]:
                    signal.pthread_kill(thread, KICK_SIGNAL)

    def after_accesses(self, callback: "Callable[[], None]") -> None:
        """Call `callback` when every access that a vCPU is in by now is over.

        That is when each that runs has come to the top of its loop, the posted writes
        that were collected before being delivered. Who has published other buses
        before knows then that nobody uses the old ones. If no vCPU runs it is called
        at once, else on the thread of the last one, which it isn't to hold up.
        """
        with self._lock:
            inside = set(self._running)
            if inside:
                self._awaited.append((inside, callback))
                self._kick()
        if not inside:
            callback()

    def passed(self, vcpu: Vcpu) -> None:
        """`vcpu` was kicked and is at the top of its loop: in no access."""
        with self._lock:
            vcpu.kvm_run[KVM_RUN_IMMEDIATE_EXIT] = self.end is not None
            due = self._note_passage(vcpu)
        for callback in due:
            callback()

    def _note_passage(self, vcpu: Vcpu) -> "list[Callable[[], None]]":
        """Whom to tell of it, without the lock."""
        for inside, _ in self._awaited:
            inside.discard(vcpu)
        due = [callback for inside, callback in self._awaited if not inside]
        self._awaited = [awaited for awaited in self._awaited if awaited[0]]
        return due

    def own_vcpu(self) -> "Vcpu | None":
        """The vCPU that the calling thread runs."""
        ident = threading.get_ident()
        with self._lock:
            for vcpu, thread in self._running.items():
                if thread == ident:
                    return vcpu
        return None

    def is_vcpu_thread(self) -> bool:
        """Whether a vCPU runs on the calling thread, which is in an access, then."""
        with self._lock:
            return threading.get_ident() in self._running.values()

    def rearm(self) -> None:
        """The guest boots again.

        What came in the meantime and is for the whole run, a stop or a timeout,
        ends it; a pause that was asked for comes before its first instruction.
        """
        with self._lock:
            self._unhalt(LOOK)  # at what isn't there any more
            self._boot_end = None
            self._settle()
            self.turn += 1

    def enter(self, vcpu: Vcpu) -> None:
        """Declare the calling thread as the one that runs `vcpu`."""
        with self._lock:
            # It may have been kicked out before, and be going on now.
            vcpu.kvm_run[KVM_RUN_IMMEDIATE_EXIT] = self.end is not None
            self._running[vcpu] = threading.get_ident()

    def leave(self, vcpu: Vcpu) -> None:
        """Undo `enter`: from here on nobody signals the thread."""
        with self._lock:
            del self._running[vcpu]
            due = self._note_passage(vcpu)
        for callback in due:
            callback()
