"""A kernel and its initrd, as an installed Debian has them.

Packages are unpacked into a folder, and its own mkinitramfs runs there, in a mount
namespace: the host's system is neither read nor changed. What maintainers' scripts
would set up, it doesn't need.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from .debian import FetchError, download_system, run

# What every Debian has, of which mkinitramfs runs something, and what it puts in.
TOOLS: Final = (
    *("bash", "coreutils", "dash", "dpkg", "findutils", "grep", "gzip", "hostname"),
    *("libc-bin", "mawk", "sed", "util-linux"),
    *("busybox", "initramfs-tools", "pciutils", "udev", "zstd"),
)
# A system would find these on its disk when udev asks for them, with lspci.
HOOK: Final = """#!/bin/sh
[ "$1" = prereqs ] && exit
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_balloon virtio_console virtio-rng evdev
copy_exec /usr/bin/lspci
copy_exec /usr/bin/setpci
"""
MERGED: Final = ("bin", "lib", "lib64", "sbin")  # with those in /usr
MAKE_INITRD: Final = """
mount --rbind /dev "$1/dev"
exec env -i PATH=/usr/sbin:/usr/bin chroot "$1" \
    sh -ec "depmod $2; mkinitramfs -o /initrd.img $2"
"""


def install(release: str, kernel: str, folder: Path) -> None:
    """Put bzImage and initrd.img into `folder`, of the package `kernel`.

    Raises FetchError, also where this user may not mount in a namespace.
    """
    packed, root = folder / "debs", folder / "root"
    packed.mkdir()
    download_system(release, [kernel, *TOOLS], packed)
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in packed.glob("*.deb"):
        _unpack(deb, root)
        deb.unlink()
    hook = root / "etc/initramfs-tools/hooks/minivmm"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    version = next(root.glob("lib/modules/*")).name
    _make_initrd(root, version)
    (root / f"boot/vmlinuz-{version}").rename(folder / "bzImage")
    (root / "initrd.img").rename(folder / "initrd.img")
    shutil.rmtree(packed)
    shutil.rmtree(root)


def _unpack(deb: Path, root: Path) -> None:
    """As dpkg does: a symlink to a directory stays one."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    unpack = ("tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as packed:
        run(*unpack, stdin=packed.stdout)
    if packed.returncode:
        raise FetchError(f"dpkg-deb can't unpack {deb.name}")


def _make_initrd(root: Path, version: str) -> None:
    in_namespace = ["unshare", "--mount"]
    if os.geteuid():
        in_namespace.append("--map-root-user")
    run(*in_namespace, "sh", "-ec", MAKE_INITRD, "sh", root, version)
