"""Debian's fio in a guest: what it writes to a disk, it reads again and verifies.

By hand, for 60 s on each number of queues:

    PYTHONPATH=tests .venv/bin/python -m support.fio [--seconds S] [--kernel P]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import vmm
from support import foreign
from vmm import RunResult
from vmm.config import BUILD_DIR

SIZE: Final = 64 << 20
# Mixed sizes, which cross clusters and pages, and flushes and trims between.
JOB: Final = (
    "fio --name=verify --filename=/dev/vda --direct=1 --ioengine={engine} --iodepth=16 "
    "--rw=randrw --bsrange=512-128k --bs_unaligned=0 --blockalign=512 --verify=crc32c "
    "--verify_fatal=1 --fsync=32 --time_based --runtime={seconds:.0f} "
    "--size=16m --offset_increment=16m --numjobs={jobs} --thread --group_reporting "
    "--output-format=json"
)


def verify(
    disk: str, seconds: float, cpus: int, kernel: Path, engine: str = "libaio"
) -> RunResult:
    """Run it on `disk`, of 64 MiB, as vda. Raises FetchError."""
    job = JOB.format(engine=engine, seconds=seconds, jobs=min(cpus, 4))
    return vmm.run(
        kernel=kernel,
        initrd=Path(BUILD_DIR, "initramfs-busybox.cpio"),
        command=job,
        files=foreign.program_files(foreign.fetch("fio")),
        capture="capture",
        append="quiet",
        memory="768M",
        cpus=cpus,
        disks=disk,
        timeout=240 + 4 * seconds,
    )


def figures(result: RunResult) -> dict[str, Any]:
    """Of its only group: errors, reads and writes."""
    output = (result.output or b"").decode()
    (job,) = json.loads(output[output.index("{") :])["jobs"]
    return {
        "errors": job["error"],
        "reads": job["read"]["total_ios"],
        "writes": job["write"]["total_ios"],
    }


def main() -> int:
    """On 1, 2 and 4 vCPUs, and so queues, where the kernel has them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kernel", type=Path, required=True)
    parser.add_argument("--cpus", type=int, nargs="*", default=[1, 2, 4])
    options = parser.parse_args()
    failed = 0
    for cpus in options.cpus:
        for how in "", ",cow":
            with tempfile.NamedTemporaryFile(suffix=".img") as image:
                image.truncate(SIZE)
                disk = f"{image.name}{how}"
                result = verify(disk, options.seconds, cpus, options.kernel)
            print(f"{cpus} queues{how}: {result.detail or figures(result)}", flush=True)
            failed += result.guest_status != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
