"""The command line of scripts/with-kvm."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run by path and isolated: nothing else finds us

from scripts.with_kvm.host_kvm import host_kvm  # noqa: E402
from scripts.with_kvm.qemu import Machine, MachineOptions  # noqa: E402
from scripts.with_kvm.supervisor import (  # noqa: E402
    FORWARDED,
    MachineError,
    Stopped,
    Supervisor,
)

CANNOT_RUN = 125  # the statuses of env(1), timeout(1) and their kin
NOT_EXECUTABLE = 126
NOT_FOUND = 127
EPILOG = """\
Where /dev/kvm is hardware-style KVM, COMMAND just runs here. Elsewhere it runs
as root in a software machine (QEMU's emulator with AMD-V) that sees this host's
files: what it writes vanishes, but for --out. Standard streams, signals, the
working directory and the environment are the caller's; there is no network.
The exit status is COMMAND's, 128 + n if signal n ended it, 125 if with-kvm
itself failed, 126 or 127 if COMMAND cannot be run."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="with-kvm",
        description="Run COMMAND where /dev/kvm is full hardware-style KVM.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--out", metavar="DIR", help="keep what COMMAND writes in $WITH_KVM_OUT")
    add("--memory", metavar="MIB", type=int, default=2048, help="of the machine; 2048")
    add("--software", action="store_true", help="use the software machine anyway")
    add("--host-kind", action="store_true", help="print hardware, pvm or none; end")
    add("--quiet", action="store_true", help="do not say where COMMAND runs")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND...")
    return result


def open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed, lest another fd get there."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def run_here(command: list[str], out: str | None) -> int:
    """Become the command; return only if it cannot be run."""
    os.environ.pop("WITH_KVM_OUT", None)
    if out:
        os.environ["WITH_KVM_OUT"] = out
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        print(f"with-kvm: {command[0]}: command not found", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"with-kvm: {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE


def run_in_machine(command: list[str], memory_mib: int, out: str | None) -> int:
    """Run the command in a software machine; return its status."""
    built = subprocess.run([ROOT / "scripts/build-machine"], stdout=subprocess.PIPE)
    if built.returncode:
        return CANNOT_RUN
    directory = Path(os.fsdecode(built.stdout.strip()))
    options = MachineOptions(directory, memory_mib, Path(out) if out else None)
    # One that comes while the machine is started waits for who can end it.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    machine = Machine(options)
    try:
        return Supervisor(machine).run(command, out)
    except Stopped as stopped:
        number = signal.Signals(stopped.args[0])
        print(f"with-kvm: stopped by {number.name}", file=sys.stderr)
        return 128 + number
    except MachineError as error:
        words = machine.last_words()
        print(f"with-kvm: the software machine failed: {error}", file=sys.stderr)
        print(words, file=sys.stderr)
        return CANNOT_RUN
    finally:
        machine.close()


def main() -> int:
    """Choose the place, run the command there, return the status."""
    open_standard_streams()
    options = parser().parse_args()
    found = host_kvm()
    if options.host_kind:
        print(found.kind)
        return 0
    command = options.command[options.command[:1] == ["--"] :]
    if not command:
        parser().print_usage(sys.stderr)
        return CANNOT_RUN
    out = None
    if options.out:
        os.makedirs(options.out, exist_ok=True)
        out = os.path.realpath(options.out)
    here = found.kind == "hardware" and not options.software
    if not options.quiet:
        where = "running here" if here else "running in the software machine"
        print(f"with-kvm: {where}: {found.reason}", file=sys.stderr)
    if here:
        return run_here(command, out)
    return run_in_machine(command, options.memory, out)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # no machine runs yet
        sys.exit(128 + signal.SIGINT)
