"""EventLoop: one thread for all that is not a vCPU: descriptors and timers."""

import heapq
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final

from . import threads
from .devices.clock import Timer
from .errors import VmmError
from .eventfd import EventFd

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
PURGE_MIN: Final = 256  # timers in the heap before we look for cancelled ones
END_LOOK_S: Final = 0.1  # between two looks whether a callback has ended the thread
POLL_MAX_S: Final = 86_400.0  # of 25 days, in milliseconds, epoll knows nothing

Callback = Callable[[], None]


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class EventLoop:
    """An epoll and a heap of timers; also the devices' Clock.

    `call_at` and `call_soon` may be used from any thread; descriptors are
    watched and unwatched on the loop's own thread, or before it starts. What a
    callback raises stops the loop and is handed to `on_error`; timers are lost then,
    what `call` was given is not. It may be started again when it was stopped.
    """

    def __init__(
        self, on_error: Callable[[Exception], None], name: str = "vmm-events"
    ) -> None:
        """`name` is the thread's."""
        self._on_error = on_error
        self._name = name
        self._epoll = select.epoll()
        self._watched: dict[int, Callback] = {}
        self._always_ready: dict[int, Callback] = {}
        self._wake = EventFd()
        self.watch(self._wake.fd, READ, self._wake.drain)
        self._lock = threading.Lock()  # for what follows
        self._timers: list[tuple[int, int, _Timer]] = []
        self._purge_at = PURGE_MIN
        self._calls: deque[Callback] = deque()
        self._runs = False  # the thread takes what is put into _calls
        self._stopping = False
        self._order = count()
        self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        # A daemon, as a vCPU's: see lifecycle.py.
        return threading.Thread(target=self._main, name=self._name, daemon=True)

    def sibling(self, name: str) -> "EventLoop":
        """Another loop, on a thread of its own, whose errors are told as this one's."""
        return EventLoop(self._on_error, name)

    # The Clock protocol

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()

    def call_at(self, when_ns: int, callback: Callback) -> Timer:
        """Call `callback` on the loop's thread, once, when `when_ns` has come."""
        timer = _Timer(callback)
        with self._lock:
            if len(self._timers) >= self._purge_at:
                self._purge()
            heapq.heappush(self._timers, (when_ns, next(self._order), timer))
            is_next = self._timers[0][2] is timer
            # On the loop's own thread the next turn sees it anyway.
            if is_next and not self.is_own_thread() and not self._stopping:
                self._wake.signal()
        return timer

    def _purge(self) -> None:
        """Forget cancelled timers, of which a guest could set ever more."""
        self._timers = [item for item in self._timers if item[2].callback is not None]
        heapq.heapify(self._timers)
        self._purge_at = max(PURGE_MIN, 2 * len(self._timers))

    def call_soon(self, callback: Callback) -> None:
        """Call `callback` on the loop's thread as soon as it is free."""
        self.call_at(0, callback)

    def call(self, callback: Callback) -> None:
        """As `call_soon`; but if the loop doesn't run, in this call.

        It is called whatever becomes of the loop.
        """
        with self._lock:
            if self._runs:
                self._calls.append(callback)
                self._wake.signal()
                return
        callback()

    def is_own_thread(self) -> bool:
        """Whether the calling thread is the loop's."""
        return threading.get_ident() == self._thread.ident

    # Descriptors

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is ready; replaces an earlier watch."""
        try:
            if fd in self._watched:
                self._epoll.modify(fd, events)
            else:
                self._epoll.register(fd, events)
        except PermissionError:  # epoll's word for files, which are always ready
            self._always_ready[fd] = callback
        else:
            self._watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`; before it is closed. Idempotent."""
        self._always_ready.pop(fd, None)
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def forget(self, fd: int, close: Callback) -> None:
        """Stop watching `fd`, then `close` it; from any thread.

        At once if the loop doesn't run, else as soon as it is free.
        """

        def unwatch() -> None:
            self.unwatch(fd)
            close()

        self.call(unwatch)

    # The thread

    def start(self) -> None:
        """Start the thread. Raises VmmError if there can't be another."""
        self._thread = self._new_thread()
        with self._lock:
            self._runs, self._stopping = True, False
        try:
            threads.start(self._thread)
        except VmmError:
            self._end()
            raise

    @property
    def ident(self) -> int:
        """That of the thread, once it was started."""
        ident = self._thread.ident
        assert ident is not None
        return ident

    def settle(self, first: Callback) -> None:
        """Call `first` on the loop's thread, then wait until it has turned once more.

        By then no callback runs that was called before, and what was ready at a
        descriptor is served. Returns, too, when the thread has ended.
        """
        done = threading.Event()

        def turn() -> None:
            first()
            self.call_soon(done.set)  # behind the next look at the descriptors

        self.call_soon(turn)
        while not done.wait(END_LOOK_S) and self._thread.is_alive():
            pass

    def stop(self) -> None:
        """End the thread and wait for it; callbacks that are due still run.

        Idempotent; not to be called on the loop's own thread.
        """
        with self._lock:
            self._stopping = True
        if self._wake.fd < 0:  # it is closed
            return
        self._wake.signal()
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop, and close what the loop itself has opened. Idempotent."""
        if self._wake.fd >= 0:
            self.stop()
            self._epoll.close()
            self._wake.close()

    def _main(self) -> None:
        try:
            while not self._stopping:
                self._turn()
            self._run_due()
        except Exception as error:
            self._on_error(error)
        finally:
            self._end()

    def _end(self) -> None:
        """Do what `call` was given; from here on it does that itself."""
        while True:
            with self._lock:
                if not self._calls:
                    self._runs = False
                    return
            try:
                self._calls.popleft()()
            except Exception as error:
                self._on_error(error)

    def _turn(self) -> None:
        ready = self._epoll.poll(self._timeout())
        for fd, callback in [(fd, self._watched[fd]) for fd, _ in ready]:
            # Not unwatched just now, nor its number in use for something else.
            if self._watched.get(fd) is callback:
                callback()
        for fd, callback in list(self._always_ready.items()):
            if fd in self._always_ready:
                callback()
        self._run_due()

    def _timeout(self) -> float | None:
        if self._always_ready:
            return 0
        with self._lock:
            if not self._timers:
                return None
            left_ns = max(0, self._timers[0][0] - self.now_ns())
            return min(left_ns / 1e9, POLL_MAX_S)

    def _run_due(self) -> None:
        """Run what is due now; what these callbacks add waits for its turn."""
        now = self.now_ns()
        due: list[_Timer] = []
        with self._lock:
            while self._timers and self._timers[0][0] <= now:
                due.append(heapq.heappop(self._timers)[2])
            calls = len(self._calls)  # after all that was due before them
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        for _ in range(calls):
            self._calls.popleft()()


class _GuestTimer:
    """A timer in guest time, on the loop's timers in the host's."""

    __slots__ = ("_clock", "callback", "timer", "when_ns")

    def __init__(self, clock: "GuestClock", when_ns: int, callback: Callback) -> None:
        self._clock = clock
        self.when_ns = when_ns
        self.callback: Callback | None = callback
        self.timer: Timer | None = None

    def cancel(self) -> None:
        self.callback = None
        timer = self.timer
        if timer is not None:
            timer.cancel()

    def on_time(self) -> None:
        if not self._clock.is_due(self):
            return
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class GuestClock:
    """The devices' Clock: the loop's, but for the time in which the guest is paused.

    `stop` is for the loop's thread, when no vCPU runs; from then on `now_ns` stands
    still and no callback is called until `start`, which goes on from there.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()  # for what follows
        # When it was stopped, if it is, and how far it is behind the loop's: as one.
        self._state: tuple[int | None, int] = None, 0
        self._held: list[_GuestTimer] = []

    def now_ns(self) -> int:
        """Nanoseconds that have passed for the guest, since an arbitrary start."""
        stopped_ns, behind_ns = self._state
        return self._loop.now_ns() - behind_ns if stopped_ns is None else stopped_ns

    def call_at(self, when_ns: int, callback: Callback) -> Timer:
        """As the loop's, in guest time."""
        timer = _GuestTimer(self, when_ns, callback)
        with self._lock:
            self._put(timer)
        return timer

    def stop(self) -> None:
        """Stand still. Idempotent."""
        with self._lock:
            stopped_ns, behind_ns = self._state
            if stopped_ns is None:
                self._state = self._loop.now_ns() - behind_ns, behind_ns

    def start(self) -> None:
        """Go on, from any thread. Idempotent."""
        with self._lock:
            stopped_ns, _ = self._state
            if stopped_ns is None:
                return
            self._state = None, self._loop.now_ns() - stopped_ns
            held, self._held = self._held, []
            for timer in sorted(held, key=lambda timer: timer.when_ns):
                if timer.callback is not None:
                    self._put(timer)

    def is_due(self, timer: _GuestTimer) -> bool:
        """Whether its time has come for the guest, too; else it is put back."""
        with self._lock:
            if self._state[0] is None and timer.when_ns <= self.now_ns():
                return True
            if timer.callback is not None:
                self._put(timer)
            return False

    def _put(self, timer: _GuestTimer) -> None:
        stopped_ns, behind_ns = self._state
        if stopped_ns is not None:
            self._held.append(timer)
            return
        due_ns = timer.when_ns + behind_ns
        timer.timer = self._loop.call_at(due_ns, timer.on_time)


class NextTurn:
    """A callback for the loop's next turn; asked for twice, it is called once."""

    def __init__(self, loop: EventLoop, callback: Callback) -> None:
        self._loop = loop
        self._callback = callback
        self._is_due = False

    def ask(self) -> None:
        """On the loop's thread."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._call)

    def _call(self) -> None:
        self._is_due = False
        self._callback()
