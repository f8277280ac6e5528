"""What runs in the guests: init, test programs, initramfs archives, bare guests."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

from vmm.guest import cpio

from . import debian, progress
from .target import Target
from .workshop import GUEST_DIR

if TYPE_CHECKING:
    from pathlib import Path

    from .workshop import Workshop

BUSYBOX: Final = "busybox-static"
LINUX_DIR: Final = GUEST_DIR / "linux"
CPIO: Final = GUEST_DIR.parent / "vmm/guest/cpio.py"  # newc archives
BARE_DIR: Final = GUEST_DIR / "bare"
STRESS_DIR: Final = LINUX_DIR / "stress"
TOOLS: Final = ("portio", "keylog")
HELPER: Final = "vmm-exec"
AGENT: Final = "vmm-agent"
AGENT_DIR: Final = LINUX_DIR / "agent"
HEADERS: Final = ("furnish.h", "sys.h")
INIT: Final = ("init.c", *HEADERS)

# No C library: a few kB instead of 700, in archives that slow hosts unpack. Loops are
# not to become calls of memset, memcpy or strlen. setup.py uses these flags, too.
C_FLAGS: Final = tuple((LINUX_DIR / "cflags").read_text().split())
# With the C library: it has threads, and dozens of signals and system calls to make.
STRESS_FLAGS: Final = (
    *("-O2", "-Wall", "-Wextra", "-Werror", "-s", "-static", "-pthread"),
    *("-D_GNU_SOURCE", "-Wl,--build-id=none"),
)
# -N: one segment, writable and executable, that starts where it is linked.
BARE_FLAGS: Final = (
    *("-static", "-nostdlib", "-no-pie", "-s", "-Wa,--fatal-warnings"),
    "-Wl,-N,-Ttext=0x100000,--build-id=none,--no-warn-rwx-segments",
)
# 32-bit guests, entered by other protocols than Linux's. A flat one is the bytes of
# its segment, without an ELF header around them. The linker puts a note, which is
# no part of -N's segment, at 128 MiB unless told where.
BARE32_FLAGS: Final = (
    *(*BARE_FLAGS, "-m32"),
    "-Wl,--section-start=.note.Xen=0x110000,--section-start=.low=0x8000",
)
BARE32: Final = (
    *("lstar32", "multiboot", "multiboot-flat", "multiboot-low"),
    *("pvh32", "real-mode"),
)
FLAT: Final = ("multiboot-flat",)
FLAT_FLAGS: Final = ("-Wl,--oformat=binary",)


# The applets that have a name in /bin, for programs that start others. busybox's shell
# and vmm-exec find all 270 without; and a host that emulates the kernel takes 16,000
# instructions a link, 12 seconds for all of them.
APPLETS: Final = frozenset(
    """
    [ ash awk basename cat chmod chown cp cut date dd df diff dirname du echo env expr
    false find grep gunzip gzip head hostname id kill ln ls md5sum mkdir mknod mktemp
    mount mv nproc od printf ps pwd readlink reboot rm rmdir sed seq sh sha256sum sleep
    sort stat stty sync tail tar tee test timeout touch tr true umount uname uniq wc
    which xargs
    """.split()
)


def tiny_initramfs() -> Target:
    """Return the target of the archive that holds our init and nothing else."""
    return Target(
        name="initramfs-tiny",
        outputs=("initramfs-tiny.cpio",),
        sources=(*(LINUX_DIR / name for name in INIT), CPIO),
        recipe=f"{C_FLAGS} 2",
        build=_build_tiny_initramfs,
    )


def busybox_initramfs() -> Target:
    """Return the target of the archive with our init, busybox and test programs."""
    names = (*INIT, *(f"{tool}.c" for tool in TOOLS))
    return Target(
        name="initramfs-busybox",
        outputs=("initramfs-busybox.cpio",),
        sources=(*(LINUX_DIR / name for name in names), CPIO),
        recipe=f"{C_FLAGS} {sorted(APPLETS)} 1",
        packages=(BUSYBOX,),
        build=_build_busybox_initramfs,
    )


def helper() -> Target:
    """Return the target of the program by which a guest runs one command."""
    return Target(
        name=HELPER,
        outputs=(HELPER,),
        sources=tuple(LINUX_DIR / name for name in (f"{HELPER}.c", *HEADERS)),
        recipe=f"{C_FLAGS} 1",
        build=_build_helper,
    )


def agent() -> Target:
    """Return the target of the program that runs commands for the host."""
    return Target(
        name=AGENT,
        outputs=(AGENT,),
        sources=(
            *(LINUX_DIR / name for name in (f"{AGENT}.c", *HEADERS)),
            *sorted(AGENT_DIR.glob("*.h")),
        ),
        recipe=f"{C_FLAGS} 1",
        build=_build_agent,
    )


def stress() -> Target:
    """Return the target of the program that checks a kernel and its own results."""
    return Target(
        name="stress",
        outputs=("stress",),
        sources=tuple(sorted(STRESS_DIR.glob("*.[chS]"))),
        recipe=f"{STRESS_FLAGS} 1",
        build=_build_stress,
    )


def bare_guests() -> Target:
    """Return the target of all bare-metal guests, `bare/<name>.elf` or `.bin`."""
    guests = tuple(sorted(BARE_DIR.glob("*.S")))
    return Target(
        name="bare",
        outputs=tuple(f"bare/{_bare_image(guest)}" for guest in guests),
        sources=(*guests, *sorted(BARE_DIR.glob("*.h"))),
        recipe=f"{BARE_FLAGS} {BARE32_FLAGS} {BARE32} {FLAT_FLAGS} {FLAT}",
        build=_build_bare_guests,
    )


def console() -> list[cpio.Entry]:
    """Return /dev/console, which the kernel opens before init runs."""
    return [cpio.directory("dev"), cpio.character_device("dev/console", 5, 1)]


def skeleton() -> list[cpio.Entry]:
    """Return the directories and device nodes that a shell wants to find.

    The nodes serve kernels without devtmpfs.
    """
    return [
        *console(),
        *(cpio.directory(path) for path in ("etc", "proc", "sys")),
        cpio.directory("tmp", 0o1777),
        cpio.character_device("dev/null", 1, 3, 0o666),
        cpio.character_device("dev/kmsg", 1, 11),
        cpio.character_device("dev/ttyS0", 4, 64),
    ]


def _build_tiny_initramfs(shop: Workshop, out: Path) -> None:
    debian.need_packages(["gcc", "libc6-dev"])
    # Each entry costs a host that emulates the kernel 18,000 instructions.
    entries = [*console(), cpio.file("init", _compiled(shop, "init"), 0o755)]
    (out / "initramfs-tiny.cpio").write_bytes(cpio.write(entries))


def _build_busybox_initramfs(shop: Workshop, out: Path) -> None:
    debian.need_packages(["gcc", "libc6-dev"])
    deb = shop.package(BUSYBOX, shop.versions[BUSYBOX])
    busybox = debian.read_member(deb, "./bin/busybox")
    entries = [
        *skeleton(),
        cpio.file("init", _compiled(shop, "init"), 0o755),
        cpio.directory("bin"),
        cpio.file("bin/busybox", busybox, 0o755),
        *(cpio.file(f"bin/{tool}", _compiled(shop, tool), 0o755) for tool in TOOLS),
        *(cpio.symlink(f"bin/{name}", "busybox") for name in _applets(shop, busybox)),
    ]
    (out / "initramfs-busybox.cpio").write_bytes(cpio.write(entries))


def _build_helper(shop: Workshop, out: Path) -> None:
    debian.need_packages(["gcc", "libc6-dev"])
    (out / HELPER).write_bytes(_compiled(shop, HELPER))


def _build_agent(shop: Workshop, out: Path) -> None:
    debian.need_packages(["gcc", "libc6-dev"])
    (out / AGENT).write_bytes(_compiled(shop, AGENT))


def _build_stress(shop: Workshop, out: Path) -> None:
    debian.need_packages(["gcc", "libc6-dev"])
    progress.say("building the stress program (a few seconds)")
    sources = sorted(STRESS_DIR.glob("*.[cS]"))
    command = ["gcc", *STRESS_FLAGS, "-o", out / "stress", *sources]
    progress.run(command, shop.log("stress"))


def _build_bare_guests(shop: Workshop, out: Path) -> None:
    debian.need_packages(["gcc"])
    progress.say("building the bare-metal guests (about a second)")
    (out / "bare").mkdir()
    for guest in sorted(BARE_DIR.glob("*.S")):
        target = out / "bare" / _bare_image(guest)
        flags: tuple[str, ...] = BARE32_FLAGS if guest.stem in BARE32 else BARE_FLAGS
        if guest.stem in FLAT:
            flags += FLAT_FLAGS
        progress.run(["gcc", *flags, "-o", target, guest], shop.log("bare"))


def _bare_image(guest: Path) -> str:
    return f"{guest.stem}.bin" if guest.stem in FLAT else f"{guest.stem}.elf"


def _compiled(shop: Workshop, name: str) -> bytes:
    target = shop.work_dir / name
    source = LINUX_DIR / f"{name}.c"
    progress.run(["gcc", *C_FLAGS, "-o", target, source], shop.log("programs"))
    return target.read_bytes()


def _applets(shop: Workshop, busybox: bytes) -> list[str]:
    """Those of APPLETS that this very busybox has; it is static, so it runs here."""
    program = shop.work_dir / "busybox"
    program.write_bytes(busybox)
    program.chmod(0o755)
    done = subprocess.run(
        [os.fspath(program), "--list"], capture_output=True, text=True, check=True
    )
    return sorted(APPLETS.intersection(done.stdout.split()))
