"""Measure `boot`: from the VMM's start to the first line of our init.

With `quiet` also the memory beyond the guest's RAM: at that line everything is held
still, before the guest resets.
"""

from __future__ import annotations

import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from vmm.cli.image_report import examine_image
from vmm.config import MachineConfig
from vmm.errors import VmmError
from vmm.machine.machine import Machine

from .children import NotMeasured, end_in_good_order, started, wait_for
from .memory import DIRTY, frozen, own_kb
from .peers import QEMU_MACHINES, Guest
from .rounds import Job, Sample
from .tools import ROOT
from .variants import OURS, command, exits_of

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.with_kvm.host_kvm import Kind

RUNNING: Final = "machine"  # Machine(...) in a process that runs already: this one
VARIANTS: Final = (
    *(*OURS, RUNNING, *QEMU_MACHINES),
    *("firecracker", "cloud-hypervisor", "lkvm"),
)
CMDLINE: Final = "console=ttyS0 reboot=k panic=-1"
QUIET: Final = "boot-quiet"
CMDLINES: Final = {"boot-verbose": CMDLINE, QUIET: f"{CMDLINE} quiet"}
MARKER: Final = b"guest: userspace"
DEADLINE_S: Final = 300.0
BUILD: Final = ROOT / "guest/build"
SLOW_UNPACKING: Final = (
    "lkvm loads bzImages alone, and PVM emulates for minutes how they unpack themselves"
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
    return "tiny-ring3" if kind == "pvm" else "debian"


def linux(kind: Kind, cmdline: str) -> Guest:
    """Return what is booted: Debian's own kernel, on PVM ours that runs natively."""
    if kind == "pvm":
        kernel = BUILD / "vmlinux-tiny-ring3"
        return Guest(kernel, 128, BUILD / "initramfs-tiny.cpio", cmdline)
    initrd = BUILD / "initramfs-busybox.cpio"
    bzimage = BUILD / "bzImage-debian"
    return Guest(BUILD / "vmlinux-debian", 256, initrd, cmdline, bzimage)


def booted(kind: Kind) -> dict[str, object]:
    """Return what is booted, for the table and the JSON. Raises ImageError."""
    guest = linux(kind, CMDLINE)
    assert guest.initrd is not None
    return {
        "kernel": guest.kernel.name,
        "version": examine_image(str(guest.kernel)).version,
        "initrd": guest.initrd.name,
        "memory_mib": guest.memory_mib,
        "cpus": 1,
        "cmdline": guest.cmdline,
    }


def _run(measure: str, variant: str, kind: Kind, folder: Path) -> list[Sample]:
    guest = linux(kind, CMDLINES[measure])
    if variant == RUNNING:
        return [Sample(measure, in_this_process(guest), "ms")]
    if variant == "lkvm" and kind == "pvm":
        raise NotMeasured(SLOW_UNPACKING)
    how = command(variant, guest, folder)
    before = time.monotonic_ns()
    with started(how, folder, subprocess.PIPE) as process:
        after = wait_for(process, MARKER, folder, DEADLINE_S)
        memory = _memory(process, guest) if measure == QUIET else []
        if variant in OURS:
            end_in_good_order(process)  # it has a result to write
    exits = sum(_to_userspace(folder).values()) if variant in OURS else None
    return [Sample(measure, (after - before) / 1e6, "ms", exits), *memory]


def in_this_process(guest: Guest) -> float:
    """Return the ms from Machine(...) to the marker. Raises NotMeasured."""
    before = time.monotonic_ns()
    try:
        config = MachineConfig(
            kernel=guest.kernel,
            initrd=guest.initrd,
            cmdline=guest.cmdline,
            memory=f"{guest.memory_mib}M",
        )
        with Machine(config) as machine:
            machine.start()
            machine.console.expect(MARKER, timeout=DEADLINE_S)
            return (time.monotonic_ns() - before) / 1e6
    except VmmError as error:
        raise NotMeasured(str(error).splitlines()[0]) from None


def _memory(process: subprocess.Popen[bytes], guest: Guest) -> list[Sample]:
    """Return a sample, or none: a guest that resets at once may be quicker than we."""
    with frozen(process) as all_smaps:
        if not all_smaps:
            return []
    size = guest.memory_mib << 20
    kb = sum(own_kb(smaps, size, DIRTY) for smaps in all_smaps)
    return [Sample("boot-memory", kb / 1024, "MiB")]


def _to_userspace(folder: Path) -> dict[str, int]:
    """Return the exits by kind: the other counts are parts of these, or no exits."""
    counts = exits_of(folder)
    return {kind: counts[kind] for kind in ("io", "mmio", "intr", "other")}
