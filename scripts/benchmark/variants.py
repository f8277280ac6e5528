"""The variants that are compared, and how each of them is started.

All get one CPU, the same RAM, ttyS0 on stdout, and no device that a guest of ours
does not use.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from . import tools
from .children import Command, NotMeasured, complaint, run

VMM: Final = Path(sys.executable).with_name("vmm")
RESULT: Final = "result.json"  # in the child's directory
BARE: Final = tools.ROOT / "guest/build/bare"
PROBE_DEADLINE_S: Final = 60.0

# What vmm's two variables are set to. "all": what it does by itself, with all means
# together.
OURS: Final = {
    "compiled": {"VMM_RUN_LOOP": "compiled", "VMM_COALESCED_PIO": "0"},
    "python": {"VMM_RUN_LOOP": "python", "VMM_COALESCED_PIO": "0"},
    "all": {"VMM_RUN_LOOP": "compiled"},
}
LKVM_KERNELS: Final = "lkvm loads bzImages, no ELF program"
LIMIT_GUESTS: Final = "the C limit runs bare-metal guests alone"

# Without ACPI, microvm's firmware is the fast qboot. By default it has no RTC, which
# Linux then asks forty thousand times: "qemu" is QEMU at its best.
MICROVM: Final = "microvm,accel=kvm,acpi=off,isa-serial=on,auto-kernel-cmdline=off"
QEMU_MACHINES: Final = {"qemu": f"{MICROVM},rtc=on", "qemu-default": MICROVM}
QEMU: Final = (
    *("qemu-system-x86_64", "-cpu", "host", "-smp", "1"),
    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
    *("-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
)


@dataclass(frozen=True)
class Guest:
    """What all variants run; `memory_mib` of RAM. Linux has initrd and cmdline."""

    kernel: Path
    memory_mib: int = 128
    initrd: Path | None = None
    cmdline: str | None = None


def command(variant: str, guest: Guest) -> Command:
    """Return how `variant` runs `guest`. Raises NotMeasured where it can't."""
    if variant == "c":
        return _limit(guest)
    if variant in QEMU_MACHINES:
        return _qemu(variant, guest)
    if variant == "lkvm":
        return _lkvm(guest)
    return _ours(variant, guest)


def _limit(guest: Guest) -> Command:
    if guest.cmdline is not None:
        raise NotMeasured(LIMIT_GUESTS)
    return Command([str(tools.limit()), str(guest.kernel)], {})


def _ours(variant: str, guest: Guest) -> Command:
    if OURS[variant]["VMM_RUN_LOOP"] == "compiled":
        _check_compiled_loop()
    return _vmm(guest, OURS[variant])


def _vmm(guest: Guest, environment: dict[str, str]) -> Command:
    argv = [str(VMM), "run", "--quiet", "--kernel", str(guest.kernel)]
    argv += ["--memory", f"{guest.memory_mib}M", "--result", RESULT]
    if guest.initrd is not None:
        argv += ["--initrd", str(guest.initrd)]
    if guest.cmdline is not None:
        argv += ["--cmdline", guest.cmdline]
    return Command(argv, environment)


def _qemu(variant: str, guest: Guest) -> Command:
    if shutil.which(QEMU[0]) is None:
        raise NotMeasured(f"{QEMU[0]} is not on PATH (apt-get install qemu-system-x86)")
    argv = [*QEMU, "-M", QEMU_MACHINES[variant], "-m", f"{guest.memory_mib}M"]
    argv += ["-kernel", str(guest.kernel)]
    if guest.initrd is not None:
        argv += ["-initrd", str(guest.initrd)]
    if guest.cmdline is not None:
        argv += ["-append", guest.cmdline]
    return Command(argv, {})


def _lkvm(guest: Guest) -> Command:
    if shutil.which("lkvm") is None:
        raise NotMeasured("lkvm is not on PATH (kvmtool, no package of Debian 12)")
    if guest.initrd is None or guest.cmdline is None:
        raise NotMeasured(LKVM_KERNELS)
    argv = ["lkvm", "run", "--nodefaults", "--console", "serial", "--cpus", "1"]
    argv += ["--network", "mode=none", "--mem", str(guest.memory_mib)]
    argv += ["--kernel", str(guest.kernel), "--initrd", str(guest.initrd)]
    argv += ["--params", guest.cmdline]
    return Command(argv, {"HOME": "."})  # where it leaves a socket


@cache
def _check_compiled_loop() -> None:
    """Raise NotMeasured unless vmm serves exits in C when told to.

    Exceptions aren't cached: a second call asks again, and says the same.
    """
    hello = _vmm(Guest(BARE / "hello.elf"), OURS["compiled"])
    with tempfile.TemporaryDirectory(prefix="vmm-bench.") as name:
        folder = Path(name)
        run(hello, folder, PROBE_DEADLINE_S)
        exits = exits_of(folder)
    if not exits.get("fast"):
        raise NotMeasured("vmm has no compiled run loop here: no exit is served in C")


def exits_of(folder: Path) -> dict[str, int]:
    """Return `exits` of a vmm that has run in `folder`. Raises NotMeasured."""
    try:
        result = json.loads((folder / RESULT).read_text())
    except FileNotFoundError:
        raise NotMeasured(complaint(None, folder)) from None
    if result["reason"] == "error":
        raise NotMeasured(complaint(None, folder))
    exits: dict[str, int] = result["exits"]
    return exits
