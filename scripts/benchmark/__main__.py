"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from scripts.with_kvm.host_kvm import Kind, host_kvm
from vmm.errors import VmmError

from . import boot, clone, exits, plot, startup, virtio
from .errors import BenchError
from .host import this_host
from .report import as_json, as_markdown, as_text
from .rounds import Job, Measured, run_rounds
from .summary import rows
from .tools import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

MEASURES: Final = ("exits", "boot", "startup", "clone", "virtio")
TITLES: Final = (
    exits.MEASURES
    | clone.MEASURES
    | virtio.MEASURES
    | {
        "boot-verbose": "process start to init, all messages on ttyS0",
        "boot-quiet": "process start to init, with `quiet`",
        "boot-memory": "memory beyond guest RAM, written and private, at init (quiet)",
        "first-run": "process start to first KVM_RUN",
        "private-dirty": "memory beyond guest RAM that is written to and private",
        "resident": "memory beyond guest RAM that is resident",
    }
)
EXIT_USAGE: Final = 2
DESCRIPTION: Final = """\
Measure this VMM beside what it has to be compared with, all on this machine and in
turns, round after round; print medians, spread and ratios.

measures:
  exits     what an access to the UART costs: thr-write, lsr-read, mix (a byte of
            polled output), by the guest's own clock
  boot      from process start to the first line of init, and memory beyond guest
            RAM then: Debian's cloud kernel, on PVM our ring-3 one, which runs
            natively there
  startup   from process start to the first KVM_RUN; memory beyond guest RAM
  clone     snapshots: what one takes, and a clone of it in this process, with 128 and
            512 MiB of RAM: to its first exit, to the agent's answer, put back; and
            restored by a new process, to the answer of a shell
  virtio    a doorbell's ring, and with the interrupt that answers it; exits beside a
            device at work in a thread or a process; Linux: a read of 64 bytes from a
            virtio device, bytes written to hvc0 and ttyS0
  (none)    all of these

variants:
  c         the limit: a plain C loop around KVM_RUN
  compiled  vmm with its compiled run loop, coalesced port I/O off
  python    vmm with its Python run loop, coalesced port I/O off
  all       vmm as it comes: compiled loop, coalesced port I/O
  machine   Machine(...) in a Python that runs already, which is what a test suite
            has; from the constructor on (boot only)
  qemu      QEMU microvm, if qemu-system-x86_64 is on PATH; with an RTC and KVM's
            IOAPIC, without which Linux boots slower: qemu-default (boot only)
  firecracker, cloud-hypervisor, lkvm
            if they are on PATH (boot only); lkvm, kvmtool, boots the bzImage
            and nothing on PVM

All get one CPU, the same kernel, initramfs, command line and RAM, ttyS0 on stdout and
no device that the guest doesn't use, as far as they let us. Firecracker adds pci=off
to the command line and has its log at level Error; Cloud Hypervisor has always a PCI
bus and a random source. Both keep their seccomp filters.
"""
EPILOG: Final = """\
examples:
  scripts/bench exits
  scripts/bench exits startup --rounds 15 --json bench.json --plot bench.png
  PATH=$HOME/peers:$PATH scripts/bench boot --rounds 9 --markdown
  scripts/with-kvm --out results scripts/bench boot --json results/boot.json

The last one measures in the software machine where this host's KVM is not hardware's;
only what is under --out's directory stays. Run scripts/build-guest bare debian before:
in there is no network."""


class Parser(argparse.ArgumentParser):
    """argparse, but a usage error is one line."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit 2."""
        self.exit(EXIT_USAGE, f"bench: error: {message}; try --help\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked as far as that is possible before measuring.

    Raises BenchError.
    """
    parser = Parser(
        prog="scripts/bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("measures", metavar="MEASURE", nargs="*", help=", ".join(MEASURES))
    add("--rounds", metavar="N", type=int, default=7, help="default: %(default)s")
    add("--json", metavar="FILE", help="write the results to FILE as JSON")
    add("--markdown", action="store_true", help="print the medians as such a table")
    add("--plot", metavar="FILE.png", help="draw them (needs matplotlib)")
    options = parser.parse_args(arguments)
    for measure in options.measures:
        if measure not in MEASURES:
            parser.error(f"no measure {measure!r}, there are {', '.join(MEASURES)}")
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds} is not above 0")
    for name in ("json", "plot"):
        path = getattr(options, name)
        if path is not None:
            _check_writable(f"--{name}", path)
    if options.plot is not None:
        plot.load_matplotlib()
    options.measures = options.measures or list(MEASURES)
    return options


def _check_writable(option: str, path: str) -> None:
    """Raise BenchError now where writing would fail after all the work."""
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK | os.X_OK) or os.path.isdir(path):
        raise BenchError(
            f"{option}: {path!r} can't be written: name a file in a folder"
        )


def build_guests(measures: Sequence[str], kind: Kind) -> None:
    """Build the guests that these measures run. Raises BenchError."""
    names = ["bare"]
    names += [boot.needed(kind)] if "boot" in measures else []
    names += clone.needed(kind) if "clone" in measures else []
    names += virtio.needed(kind) if "virtio" in measures else []
    done = subprocess.run([ROOT / "scripts/build-guest", "--quiet", *names])
    if done.returncode:
        raise BenchError(
            f"guests not built: run scripts/build-guest {' '.join(names)} (outside of "
            "the software machine, where there is a network)"
        )


def jobs(measures: Sequence[str], kind: Kind) -> list[Job]:
    """Return the runs of one round."""
    result: list[Job] = []
    if "exits" in measures:
        result += exits.jobs()
    if "boot" in measures:
        result += boot.jobs(kind)
    if "startup" in measures:
        result += startup.jobs()
    if "clone" in measures:
        result += clone.jobs(kind)
    if "virtio" in measures:
        result += virtio.jobs(kind)
    return result


def show_progress(text: str) -> None:
    """Show on a terminal what is being measured, in one line; "" clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def tell(options: argparse.Namespace, kind: Kind, measured: Measured) -> None:
    """Print the table, write the files. Raises BenchError and OSError."""
    host, table = this_host(kind), rows(measured.samples)
    booted = boot.booted(kind) if "boot" in options.measures else None
    if options.markdown:
        print(as_markdown(host, booted, table))
    else:
        print(as_text(host, booted, table, measured.reasons, TITLES))
    if options.json is not None:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(as_json(host, booted, table, measured.reasons), file, indent=2)
            file.write("\n")
    if options.plot is not None:
        plot.draw(table, options.plot, f"{host.cpu}, {host.kind} KVM, {host.date}")


def bench(arguments: Sequence[str] | None) -> None:
    """Do it all. Raises BenchError, VmmError and OSError."""
    options = parse(arguments)
    found = host_kvm()
    if found.kind == "none":
        raise BenchError(
            f"{found.reason}; scripts/with-kvm scripts/bench ... brings one"
        )
    build_guests(options.measures, found.kind)
    try:
        measured = run_rounds(
            jobs(options.measures, found.kind), options.rounds, show_progress
        )
    finally:
        show_progress("")
    tell(options, found.kind, measured)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code: 0, 1 failed, 2 bad usage, 128 + n for signal n."""
    try:
        bench(arguments)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BenchError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (VmmError, OSError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    for name in [name for name in os.environ if name.startswith("VMM_")]:
        del os.environ[name]  # a Machine in this process obeys them
    sys.exit(main())
