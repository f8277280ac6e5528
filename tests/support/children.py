"""Which processes this one has begun, for tests that none is left."""

from multiprocessing import resource_tracker
from pathlib import Path


def children() -> set[int]:
    """Those of all its threads, ended or not.

    But for the one of multiprocessing's that stays for as long as this process does,
    once a test has had a pool.
    """
    lists = Path("/proc/self/task").glob("*/children")
    found = {int(pid) for each in lists for pid in each.read_text().split()}
    return found - {resource_tracker._resource_tracker._pid}  # type: ignore[attr-defined]
