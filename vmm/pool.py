"""RunPool: an executor for runs, each in a process of its own.

A process pool of the standard library is broken as a whole when a worker dies, and
all its pending runs with it. Here the run whose process died fails, and nothing else.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import ParamSpec, TypeVar

from . import threads
from .errors import WorkerDied

P = ParamSpec("P")
T = TypeVar("T")


class RunPool(ThreadPoolExecutor):
    """Calls what is submitted, such as `vmm.run`, in processes; `size` at a time.

    They are spawned, so a script's own lines belong under `if __name__ == "__main__"`.
    A process that dies gives its future WorkerDied. An exception that leaves the
    `with` block ends all that run, and so does the end of this process, of any kind.
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__(
            size or os.cpu_count(),
            thread_name_prefix="vmm-run",
            initializer=threads.block_signals,
        )
        self._spawn = multiprocessing.get_context("spawn")
        self._start_lock = threading.Lock()  # guards the next two
        self._running: set[multiprocessing.process.BaseProcess] = set()
        self._is_stopped = False

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> "Future[T]":
        """Queue a call; what it takes and returns must be picklable."""
        return super().submit(self._call, fn, args, kwargs)

    def stop(self) -> None:
        """Kill all that run; what waits is cancelled."""
        with self._start_lock:
            self._is_stopped = True
            for process in self._running:
                process.kill()
        self.shutdown(wait=True, cancel_futures=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.stop()
        super().__exit__(kind, error, traceback)

    def _call(self, function: Callable[..., T], args: object, kwargs: object) -> T:
        """In a thread of ours: start a process, and wait for what it sends."""
        receiver, sender = self._spawn.Pipe(duplex=False)
        work = (sender, function, args, kwargs)
        process = self._spawn.Process(target=_work, args=work, daemon=True)
        with receiver:
            with sender, self._start_lock:
                if self._is_stopped:
                    raise CancelledError
                process.start()
                threads.block_signals()  # its resource tracker has let some through
                self._running.add(process)
            try:
                succeeded, value = receiver.recv()
            except (EOFError, OSError):  # before or within what it sends
                process.join()
                raise WorkerDied(_death(process.exitcode)) from None
            finally:
                process.join()
                with self._start_lock:
                    self._running.remove(process)
                process.close()
        if not succeeded:
            raise value
        result: T = value
        return result


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.strsignal(-code)
        return f"the process of this run was killed by signal {-code} ({name})"
    return f"the process of this run ended by itself, with exit code {code}"


def _work(
    sender: Connection,
    function: Callable[..., object],
    args: Iterable[object],
    kwargs: Mapping[str, object],
) -> None:
    """The process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: our parent decides
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread's that has spawned us
    threads.start(threading.Thread(target=_die_with_parent, daemon=True))
    try:
        outcome = (True, function(*args, **kwargs))
    except Exception as error:
        outcome = (False, error)
    sender.send(outcome)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
