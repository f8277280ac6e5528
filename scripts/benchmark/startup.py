"""Measure `startup`: until the guest's first instruction, and memory of the VMM's own.

The time is from the start of the process to its first KVM_RUN. The memory is what
is private to the process, but for the guest's RAM, when the guest sleeps.
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
_PRIVATE: Final = re.compile(r"Private_\w+: +(\d+) kB")


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
    own_mib = private_kb(smaps, guest.memory_mib << 20) / 1024
    return [
        Sample("first-run", first_run_ms, "ms"),
        Sample("private-memory", own_mib, "MiB"),
    ]


def private_kb(smaps: str, ram_size: int) -> int:
    """Return the private pages of all mappings too small to be guest RAM, in kB.

    Nothing else in a VMM is as large as that. Source: proc(5), /proc/pid/smaps.
    """
    total, is_ram = 0, False
    for line in smaps.splitlines():
        if mapping := _MAPPING.match(line):
            start, end = (int(address, 16) for address in mapping.groups())
            is_ram = end - start >= ram_size
        elif (private := _PRIVATE.match(line)) and not is_ram:
            total += int(private[1])
    return total
