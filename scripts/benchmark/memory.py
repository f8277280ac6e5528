"""Memory that a VMM takes beyond its guest's RAM, over all of its processes.

It counts what a process has written to, which each further VMM takes again
(`private-dirty`), or all that is resident, which the first takes. The kernel's
"private" lies between and depends on who else runs the same program: we are a Python
ourselves, as our VMM is; nobody else runs Firecracker. So does PSS.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

DIRTY: Final = frozenset({"Private_Dirty", "Private_Hugetlb"})
RESIDENT: Final = frozenset({"Rss", "Private_Hugetlb", "Shared_Hugetlb"})
STOP_S: Final = 2.0  # more than a stop takes
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
_FIELD: Final = re.compile(r"(\w+): +(\d+) kB")
_SESSION: Final = 3  # in /proc/pid/stat, after the name in brackets


@contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[list[str]]:
    """Hold a child and its group still; yield the smaps of all in its session.

    There is none of a process that has ended, or is about to, or that we may not look
    at.
    """
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        if _stands(process.pid):
            yield [text for pid in _members(process.pid) if (text := smaps_of(pid))]
        else:
            yield []
    finally:
        os.killpg(process.pid, signal.SIGCONT)


def own_kb(smaps: str, ram_size: int, fields: frozenset[str]) -> int:
    """Return the sum of `fields` over all mappings too small to be guest RAM, in kB.

    Nothing else in a VMM is as large as that. Source: proc(5), /proc/pid/smaps.
    """
    total, is_ram = 0, False
    for line in smaps.splitlines():
        if mapping := _MAPPING.match(line):
            start, end = (int(address, 16) for address in mapping.groups())
            is_ram = end - start >= ram_size
        elif (field := _FIELD.match(line)) and field[1] in fields and not is_ram:
            total += int(field[2])
    return total


def _stands(pid: int) -> bool:
    """Wait until all threads have stopped, a vCPU's last; tell whether they have.

    Whoever closes a VM waits in the kernel for one of its threads, which SIGSTOP stops
    with the others: that process stands only when it has been continued.
    """
    how = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
    end = time.monotonic() + STOP_S
    while time.monotonic() < end:
        if os.waitid(os.P_PID, pid, how):
            return True
        time.sleep(0.001)
    return False


def field_kb(smaps: str, name: str) -> int:
    """Return the sum of a field over all mappings, in kB."""
    fields = map(_FIELD.match, smaps.splitlines())
    return sum(int(field[2]) for field in fields if field and field[1] == name)


def _members(session: int) -> list[int]:
    """Return the processes of a session. Source: proc(5), /proc/pid/stat."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            stat = (folder / "stat").read_text()
            if int(stat.rpartition(")")[2].split()[_SESSION]) == session:
                found.append(int(folder.name))
    return found


def smaps_of(pid: int) -> str:
    """Return a process's smaps; "" where it has ended, or we may not look."""
    try:
        return Path(f"/proc/{pid}/smaps").read_text()
    except OSError:
        return ""
