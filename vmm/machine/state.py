"""RunState: where a machine is in its life, and who waits for what comes next."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

from .. import threads
from ..errors import VmmError
from ..result import RunResult
from ..vcpu.control import LOOK, PAUSE, RunControl

if TYPE_CHECKING:  # most runs don't import it
    from ..debug.paused_guest import PausedGuest


class MachineState(Enum):
    """CREATED, RUNNING, PAUSED and RUNNING again, ENDED, CLOSED: in this order.

    A machine is RUNNING until its result is there; one that never ran goes from
    CREATED to CLOSED.
    """

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"
    CLOSED = "closed"


class RunState(RunControl):
    """All that changes in a machine's life, under RunControl's lock. Thread-safe.

    `result` is there when the run is over, or was paused by a policy; `error` is what
    was raised, if that is why; `paused` is the guest while it stands still;
    `started_ns` is when it was powered on.

    Lock order: `_telling`, a console's, `_lock`; a signal handler that stops takes the
    last one wherever it comes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = MachineState.CREATED
        self.started_ns: int | None = None
        self.result: RunResult | None = None
        self.error: Exception | None = None
        self.tell_readers: Callable[[RunResult | None], None] = lambda _: None
        """Told of each result once it is there, and by None that it isn't any more."""
        self.paused: PausedGuest | None = None
        self.own_threads: set[int] = set()
        """Threads that a pause has to wait for, beside those that run vCPUs."""
        self.is_device_thread: Callable[[], bool] = lambda: False
        """Whether the calling thread is a device's own, for which it has to, too."""
        self._telling = threading.Lock()  # readers hear of changes in their order
        self._pauses = 0  # that have begun
        self._starter: int | None = None  # the thread that starts
        self._is_ending = False  # no guest can go on; its result isn't made yet
        self._closer: int | None = None  # the thread that closes

    # The start

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While somebody starts, nobody else may, and nobody closes.

        If he raises, it is as if he had not begun. Raises VmmError if it's too late.
        """
        with self._lock:
            if self._closer is not None:
                raise VmmError("this machine is closed: make another")
            if self._starter is not None or self.state is not MachineState.CREATED:
                raise VmmError("this machine was started already: make another")
            self._starter = threading.get_ident()
        try:
            yield
        except BaseException:
            with self._lock:
                self.state, self.started_ns = MachineState.CREATED, None
            raise
        finally:
            with self._changed:
                self._starter = None
                self._changed.notify_all()

    def started(self) -> None:
        """The guest is about to run."""
        with self._lock:
            self.state = MachineState.RUNNING

    # Pauses

    def pause(self) -> None:
        """As Machine.pause."""
        with self._changed:
            if self.state is MachineState.CREATED or self.started_ns is None:
                raise VmmError("a machine that never started can't be paused")
            if self._is_paused:
                return
            pauses = self._pauses
            if self.state is MachineState.RUNNING:
                self._halt(PAUSE)
                if self.is_own_thread():
                    return
                threads.wait_for(
                    self._changed, lambda: self._pauses != pauses or self._has_ended
                )
            if self._pauses == pauses:
                raise VmmError("the guest can't be paused: the run has ended")

    @property
    def _is_paused(self) -> bool:
        """PAUSED, and not about to end."""
        return self.state is MachineState.PAUSED and self._stop is None

    @property
    def _has_ended(self) -> bool:
        return self._is_ending or self.state is not MachineState.RUNNING

    def is_own_thread(self) -> bool:
        """Whether a pause has to wait for the calling thread."""
        ident = threading.get_ident()
        if ident in self.own_threads or ident in self._running.values():
            return True
        return self.is_device_thread()

    def stand(self, guest: "PausedGuest", result: RunResult | None = None) -> bool:
        """Be PAUSED until `resume`: True; or until the run is ended for good: False.

        On the thread of vCPU 0, when all stand still. A policy has a `result` to tell;
        a pause that was asked for has none, and is off if the guest has ended since.
        What befalls the guest in a pause waits for `resume`.
        """
        with self._telling:
            with self._changed:
                if self._stop is not None or (result is None and self.end is not PAUSE):
                    return False
                self._boot_end = None  # over: the result tells of it
                self._halt(PAUSE)
                self.paused, self.result = guest, result
                self._pauses += 1
                self.state = MachineState.PAUSED
                self._changed.notify_all()
            if result is not None:
                self.tell_readers(result)
        with self._changed:
            self._changed.wait_for(lambda: not self._is_paused)
            if self.state is MachineState.RUNNING:
                return True
            self._boot_end = None
            self._settle()
            self.state, self.paused = MachineState.RUNNING, None
            return False

    def resume(self) -> None:
        """As Machine.resume."""
        with self._telling:
            with self._changed:
                if self.state is not MachineState.PAUSED:
                    raise VmmError("the guest isn't paused")
                if not self._is_paused:
                    raise VmmError("the guest isn't paused any more: the run has ended")
                result, self.result = self.result, None
                if result is not None:  # nobody's look is for what comes now
                    self._unhalt(LOOK)
                    self.turn += 1
                self._unhalt(PAUSE)
                # Here and now: what comes next comes after what has waited.
                self._settle()
                self.state, self.paused = MachineState.RUNNING, None
                self._changed.notify_all()
            if result is not None:
                self.tell_readers(None)

    # The end

    def wait(self, timeout: float | None) -> RunResult:
        """As Machine.wait."""
        with self._changed:
            threads.wait_for(
                self._changed,
                lambda: self.result is not None or self.started_ns is None,
                timeout,
            )
            if self.started_ns is None:  # or the start has failed
                raise VmmError("this machine was never started")
            if self.result is None:
                still = "is paused" if self.paused else "runs"
                raise TimeoutError(f"the guest still {still} after {timeout} s")
            return self.result

    def ending(self) -> None:
        """The guest is gone; its result is being made."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def ended(self, result: RunResult, error: Exception | None) -> None:
        """The run is over."""
        with self._telling:
            with self._changed:
                self.result, self.error = result, error
                self.state = MachineState.ENDED
                self._changed.notify_all()
            self.tell_readers(result)

    def begin_close(self) -> bool:
        """Whether the caller is to close; else somebody has, or has begun to.

        Waits for him, and for a start that has begun. Raises VmmError when it is that
        start, a device's part in it, that closes.
        """
        own = threading.get_ident()
        with self._changed:
            if self._starter == own:
                raise VmmError("a machine can't be closed from within its start")
            self._changed.wait_for(
                lambda: (
                    self._starter is None
                    and (
                        self._closer in (None, own) or self.state is MachineState.CLOSED
                    )
                )
            )
            if self._closer is not None:
                return False
            self._closer = own
            return True

    def give_up_close(self) -> None:
        """Whoever comes next is to close."""
        with self._changed:
            self._closer = None
            self._changed.notify_all()

    def closed(self) -> None:
        """Everything is released."""
        with self._changed:
            self.state = MachineState.CLOSED
            self._changed.notify_all()
