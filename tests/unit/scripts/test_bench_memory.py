"""scripts/bench's look at another process's memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scripts.benchmark import memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

SLEEPER = "print(flush=True); import time; time.sleep(1000)"
# A parent stands in vfork(2) until its child has gone, and SIGSTOP stops that.
STUCK = """
import ctypes, os, time
ctypes.PyDLL(None).vfork()
os.write(1, b"\\n")
time.sleep(1000)
"""


@contextmanager
def running(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python script in a session of its own, which has printed something."""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_stands_still_shows_its_memory() -> None:
    with running(SLEEPER) as process, memory.frozen(process) as (smaps,):
        assert memory.own_kb(smaps, 1 << 40, memory.RESIDENT) > 1000


def test_a_process_that_can_not_stand_still_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that closes its VM: the kernel waits for a thread that we have stopped."""
    monkeypatch.setattr(memory, "STOP_S", 0.1)
    with running(STUCK) as process, memory.frozen(process) as all_smaps:
        assert all_smaps == []
