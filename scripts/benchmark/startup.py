"""Measure `startup`: until the guest's first instruction, and memory of the VMM's own.

The time is from the start of the process to its first KVM_RUN. The memory is that of
the process but for the guest's RAM, when the guest sleeps: what it has written to,
which each further VMM takes again, and all that is resident, which the first takes.
The kernel's "private" lies between and depends on who else runs the same program:
we are a Python ourselves, as our VMM is.
"""

from __future__ import annotations

import re
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Final

from . import tools
from .children import Command, started, wait_for
from .rounds import Job, Sample
from .variants import BARE, Guest, command

VARIANTS: Final = ("c", "compiled", "python", "all", "qemu", "lkvm")
MARKER: Final = b"halt"
DEADLINE_S: Final = 60.0
NOTED: Final = "first_run"
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
_FIELD: Final = re.compile(r"(\w+): +(\d+) kB")
DIRTY: Final = frozenset({"Private_Dirty", "Private_Hugetlb"})
RESIDENT: Final = frozenset({"Rss", "Private_Hugetlb", "Shared_Hugetlb"})


def jobs() -> list[Job]:
    """Return the runs of one round; without a C compiler they lack the time."""
    return [Job("startup", variant, partial(_run, variant)) for variant in VARIANTS]


def _run(variant: str, folder: Path) -> list[Sample]:
    guest = Guest(BARE / "bench-halt.elf")
    how = command(variant, guest)
    noted = folder / NOTED
    preload = {"LD_PRELOAD": str(tools.first_run()), "FIRST_RUN": str(noted)}
    how = Command(how.argv, {**how.environment, **preload})
    before = time.monotonic_ns()
    with started(how, folder, subprocess.PIPE) as process:
        wait_for(process, MARKER, folder, DEADLINE_S)
        smaps = Path(f"/proc/{process.pid}/smaps").read_text()
    first_run_ms = (int(noted.read_text()) - before) / 1e6
    ram_size = guest.memory_mib << 20
    return [
        Sample("first-run", first_run_ms, "ms"),
        Sample("private-dirty", own_kb(smaps, ram_size, DIRTY) / 1024, "MiB"),
        Sample("resident", own_kb(smaps, ram_size, RESIDENT) / 1024, "MiB"),
    ]


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
