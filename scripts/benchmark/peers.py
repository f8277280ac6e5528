"""The peers: VMMs of others, taken from PATH, and how each of them runs a guest.

Each is run at its best: with one CPU, ttyS0 on stdout and no device that our guests
don't use, as far as it lets us, and else as it comes. Firecracker and Cloud Hypervisor
keep their seccomp filters, and the PCI bus and random source that the latter always
has. All get the same kernel, initramfs and command line; Firecracker adds `pci=off`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .children import Command, NotMeasured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSION_DEADLINE_S: Final = 10.0
_VERSION: Final = re.compile(r"\bv?(\d+(?:\.\w+)+)")

# Without ACPI, microvm's firmware is the fast qboot. By default it has no RTC, which
# Linux then asks forty thousand times, and the IOAPIC is QEMU's own, with an exit for
# each of some five hundred accesses: "qemu" is QEMU at its best. Without PIC and PIT it
# is quicker still, but Debian's kernel then gets no interrupt from ttyS0.
MICROVM: Final = "microvm,accel=kvm,acpi=off,isa-serial=on,auto-kernel-cmdline=off"
QEMU_MACHINES: Final = {
    "qemu": f"{MICROVM},rtc=on,kernel-irqchip=on",
    "qemu-default": MICROVM,
}
QEMU: Final = (
    *("-cpu", "host", "-smp", "1"),
    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
    *("-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
)
LKVM_KERNELS: Final = "lkvm loads bzImages, no ELF program"
FIRECRACKER_CONFIG: Final = "firecracker.json"  # in the child's directory


@dataclass(frozen=True)
class Guest:
    """What all variants run; `memory_mib` of RAM. Linux has initrd and cmdline.

    `kernel` is an ELF file; `bzimage` is the same Linux for those who load no other.
    """

    kernel: Path
    memory_mib: int = 128
    initrd: Path | None = None
    cmdline: str | None = None
    bzimage: Path | None = None


@dataclass(frozen=True)
class Peer:
    """A program on PATH; `source` is where one gets it, `ask` prints its version."""

    program: str
    source: str
    ask: str = "--version"


PEERS: Final = {
    "qemu": Peer("qemu-system-x86_64", "apt-get install qemu-system-x86"),
    "firecracker": Peer("firecracker", "no package of Debian 12"),
    "cloud-hypervisor": Peer("cloud-hypervisor", "no package of Debian 12"),
    "lkvm": Peer("lkvm", "kvmtool, no package of Debian 12", ask="version"),
}


def peer_command(variant: str, guest: Guest, folder: Path) -> Command:
    """Return how `variant` runs `guest` in `folder`, where it may get a file.

    Raises NotMeasured where it isn't installed or can't.
    """
    peer = PEERS["qemu" if variant in QEMU_MACHINES else variant]
    if shutil.which(peer.program) is None:
        raise NotMeasured(f"{peer.program} is not on PATH ({peer.source})")
    if variant in QEMU_MACHINES:
        return _qemu(peer.program, QEMU_MACHINES[variant], guest)
    return _OTHERS[variant](peer.program, guest, folder)


def versions() -> dict[str, str | None]:
    """Return each peer's version; None of those that aren't on PATH."""
    return {name: _version(peer) for name, peer in PEERS.items()}


def _version(peer: Peer) -> str | None:
    if shutil.which(peer.program) is None:
        return None
    try:
        done = subprocess.run(
            [peer.program, peer.ask],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERSION_DEADLINE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"  # it will say why when it is to run a guest
    found = _VERSION.search(done.stdout)
    return found[1] if found else "unknown"


def _qemu(program: str, machine: str, guest: Guest) -> Command:
    argv = [program, *QEMU, "-M", machine, "-m", f"{guest.memory_mib}M"]
    argv += ["-kernel", str(guest.kernel)]
    if guest.initrd is not None:
        argv += ["-initrd", str(guest.initrd)]
    if guest.cmdline is not None:
        argv += ["-append", guest.cmdline]
    return Command(argv, {})


def _firecracker(program: str, guest: Guest, folder: Path) -> Command:
    boot = {
        "kernel_image_path": str(guest.kernel),
        "initrd_path": guest.initrd and str(guest.initrd),
        "boot_args": guest.cmdline,
    }
    config = {
        "boot-source": {name: value for name, value in boot.items() if value},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": guest.memory_mib},
        "drives": [],
    }
    (folder / FIRECRACKER_CONFIG).write_text(json.dumps(config))
    # Its log goes to stdout as well, and would cost it time there.
    argv = [program, "--no-api", "--config-file", FIRECRACKER_CONFIG]
    return Command([*argv, "--level", "Error"], {})


def _cloud_hypervisor(program: str, guest: Guest, _: Path) -> Command:
    argv = [program, "--cpus", "boot=1", "--memory", f"size={guest.memory_mib}M"]
    argv += ["--serial", "tty", "--console", "off", "--kernel", str(guest.kernel)]
    if guest.initrd is not None:
        argv += ["--initramfs", str(guest.initrd)]
    if guest.cmdline is not None:
        argv += ["--cmdline", guest.cmdline]
    return Command(argv, {})


def _lkvm(program: str, guest: Guest, _: Path) -> Command:
    if guest.bzimage is None or guest.initrd is None or guest.cmdline is None:
        raise NotMeasured(LKVM_KERNELS)
    argv = [program, "run", "--nodefaults", "--console", "serial", "--cpus", "1"]
    argv += ["--network", "mode=none", "--mem", str(guest.memory_mib)]
    argv += ["--kernel", str(guest.bzimage), "--initrd", str(guest.initrd)]
    argv += ["--params", guest.cmdline]
    return Command(argv, {"HOME": "."})  # where it leaves a socket


_OTHERS: Final[dict[str, Callable[[str, Guest, Path], Command]]] = {
    "firecracker": _firecracker,
    "cloud-hypervisor": _cloud_hypervisor,
    "lkvm": _lkvm,
}
