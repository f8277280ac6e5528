"""One command to be run in a guest, put into an initramfs segment.

The segment has the files that the user adds, `/vmm-exec`, which the kernel starts as
its first program (`rdinit=`), and `/vmm-exec.argv`, which tells it what to run and
where the output goes. Source of the protocol: guest/linux/vmm-exec.c.
"""

import os
from collections.abc import Sequence
from typing import Final

from ..errors import ConfigError
from . import cpio
from .config import OUTPUT, CommandConfig, joined
from .files import GuestFiles
from .program import program

HELPER: Final = "vmm-exec"
SCRIPT: Final = "vmm-exec.script"

# In the place of an errno
NO_OUTPUT: Final = 0xFF
NO_INTERPRETER: Final = 0xFE
CRLF: Final = 0xFD


def command_parameters(command: CommandConfig, cmdline: str) -> str:
    """What the kernel must be told. Raises ConfigError for a `cmdline` against it."""
    if any(word.startswith("rdinit=") for word in cmdline.split()):
        raise ConfigError(
            "cmdline: rdinit= excludes command and script, which have theirs"
        )
    # Many kernels look for one UART only unless they are told.
    return f"rdinit=/{HELPER}" + " 8250.nr_uarts=2" * (command.capture is not None)


def initramfs_segment(command: CommandConfig, limit: int, build_dir: str) -> bytes:
    """The cpio archive that goes behind the initrd, of up to `limit` bytes.

    Raises ConfigError.
    """
    files = GuestFiles(limit)
    for host, guest in command.files:
        files.add(host, guest)
    argv = command.command
    if command.script is not None:
        files.add(command.script, f"/{SCRIPT}")
        argv = (f"/{SCRIPT}",)
    if argv is not None:
        files.entries.extend(nodes())
        output = OUTPUT if command.capture is not None else ""
        files.entries.append(
            cpio.file(HELPER, program(HELPER, "command", build_dir), 0o755)
        )
        words = joined((output, *argv))
        files.entries.append(cpio.file(f"{HELPER}.argv", words, 0o600))
    return cpio.write(files.entries)


def nodes() -> list[cpio.Entry]:
    """What the kernel opens for its first program; the helper makes the rest."""
    return [
        cpio.parent("dev"),
        cpio.character_device("dev/console", 5, 1),
    ]


_OTHER_FAILURES: Final = {
    NO_INTERPRETER: "it is there, but the guest has neither what its first line names "
    "to run it nor, if it is a program, its dynamic loader: link it statically, or add "
    "what it needs",
    CRLF: "its lines end in CR LF, as Windows writes them, and the guest looks for an "
    "interpreter whose name ends in CR: sed -i 's/\\r$//' FILE",
}


def describe_status(word: int, argv: Sequence[str] | None) -> str:
    """What the word that the guest wrote to its exit port says, for people."""
    status, failure = word & 0xFF, word >> 8
    if failure == NO_OUTPUT:
        return (
            f"the guest's kernel has no {OUTPUT} for the command's output "
            "(CONFIG_SERIAL_8250_NR_UARTS is 1?)"
        )
    if failure:
        name = argv[0] if argv else "the script"
        why = _OTHER_FAILURES.get(failure) or os.strerror(failure).lower()
        return f"{name!r} could not be started in the guest: {why}"
    return f"status {status}" if status else ""
