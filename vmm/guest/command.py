"""One command to be run in a guest: checked, and put into an initramfs segment.

The segment has the files that the user adds, `/vmm-exec`, which the kernel starts as
its first program (`rdinit=`), and `/vmm-exec.argv`, which tells it what to run and
where the output goes. Source of the protocol: guest/linux/vmm-exec.c.
"""

import codecs
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ..config import path_of
from ..errors import ConfigError
from ..input_file import read_up_to
from ..installation import is_checkout, script
from . import cpio
from .files import GuestFiles, split_spec

if TYPE_CHECKING:
    from ..config import MachineConfig, StrPath

HELPER: Final = "vmm-exec"
SCRIPT: Final = "vmm-exec.script"
OUTPUT: Final = "/dev/ttyS1"
ARGUMENTS_MAX: Final = 256  # what the helper has room for
ARGV_SIZE_MAX: Final = 65535

# In the place of an errno
NO_OUTPUT: Final = 0xFF
NO_INTERPRETER: Final = 0xFE
CRLF: Final = 0xFD


def command_argv(command: str | Sequence[str]) -> tuple[str, ...]:
    """The words of a command, split as a shell would, but nothing is expanded.

    Raises ConfigError for one that is empty or too long, or a quote without its end.
    """
    try:
        argv = tuple(shlex.split(command) if isinstance(command, str) else command)
    except ValueError as error:
        raise ConfigError(f"exec: {command!r}: {str(error).lower()}") from None
    if not argv or not argv[0]:
        raise ConfigError("exec: the command is empty")
    if any("\0" in word for word in argv):
        raise ConfigError("exec: the command has a NUL byte")
    if len(argv) > ARGUMENTS_MAX or len(_joined(argv)) > ARGV_SIZE_MAX - len(OUTPUT):
        raise ConfigError(
            f"exec: the command has more than {ARGUMENTS_MAX} words or "
            f"{ARGV_SIZE_MAX} bytes: put it into a script"
        )
    return argv


def file_pairs(
    files: "Mapping[str, StrPath] | Iterable[StrPath | tuple[StrPath, str]]",
) -> tuple[tuple[str, str], ...]:
    """(HOST, GUEST) of each file: a mapping of GUEST to HOST, or such pairs the other
    way round, or "HOST[:GUEST]". Raises ConfigError."""
    if isinstance(files, Mapping):
        files = [(host, guest) for guest, host in files.items()]
    pairs = []
    for item in files:
        host, guest = item if isinstance(item, tuple) else split_spec(os.fspath(item))
        if not guest.startswith("/"):
            raise ConfigError(f"files: {guest!r} is no absolute path in the guest")
        pairs.append((os.fspath(host), guest))
    return tuple(pairs)


def check_command(
    config: "MachineConfig",
) -> tuple[tuple[str, ...] | None, tuple[tuple[str, str], ...]]:
    """The configuration's `command` and `files` in the form in which they are kept.

    Raises ConfigError for what can't be, alone or together.
    """
    if config.command is not None and config.script is not None:
        raise ConfigError("script: it excludes exec: one command can be run")
    if config.capture is not None and not config.runs_command:
        raise ConfigError("capture: there is no command whose output it could be")
    if config.capture == "stdout" and config.serial in ("stdio", "stdout"):
        raise ConfigError(
            "serial: with --capture, stdout has the command's output: pass null, "
            "file:PATH or unix:PATH"
        )
    for where in (config.serial, *config.tee):
        if config.capture and path_of(config.capture) == path_of(where) is not None:
            raise ConfigError(
                f"capture: {config.capture!r} is where the console writes ({where!r}): "
                "each needs a file of its own"
            )
    if config.script is not None:
        _check_script(os.fspath(config.script))
    argv = None if config.command is None else command_argv(config.command)
    return argv, file_pairs(config.files)


def command_parameters(config: "MachineConfig", cmdline: str) -> str:
    """What the kernel must be told. Raises ConfigError for a `cmdline` against it."""
    if any(word.startswith("rdinit=") for word in cmdline.split()):
        raise ConfigError(
            "cmdline: rdinit= excludes exec and script, which have theirs"
        )
    # Many kernels look for one UART only unless they are told.
    return f"rdinit=/{HELPER}" + " 8250.nr_uarts=2" * (config.capture is not None)


def _check_script(path: str) -> None:
    """Raises ConfigError unless it is a file that may be executed, and will be."""
    try:
        head = read_up_to(path, 256)  # as much as Linux looks at
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"script: {path!r}: {error.strerror}") from None
    if not mode & 0o100:
        raise ConfigError(f"script: {path!r} has no run bit: chmod +x {path}")
    line, newline, _ = head.partition(b"\n")
    if newline and line.endswith(b"\r") and not line.startswith(b"\x7fELF"):
        raise ConfigError(
            f"script: {path!r} has lines that end in CR LF, as Windows writes them: "
            "the guest would look for an interpreter whose name ends in CR; "
            f"sed -i 's/\\r$//' {path}"
        )
    if line.startswith(codecs.BOM_UTF8):
        raise ConfigError(
            f"script: {path!r} begins with a byte order mark, behind which no #! is "
            f"seen: sed -i '1s/^\\xef\\xbb\\xbf//' {path}"
        )


def initramfs_segment(config: "MachineConfig", build_dir: str) -> bytes:
    """The cpio archive that goes behind the initrd. Raises ConfigError."""
    files = GuestFiles(config.memory_size)
    for host, guest in file_pairs(config.files):  # as they are already
        files.add(host, guest)
    argv = None if config.command is None else tuple(config.command)
    if config.script is not None:
        files.add(os.fspath(config.script), f"/{SCRIPT}")
        argv = (f"/{SCRIPT}",)
    if argv is not None:
        files.entries.extend(_nodes())
        output = OUTPUT if config.capture is not None else ""
        files.entries.append(cpio.file(HELPER, _helper(build_dir), 0o755))
        words = _joined((output, *argv))
        files.entries.append(cpio.file(f"{HELPER}.argv", words, 0o600))
    return cpio.write(files.entries)


def _nodes() -> list[cpio.Entry]:
    """What the kernel opens for its first program; the helper makes the rest."""
    return [
        cpio.parent("dev"),
        cpio.character_device("dev/console", 5, 1),
    ]


def _helper(build_dir: str) -> bytes:
    """The program: scripts/build-guest's in a checkout, else the package's own."""
    for folder in (build_dir, os.path.dirname(__file__)):
        try:
            with open(os.path.join(folder, HELPER), "rb") as program:
                return program.read()
        except FileNotFoundError:
            continue
    how = (
        f"run {script('build-guest busybox')}"
        if is_checkout()
        else "install a C compiler and then minivmm again "
        "(pip install --force-reinstall --no-cache-dir minivmm)"
    )
    raise ConfigError(f"exec: the guest's {HELPER} isn't built: {how}")


def _joined(words: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(word) + b"\0" for word in words)


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
