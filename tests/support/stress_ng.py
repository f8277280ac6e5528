"""Debian's stress-ng in a guest: what it does to a kernel, it verifies.

By hand, 60 s and all ten of them one after the other; quiet about what went well but
for a line:

    PYTHONPATH=tests .venv/bin/python -m support.stress_ng [--seconds S] [STRESSOR...]
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Final

import vmm
from support import foreign
from support.debian import FOLDER
from vmm import RunResult
from vmm.config import BUILD_DIR

KERNEL: Final = "vmlinux-full-ring3"
MEMORY: Final = "512M"
STRESSORS: Final = {
    "cpu": "--cpu 2",
    "vm": "--vm 2 --vm-bytes 64M",
    "fork": "--fork 2",
    "switch": "--switch 2",
    "signal": "--signal 2",
    "timer": "--timer 2 --timer-freq 1000",  # a million a second, if not told
    "futex": "--futex 2",
    "pipe": "--pipe 2",
    "sock": "--sock 2",
    "mmap": "--mmap 2 --mmap-bytes 32M",
}
# What a kernel logs when it goes wrong.
COMPLAINTS: Final = "BUG:|Oops|WARNING:|general protection fault, |Call Trace:"
SCRIPT: Final = f"""\
#!/bin/sh
ip link set lo up
mount -t tmpfs tmpfs /tmp
stress-ng "$@" --verify --metrics-brief --temp-path /tmp 2>&1
status=$?
dmesg | grep -E '{COMPLAINTS}' && exit 99
exit $status
"""


def stress(stressor: str, seconds: float, kernel: Path, folder: Path) -> RunResult:
    """Run one of STRESSORS in a guest; status 99 is a kernel that complains.

    The guest's script is put into `folder`. Raises FetchError.
    """
    script = folder / "stress.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    files = foreign.program_files(foreign.fetch("stress-ng"))
    return vmm.run(
        kernel=kernel,
        initrd=Path(BUILD_DIR, "initramfs-busybox.cpio"),
        command=f"/stress.sh {STRESSORS[stressor]} --timeout {seconds:.0f}",
        files=files | {"/stress.sh": script},
        append="quiet",
        memory=MEMORY,
        timeout=120 + 4 * seconds,
    )


def main() -> int:
    """Run those that are named; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stressors", metavar="STRESSOR", nargs="*")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kernel", type=Path, default=Path(BUILD_DIR, KERNEL))
    options = parser.parse_args()
    failed = 0
    for stressor in options.stressors or STRESSORS:
        begun = time.monotonic()
        result = stress(stressor, options.seconds, options.kernel, FOLDER)
        took = time.monotonic() - begun
        output = (result.output or b"").decode(errors="replace")
        print(f"{stressor}: {result.detail or 'status 0'} in {took:.0f} s", flush=True)
        if result.guest_status != 0:
            failed += 1
            print(output, result.report, sep=os.linesep)
        elif "metrc" in output or "info" in output:
            print(output.splitlines()[-1])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
