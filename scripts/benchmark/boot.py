"""Measure `boot`: from the VMM's start to the first line of our init."""

from __future__ import annotations

import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from .children import NotMeasured, end_in_good_order, started, wait_for
from .rounds import Job, Sample
from .tools import ROOT
from .variants import OURS, QEMU_MACHINES, Guest, command, exits_of

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.with_kvm.host_kvm import Kind

VARIANTS: Final = (*OURS, *QEMU_MACHINES, "lkvm")
CMDLINES: Final = {
    "boot-verbose": "console=ttyS0 reboot=k panic=-1",
    "boot-quiet": "console=ttyS0 reboot=k panic=-1 quiet",
}
MARKER: Final = b"guest: userspace"
DEADLINE_S: Final = 300.0
BUILD: Final = ROOT / "guest/build"
ONLY_OURS: Final = (
    "this host's KVM is PVM, where it boots no Linux: scripts/with-kvm scripts/bench"
)


def jobs(kind: Kind) -> list[Job]:
    """Return the runs of one round: both command lines in every variant."""
    return [
        Job(measure, variant, partial(_run, measure, variant, kind))
        for measure in CMDLINES
        for variant in VARIANTS
    ]


def needed(kind: Kind) -> str:
    """Return which guest of scripts/build-guest is booted on this kind of KVM."""
    return "tiny" if kind == "pvm" else "debian"


def linux(kind: Kind, cmdline: str) -> Guest:
    """Return the kernel that is booted: Debian's own, but on PVM our tiny one."""
    if kind == "pvm":
        return Guest(
            BUILD / "vmlinux-tiny", 128, BUILD / "initramfs-tiny.cpio", cmdline
        )
    initrd = BUILD / "initramfs-busybox.cpio"
    return Guest(BUILD / "bzImage-debian", 256, initrd, cmdline)


def _run(measure: str, variant: str, kind: Kind, folder: Path) -> list[Sample]:
    if kind == "pvm" and variant not in OURS:
        raise NotMeasured(ONLY_OURS)
    how = command(variant, linux(kind, CMDLINES[measure]))
    before = time.monotonic_ns()
    with started(how, folder, subprocess.PIPE) as process:
        after = wait_for(process, MARKER, folder, DEADLINE_S)
        if variant in OURS:
            end_in_good_order(process)  # it has a result to write
    exits = sum(_to_userspace(folder).values()) if variant in OURS else None
    return [Sample(measure, (after - before) / 1e6, "ms", exits)]


def _to_userspace(folder: Path) -> dict[str, int]:
    """Return the exits by kind: the other counts are parts of these, or no exits."""
    counts = exits_of(folder)
    return {kind: counts[kind] for kind in ("io", "mmio", "intr", "other")}
