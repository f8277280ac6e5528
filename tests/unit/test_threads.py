"""No thread of ours takes a signal: Python's handlers run on the main thread."""

import signal
import threading
import time
from pathlib import Path

from vmm import threads
from vmm.kvm._libc import KICK_SIGNAL
from vmm.pool import RunPool
from vmm.testing.session import Deadline

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def blocked(thread: threading.Thread) -> int:
    """The mask of a thread of this process, as the kernel has it."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    return int(line.split()[1], 16)


def takes_none(thread: threading.Thread) -> bool:
    mask = blocked(thread)
    takes_kick = not mask >> KICK_SIGNAL - 1 & 1
    return takes_kick and all(mask >> number - 1 & 1 for number in SIGNALS)


def test_a_thread_that_we_start_takes_none_and_the_starter_all_as_before() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    threads.start(thread)
    assert takes_none(thread)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    end.set()
    thread.join()


def test_a_deadlines_timer_takes_none() -> None:
    with Deadline(60, None) as deadline:  # type: ignore[arg-type]
        assert takes_none(deadline._timer)


def test_a_pools_threads_take_none_but_its_processes_all() -> None:
    with RunPool(1) as pool:
        masks = [pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ())]
        masks.append(pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()))
        assert [mask.result(60) for mask in masks] == [set(), set()]
        ours = [t for t in threading.enumerate() if t.name.startswith("vmm-run")]
        assert [takes_none(thread) for thread in ours] == [True]


def test_a_signal_that_came_just_before_a_wait_is_served() -> None:
    """As a handler's flag that nobody looks at before he sleeps."""
    condition, now = threading.Condition(), time.monotonic()
    with condition:
        assert not threads.nap(condition)
        assert not threads.nap(condition, 0.01)
        assert not threads.wait_for(condition, lambda: False, 0.01)
        assert threads.wait_for(condition, lambda: time.monotonic() > now + 1.1)
