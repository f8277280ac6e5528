"""Guests with disks: a file system made by the host's mke2fs, and a shell on it."""

import shutil
import subprocess
from pathlib import Path

from support.guests import kernel, refuse
from vmm import Machine, MachineConfig

MIB = 1 << 20


def ext4(path: Path, size: int = 64 * MIB, content: Path | None = None) -> Path:
    """An image of an ext4, with a directory's content if there is one."""
    make = shutil.which("mke2fs") or shutil.which("mke2fs", path="/sbin:/usr/sbin")
    if make is None:
        refuse("this host has no mke2fs (e2fsprogs)")
    path.touch()
    with path.open("r+b") as image:
        image.truncate(size)
    more = [] if content is None else ["-d", str(content)]
    subprocess.run(
        [make, "-q", "-F", "-t", "ext4", *more, str(path)], check=True, timeout=120
    )
    return path


def check_ext4(path: Path) -> str:
    """Replay its journal and look for what is wrong; "" if nothing is."""
    check = shutil.which("e2fsck") or shutil.which("e2fsck", path="/sbin:/usr/sbin")
    assert check is not None
    for _ in range(2):  # the first replays
        done = subprocess.run(
            [check, "-f", "-p", str(path)], capture_output=True, text=True, timeout=120
        )
        if done.returncode & ~1:
            return done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout


def disk_machine(*disks: str | Path, **settings: object) -> Machine:
    """A machine of our full kernel with an agent, busybox, and these."""
    values: dict[str, object] = {
        "kernel": kernel("full"),
        "agent": True,
        "disks": [str(disk) for disk in disks],
        "append": "quiet",
    }
    return Machine(MachineConfig(**values | settings))  # type: ignore[arg-type]
