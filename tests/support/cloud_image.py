"""Images as clouds have them: GPT, an ext4 with a kernel in it, and GRUB's menu."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
SECTOR: Final = 512
START: Final = MIB  # of the partition


def program(name: str, package: str) -> str:
    """Its path, also where only root would look."""
    found = shutil.which(name) or shutil.which(name, path="/sbin:/usr/sbin")
    if found is None:
        from support.guests import refuse  # whose imports few need

        refuse(f"this host has no {name} ({package})")
    return found


def make_ext4(path: Path, root: Path, size: int) -> None:
    """At where the partition begins, with all that is in `root`."""
    options = ("-q", "-F", "-t", "ext4", "-E", f"offset={START}", "-d", str(root))
    command = [program("mke2fs", "e2fsprogs"), *options, str(path), f"{size // 1024}k"]
    subprocess.run(command, check=True, timeout=300, stdin=subprocess.DEVNULL)


def partition(path: Path, size: int, uuid: str = "") -> None:
    """Give it a GPT with one partition, of `size` bytes."""
    with path.open("r+b") as image:
        image.truncate(START + size + MIB)  # the second GPT is at the end
    line = f"start={START // SECTOR}, size={size // SECTOR}, type=linux"
    if uuid:
        line += f", uuid={uuid}"
    subprocess.run(
        [program("sfdisk", "fdisk"), "--quiet", str(path)],
        input=f"label: gpt\n{line}\n",
        text=True,
        check=True,
        capture_output=True,
        timeout=120,
    )


def partitioned(path: Path, files: dict[str, bytes], size: int = 64 * MIB) -> Path:
    """A raw image with these files, by their paths, in its only partition."""
    root = path.with_suffix(".root")
    for name, content in files.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    root.mkdir(exist_ok=True)
    path.touch()
    make_ext4(path, root, size)
    partition(path, size)
    shutil.rmtree(root)
    return path
