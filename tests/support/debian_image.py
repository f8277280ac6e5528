"""A cloud image of Debian 12, made of its packages: no image can be fetched here.

mmdebstrap and mke2fs make it; neither mounts it, nor needs a loop device.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from .cloud_image import MIB, partition
from .debian import FetchError, run

NAME: Final = "disk.img"
SIZE: Final = 1900 * MIB
PARTUUID: Final = "6f1f2f3a-1c55-4f0e-8d55-ba9876543210"
PACKAGES: Final = (
    *("linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "udev", "dbus"),
    *("cloud-init", "grub2-common", "e2fsprogs", "netbase", "ifupdown", "iproute2"),
)
_HOOK: Final = Path(__file__).with_suffix(".sh")


def make(work: Path) -> None:
    """Put it into `work`, as NAME. Raises FetchError."""
    if shutil.which("mmdebstrap") is None:
        raise FetchError("this host has no mmdebstrap (apt-get install mmdebstrap)")
    image = work / NAME
    run(
        *("env", f"IMAGE={image}", f"SIZE={SIZE // 1024}", f"PARTUUID={PARTUUID}"),
        f"PATH={os.environ['PATH']}:/sbin:/usr/sbin",
        *("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        *("--aptopt=APT::Install-Recommends false", f"--customize-hook={_HOOK}"),
        *("--format=null", "bookworm", "-"),
    )
    partition(image, SIZE, PARTUUID)
