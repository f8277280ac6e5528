"""A VMM that is killed while its guest writes to a disk; what is left must be right.

The guest appends numbers to a file of an ext4, each made durable before it is told on
the console. By hand, 200 times at random moments:

    PYTHONPATH=tests .venv/bin/python -m support.killed_vmm [--times N]
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from support.disk_guests import MIB, check_ext4, ext4
from support.guests import DEADLINE, kernel
from vmm.disk.config import DiskConfig
from vmm.disk.opening import open_backend

MOST_S: Final = 1.5
"""From the first number to the kill."""
SCRIPT: Final = """
mkdir /m; mount /dev/vda /m || exit 1
(while :; do head -c 100000 /dev/urandom > /m/noise.$((n = (n + 1) % 50)); done) &
i=$(tail -n 1 /m/log 2>/dev/null || echo 0)
while :; do
    i=$((i + 1)); echo $i >> /m/log; sync /m/log; echo "number $i."
done
"""


def kill_one(disk: str, after_s: float) -> int:
    """Run a guest on `disk` and kill its VMM; the last number that it has told."""
    command = [sys.executable, "-m", "vmm", "run", "--kernel", str(kernel("full"))]
    command += ["--append", "quiet", "--disk", disk, "--exec", f"sh -c '{SCRIPT}'"]
    told = 0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as vmm:
        assert vmm.stdout is not None
        killed_at = time.monotonic() + DEADLINE
        for line in vmm.stdout:
            if line.startswith("number "):
                if not told:
                    killed_at = time.monotonic() + after_s
                told = int(line[7:].rstrip(".\r\n"))
            if time.monotonic() > killed_at:
                vmm.kill()
                killed_at = float("inf")
    assert told, "the guest has told nothing"
    return told


def numbers(disk: str, folder: Path) -> list[int]:
    """What the file has after the journal was replayed, on a copy."""
    backend = open_backend(DiskConfig.parse(disk), lambda _: None)
    flat = folder / "flat.img"
    with flat.open("wb") as file:
        for offset in range(0, backend.size, MIB):
            part = bytearray(min(MIB, backend.size - offset))
            backend.read([memoryview(part)], offset)
            file.write(part)
    backend.close()
    trouble = check_ext4(flat)
    assert not trouble, trouble
    dumped = subprocess.run(
        ["debugfs", "-R", "cat /log", str(flat)],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
    )
    return [int(line) for line in dumped.stdout.split()]


def kill_often(how: str, times: int, folder: Path, seed: int) -> None:
    """Kill VMMs of one disk one after another; `how` are its options."""
    moments = random.Random(seed)
    image = ext4(folder / "fs.img", 32 * MIB)
    disk = f"{image}{how.format(folder=folder)}"
    before = image.read_bytes()
    for _ in range(times):
        after_s = moments.random() * MOST_S
        told = kill_one(disk, after_s)
        found = numbers(disk, folder)
        assert found == list(range(1, len(found) + 1)), f"seed {seed}: {found}"
        assert len(found) >= told, f"seed {seed}: {told} was promised, {len(found)} is"
        if "cow" in how:
            assert image.read_bytes() == before, f"seed {seed}: the base was changed"


KINDS: Final = {"raw": "", "overlay": ",cow={folder}/over"}


def main() -> int:
    """All kinds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    for name, how in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            kill_often(how, options.times // 2, Path(folder), options.seed)
        print(f"{name}: {options.times // 2} kills, seed {options.seed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
