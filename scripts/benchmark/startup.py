"""Measure `startup`: until the guest's first instruction, and memory of the VMM's own.

The time is from the start of the process to its first KVM_RUN. The memory is that of
the process but for the guest's RAM, when the guest sleeps: what it has written to,
which each further VMM takes again, and all that is resident, which the first takes.
The kernel's "private" lies between and depends on who else runs the same program:
we are a Python ourselves, as our VMM is.
"""

from __future__ import annotations

import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Final

from . import tools
from .children import Command, started, wait_for
from .memory import DIRTY, RESIDENT, own_kb
from .peers import Guest
from .rounds import Job, Sample
from .variants import BARE, command

VARIANTS: Final = ("c", "compiled", "python", "all", "qemu", "lkvm")
MARKER: Final = b"halt"
DEADLINE_S: Final = 60.0
NOTED: Final = "first_run"


def jobs() -> list[Job]:
    """Return the runs of one round; without a C compiler they lack the time."""
    return [Job("startup", variant, partial(_run, variant)) for variant in VARIANTS]


def _run(variant: str, folder: Path) -> list[Sample]:
    guest = Guest(BARE / "bench-halt.elf")
    how = command(variant, guest, folder)
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
