"""Linux kernels: our configurations of Debian's source, and Debian's cloud kernel."""

from __future__ import annotations

import math
import os
import re
import subprocess
from typing import TYPE_CHECKING, Final

from . import debian, progress
from .errors import BuildError
from .target import Target
from .workshop import GUEST_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from .workshop import Workshop

SOURCE: Final = "linux-source-6.1"
CLOUD: Final = "linux-image-cloud-amd64"
CLOUD_IMAGE: Final = r"linux-image-[0-9][^ ,]*-cloud-amd64"
TOOLS: Final = (
    *("gcc", "make", "flex", "bison", "bc", "libelf-dev", "libssl-dev"),
    *("xz-utils", "lz4", "libc6-dev", "patch"),
)

# Our own, applied in this order: they spare instructions where KVM emulates them, and
# from 0011 on make ring3.config's kernel, and no difference without it.
PATCHES: Final = tuple(sorted((GUEST_DIR / "linux" / "patches").glob("*.patch")))

# For the same reason: 2.5 % fewer of them than by the -O2 of the kernel's makefile,
# which takes a twelfth less time to build.
EMULATED: Final = "-O3"
NATIVE: Final = ""

# Debian has changed its mind between releases.
UNPACKERS: Final = {
    b"\xfd7zXZ\0": "xz",
    b"\x02\x21\x4c\x18": "lz4",  # the legacy frame
    b"\x28\xb5\x2f\xfd": "zstd",
}
# A driver that our kernels have built in and Debian's hasn't: /dev/input/event*.
CLOUD_MODULES: Final = (
    "drivers/input/evdev",
    # In an order in which insmod takes them.
    *(f"drivers/virtio/{name}" for name in ("virtio_ring", "virtio", "virtio_mmio")),
    *(
        f"drivers/virtio/virtio_pci{name}"
        for name in ("_legacy_dev", "_modern_dev", "")
    ),
    *("drivers/char/virtio_console", "drivers/char/hw_random/virtio-rng"),
    *("drivers/virtio/virtio_balloon", "drivers/block/virtio_blk"),
    "net/vmw_vsock/vsock",
    *(f"net/vmw_vsock/vmw_vsock_virtio_transport{name}" for name in ("_common", "")),
)
UNPACKER_PACKAGES: Final = ("xz-utils", "lz4", "zstd")

# Fixed, so that the same source and configuration give the same bytes.
IDENTITY: Final = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "minivmm",
    "KBUILD_BUILD_HOST": "minivmm",
    "KBUILD_BUILD_VERSION": "1",
}
OPTION: Final = re.compile(r"(?:# )?(CONFIG_\w+)(?:=.*| is not set)")


def kernel(
    name: str,
    fragments: tuple[str, ...],
    cpu_minutes: int,
    patches: tuple[Path, ...] = (),
    modules: tuple[str, ...] = (),
    flags: str = EMULATED,
) -> Target:
    """Return the target that builds our kernel `name` from `fragments`.

    Later fragments win over earlier ones, and all over `make tinyconfig`.
    `cpu_minutes` is what the build takes on one core, for the estimate. The
    `patches` are applied to the source in their order. The `modules`, paths in the
    source without `.ko`, are built beside it, into `modules-<name>/`. The compiler
    gets `flags` after the kernel's own.
    """
    paths = tuple(GUEST_DIR / "linux" / fragment for fragment in fragments)
    images = (f"vmlinux-{name}", f"bzImage-{name}", f"System.map-{name}")

    def build(shop: Workshop, out: Path) -> None:
        debian.need_packages(TOOLS)
        tree = shop.source_tree(SOURCE, patches)
        make, objects = _configured(shop, name, tree, paths, cpu_minutes, flags)
        make(["vmlinux", "bzImage", *(f"{module}.ko" for module in modules)])
        log = shop.log(f"kernel-{name}")
        progress.run(["strip", "-s", "-o", out / images[0], objects / "vmlinux"], log)
        os.replace(objects / "arch/x86/boot/bzImage", out / images[1])
        os.replace(objects / "System.map", out / images[2])
        for module in modules:
            target = out / _module_output(name, module)
            target.parent.mkdir(exist_ok=True)
            os.replace(objects / f"{module}.ko", target)

    return Target(
        name=f"kernel-{name}",
        outputs=images + tuple(_module_output(name, module) for module in modules),
        sources=paths + patches,
        recipe=f"tinyconfig + fragments, stripped; {IDENTITY} {flags}"
        + "".join(f" {module}" for module in modules),
        packages=(SOURCE,),
        build=build,
    )


