"""The command line of scripts/build-guest."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final, NoReturn

from . import debian, linux, programs, progress
from .errors import BuildError, CommandFailedError
from .target import Target, build, is_current, read_stamp
from .workshop import BUILD_DIR, open_workshop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import FrameType

    from .workshop import Workshop

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

DESCRIPTION: Final = """\
Build what runs inside the virtual machines, into guest/build/. What is current
is left alone; what Debian packages are needed is installed (sudo).

Our kernels are Debian's source with the patches in guest/linux/patches/, which
save time where KVM emulates kernel code (PVM); elsewhere nobody would notice them.
Those named ring3 run in ring 3 alone, which such hosts don't emulate: natively, but
with one CPU, and unprotected from their programs.

guests:
  tiny      our smallest kernel, with an initramfs that holds our init alone, and
            vmm-exec, which runs commands (vmm run --exec), and vmm-agent (--agent)
  tiny-ring3  the same in ring 3
  bare      bare-metal test guests
  full      a kernel with SMP, virtio, keyboard, clock; the busybox initramfs
  full-ring3  the same in ring 3, with ACPI, PCI, modules, and more drivers
  debian    Debian's unmodified cloud kernel; the busybox initramfs
  busybox   the busybox initramfs, vmm-exec and vmm-agent
  stress    a program for guests that checks the kernel below it
  all       all of these, but full where KVM is PVM: full-ring3 stands in for it
  tiny-unpatched  tiny without our patches, to be had beside it
  (none)    what 'vmm run' boots here by itself, tiny-ring3 on PVM and tiny elsewhere;
            busybox and bare
"""


class Parser(argparse.ArgumentParser):
    """argparse, but a usage error is one line."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit 2."""
        self.exit(EXIT_USAGE, f"build-guest: error: {message}; try --help\n")


def guests(
    *, patched: bool = True, pvm: bool | None = None
) -> dict[str, tuple[Target, ...]]:
    """Return what each name on the command line stands for.

    `patched` is about the kernels tiny and full, `pvm` about all: whether this host's
    KVM is PVM, which is looked up by default.
    """
    patches = linux.PATCHES if patched else ()
    tiny, full = ("tiny.config",), ("tiny.config", "full.config")
    tiny_ring3, full_ring3 = (*tiny, "ring3.config"), (*full, "ring3.config")
    init, busybox = programs.tiny_initramfs(), programs.busybox_initramfs()
    helpers = programs.helper(), programs.agent()
    named = {
        "tiny": (linux.kernel("tiny", tiny, 5, patches), init, *helpers),
        "bare": (programs.bare_guests(),),
        "tiny-ring3": (
            linux.kernel(
                "tiny-ring3", tiny_ring3, 5, linux.PATCHES, flags=linux.NATIVE
            ),
            init,
            *helpers,
        ),
        "full": (linux.kernel("full", full, 12, patches), busybox),
        "full-ring3": (
            linux.kernel(
                "full-ring3",
                (*full_ring3, "full-ring3.config"),
                17,
                linux.PATCHES,
                ("drivers/block/brd", "drivers/misc/lkdtm/lkdtm"),
                linux.NATIVE,
            ),
            busybox,
        ),
        "debian": (linux.cloud_kernel(), busybox),
        "busybox": (busybox, *helpers),
        "stress": (programs.stress(),),
    }
    # Nobody would wait for it where it is emulated, and building it takes minutes.
    left_out = {"full"} if (is_pvm() if pvm is None else pvm) else set()
    chosen = (named[name] for name in named if name not in left_out)
    return named | {
        "all": tuple({t.name: t for targets in chosen for t in targets}.values()),
        "tiny-unpatched": (linux.kernel("tiny-unpatched", tiny, 5), init),
    }


def is_pvm(modules: str = "/sys/module") -> bool:
    """Tell whether this host's KVM is PVM, by the kernel modules it has."""
    return os.path.exists(f"{modules}/kvm_pvm")


def default_kernel(*, pvm: bool) -> str:
    """Return the guest that `vmm run` boots by itself here, on PVM or elsewhere."""
    return "tiny-ring3" if pvm else "tiny"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what `arguments` name; return the exit code: 0, 1 failed, 130 Ctrl-C."""
    options = _parse(arguments)
    named = guests(patched=not options.no_patches)
    chosen = {t.name: t for name in options.names for t in named[name]}
    if options.list:
        _list(named["all"], BUILD_DIR)
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _on_signal)
    try:
        stale = _build(list(chosen.values()), options.update, BUILD_DIR)
    except KeyboardInterrupt:
        print("\nbuild-guest: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except CommandFailedError as error:
        for line in progress.last_lines(error.log, 15):
            progress.detail(line)
        print(f"build-guest: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except (BuildError, OSError) as error:
        print(f"build-guest: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    if not stale and not options.quiet:
        progress.say(f"guest/build is up to date: {' '.join(options.names)}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="scripts/build-guest",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="see above")
    parser.add_argument(
        "--list", action="store_true", help="show what is built, and stop"
    )
    parser.add_argument(
        "--update", action="store_true", help="take newer Debian packages if there are"
    )
    parser.add_argument(
        "--no-patches",
        action="store_true",
        help="build tiny and full from the source as Debian has it",
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="say nothing if all is up to date"
    )
    options = parser.parse_args(arguments)
    options.names = options.names or [default_kernel(pvm=is_pvm()), "busybox", "bare"]
    for name in options.names:
        if name not in guests():
            parser.error(f"no guest {name!r}, there are {', '.join(guests())}")
    return options


def _build(targets: Sequence[Target], update: bool, build_dir: Path) -> bool:
    """Build what is stale; return whether anything was."""
    if not update and all(is_current(target, build_dir) for target in targets):
        return False  # the usual case takes no lock and asks nobody
    built = False
    with open_workshop(build_dir) as shop:
        if update:
            debian.update(shop.log("apt"))
        for target in targets:
            if update:
                shop.resolve(target.packages)
            # Asked again: whoever we waited for may have built it.
            if is_current(target, build_dir, shop.versions if update else None):
                continue
            shop.resolve(target.packages)
            _build_one(target, shop)
            built = True
    return built


def _build_one(target: Target, shop: Workshop) -> None:
    started = time.monotonic()
    out = shop.work_dir / f"out-{target.name}"
    out.mkdir()
    build(target, shop.versions, shop, out)
    sizes = [_sized(shop.build_dir / name) for name in target.outputs[:4]]
    more = len(target.outputs) - len(sizes)
    took = progress.duration(time.monotonic() - started)
    progress.detail(f"{', '.join(sizes)}{f' and {more} more' * (more > 0)} in {took}")


def _sized(path: Path) -> str:
    size = path.stat().st_size
    return f"{path.name} {size / 1e6:.1f} MB" if size > 50_000 else f"{path.name}"


def _list(targets: Sequence[Target], build_dir: Path) -> None:
    for target in targets:
        state = "current" if is_current(target, build_dir) else "not built"
        if state != "current" and read_stamp(target, build_dir):
            state = "stale"
        stamp = read_stamp(target, build_dir)
        versions = (stamp.packages if stamp else {}).items()
        source = "".join(f"  {package} {version}" for package, version in versions)
        print(f"{target.name:18} {state:9}{source}")


def _on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # unwinds, so that children and files go
