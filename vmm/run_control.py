"""RunControl: the one door through which every run ends.

A reset, a crash, a timeout, a signal, a user's stop: whoever comes first sets
the end, and every vCPU is made to leave KVM_RUN and look.
"""

import signal
import threading
from typing import NamedTuple

from .kvm._libc import KICK_SIGNAL
from .kvm.abi import KVM_RUN_IMMEDIATE_EXIT
from .kvm.vcpu import Vcpu
from .result import ExitReason


class End(NamedTuple):
    """Why a run is over. `exit_code` None means the reason's own."""

    reason: ExitReason
    detail: str = ""
    exit_code: int | None = None
    error: Exception | None = None


class RunControl:
    """Thread-safe. `end` is None while the guest may run; vCPUs test it per exit."""

    def __init__(self) -> None:
        self.end: End | None = None
        self._next: End | None = None  # what came while a reset was under way
        self._lock = threading.RLock()  # signal handlers stop, too
        self._running: dict[Vcpu, int] = {}  # to the ident of its thread

    def finish(self, end: End) -> None:
        """End the run for `end`, unless something else has ended it already."""
        with self._lock:
            if self.end is None:
                self.end = end
            elif self._next is None and end.reason is not ExitReason.RESET:
                self._next = end
            for vcpu, thread in self._running.items():
                # The flag for a vCPU that is just about to enter KVM_RUN, the
                # signal for one that is inside: either alone loses the stop.
                vcpu.run[KVM_RUN_IMMEDIATE_EXIT] = 1
                signal.pthread_kill(thread, KICK_SIGNAL)

    def poke(self) -> None:
        """Make a vCPU for which KVM has collected writes come and take them."""
        with self._lock:
            for vcpu, thread in self._running.items():
                posted = vcpu.posted
                if posted is not None and posted.ends[0] != posted.ends[1]:
                    signal.pthread_kill(thread, KICK_SIGNAL)

    def rearm(self) -> None:
        """The end was a reset and the machine boots again.

        Whatever else came in the meantime, a stop or a timeout, ends that boot.
        """
        with self._lock:
            self.end, self._next = self._next, None

    def enter(self, vcpu: Vcpu) -> None:
        """Declare the calling thread as the one that runs `vcpu`."""
        with self._lock:
            self._running[vcpu] = threading.get_ident()

    def leave(self, vcpu: Vcpu) -> None:
        """Undo `enter`: from here on nobody signals the thread."""
        with self._lock:
            del self._running[vcpu]