def _module_output(name: str, module: str) -> str:
    return f"modules-{name}/{module.rpartition('/')[2]}.ko"


def cloud_kernel() -> Target:
    """Return the target that fetches Debian's unmodified cloud kernel."""
    return Target(
        name="kernel-debian",
        outputs=(
            "vmlinux-debian",
            "bzImage-debian",
            *(_module_output("debian", module) for module in CLOUD_MODULES),
        ),
        sources=(),
        recipe="bzImage, its unpacked payload, modules",
        packages=(CLOUD,),
        build=_fetch_cloud_kernel,
    )


def settings(lines: Iterable[str]) -> dict[str, str]:
    """Return the option lines of a configuration by option; the last one wins."""
    matches = (OPTION.fullmatch(line.strip()) for line in lines)
    return {match[1]: match[0] for match in matches if match}


def check_settings(wanted: dict[str, str], config: dict[str, str]) -> None:
    """Raise BuildError if kconfig overruled what a fragment asks for.

    It drops silently what lacks a dependency, or what something else selects.
    """
    for option, line in wanted.items():
        unset = f"# {option} is not set"
        if config.get(option, unset) != line:
            raise BuildError(
                f"the kernel's configuration has {config.get(option, unset)!r} "
                f"where our fragment says {line!r}"
            )


def payload(bzimage: bytes) -> tuple[str, bytes]:
    """Return what unpacks the kernel in `bzimage`, and the packed bytes.

    The first is a program that takes `-dc`. Raises BuildError for what is no
    bzImage or packed otherwise. Source: Documentation/x86/boot.rst,
    payload_offset and payload_length (protocol 2.08 and later).
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise BuildError("Debian's kernel is no bzImage")
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = (
        int.from_bytes(bzimage[at : at + 4], "little") for at in (0x248, 0x24C)
    )
    start = (setup_sectors + 1) * 512 + offset
    # The last four bytes are the unpacked size (scripts/Makefile.lib,
    # size_append), which lz4 would take for the next block.
    packed = bzimage[start : start + length - 4]
    for magic, program in UNPACKERS.items():
        if packed.startswith(magic):
            return program, packed
    raise BuildError(f"Debian's kernel is packed in an unknown way: {packed[:4].hex()}")


def _configured(
    shop: Workshop,
    name: str,
    tree: Path,
    fragments: tuple[Path, ...],
    cpu_minutes: int,
    flags: str,
) -> tuple[Callable[[list[str]], None], Path]:
    """Configure the kernel; return what makes targets, and where they come to be."""
    cores = len(os.sched_getaffinity(0))
    minutes = math.ceil(cpu_minutes / cores)
    progress.say(
        f"building the {name} kernel from {SOURCE} "
        f"(about {minutes} minute{'s'[: minutes > 1]} on {cores} "
        f"core{'s'[: cores > 1]})"
    )
    objects = shop.work_dir / name
    objects.mkdir()
    log = shop.log(f"kernel-{name}")
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "ARCH")}
    env |= IDENTITY | {"LC_ALL": "C", "KCFLAGS": flags}
    # One more job than cores: some wait, for the linker's files or a pipe.
    make = ["make", "-C", str(tree), f"O={objects}", f"-j{cores + 1}"]

    progress.run([*make, "tinyconfig"], log, env=env)
    config = objects / ".config"
    wanted = "".join(fragment.read_text() for fragment in fragments)
    config.write_text(config.read_text() + wanted)
    progress.run([*make, "olddefconfig"], log, env=env)
    check_settings(
        settings(wanted.splitlines()), settings(config.read_text().splitlines())
    )
    return lambda targets: progress.run([*make, *targets], log, env=env), objects


def _fetch_cloud_kernel(shop: Workshop, out: Path) -> None:
    image = debian.dependency(CLOUD, CLOUD_IMAGE)
    deb = shop.package(image, debian.candidate(image, shop.log("apt")))
    bzimage = debian.read_member(deb, "./boot/vmlinuz-")
    program, packed = payload(bzimage)
    debian.need_packages(UNPACKER_PACKAGES)
    (out / "bzImage-debian").write_bytes(bzimage)
    with (out / "vmlinux-debian").open("wb") as vmlinux:
        done = subprocess.run([program, "-dc"], input=packed, stdout=vmlinux)
    if done.returncode:
        raise BuildError(f"{program} cannot unpack Debian's kernel")
    release = image.removeprefix("linux-image-")
    for module in CLOUD_MODULES:
        path = f"./lib/modules/{release}/kernel/{module}.ko"
        target = out / _module_output("debian", module)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(debian.read_member(deb, path))
