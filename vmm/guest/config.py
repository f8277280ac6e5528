"""CommandConfig: a command that a user wants run in a guest, checked."""

import codecs
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from ..field_types import Checked, StrPath, setting
from ..input_file import read_up_to
from ..place import Place, place
from .files import split_spec

if TYPE_CHECKING:  # for type checkers alone
    from typing import Unpack

    from .settings import CommandSettings

ARGUMENTS_MAX: Final = 256  # what the helper has room for
ARGV_SIZE_MAX: Final = 65535
OUTPUT: Final = "/dev/ttyS1"  # where output goes that is captured

_Files = Mapping[str, StrPath] | Iterable[StrPath | tuple[StrPath, str]]


def _argv(field: str, command: str | Sequence[str]) -> tuple[str, ...]:
    try:
        argv = tuple(shlex.split(command) if isinstance(command, str) else command)
    except ValueError as error:
        raise ConfigError(f"{field}: {command!r}: {str(error).lower()}") from None
    if not argv or not argv[0]:
        raise ConfigError(f"{field}: it is empty")
    if len(argv) > ARGUMENTS_MAX or len(joined(argv)) > ARGV_SIZE_MAX - len(OUTPUT):
        raise ConfigError(
            f"{field}: it has more than {ARGUMENTS_MAX} words or {ARGV_SIZE_MAX} "
            "bytes: put it into a script"
        )
    return argv


def _pairs(field: str, files: _Files) -> tuple[tuple[str, str], ...]:
    if isinstance(files, Mapping):
        files = [(host, guest) for guest, host in files.items()]
    pairs = []
    for item in files:
        host, guest = item if isinstance(item, tuple) else split_spec(os.fspath(item))
        if not guest.startswith("/"):
            raise ConfigError(f"{field}: {guest!r} is no absolute path in the guest")
        pairs.append((os.fspath(host), guest))
    return tuple(pairs)


def _capture(field: str, where: str | Place) -> Place:
    return place(field, where, ("stdout", "null", "capture"))


def _script(field: str, script: StrPath) -> str:
    """A file that may be executed, and will be."""
    path = os.fspath(script)
    try:
        head = read_up_to(path, 256)  # as much as Linux looks at
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{field}: {path!r}: {error.strerror}") from None
    if not mode & 0o100:
        raise ConfigError(f"{field}: {path!r} has no run bit: chmod +x {path}")
    line, newline, _ = head.partition(b"\n")
    if newline and line.endswith(b"\r") and not line.startswith(b"\x7fELF"):
        raise ConfigError(
            f"{field}: {path!r} has lines that end in CR LF, as Windows writes them: "
            "the guest would look for an interpreter whose name ends in CR; "
            f"sed -i 's/\\r$//' {path}"
        )
    if line.startswith(codecs.BOM_UTF8):
        raise ConfigError(
            f"{field}: {path!r} begins with a byte order mark, behind which no #! is "
            f"seen: sed -i '1s/^\\xef\\xbb\\xbf//' {path}"
        )
    return path


class CommandConfig(Checked):
    """What is run in the guest in place of its init, and what is added to it."""

    command: tuple[str, ...] | None = setting(None, str | Sequence[str] | None, _argv)
    """Words, or a line that is split as a shell does, but not expanded."""
    script: str | None = setting(None, StrPath | None, _script)
    """In its place, an executable file of the host."""
    files: tuple[tuple[str, str], ...] = setting((), _Files, _pairs)
    """What is put into the initramfs: a mapping of absolute guest paths to host paths,
    or "HOST[:GUEST]" strings, or (HOST, GUEST) pairs, as which they are kept;
    directories with all that is in them. It may be all there is."""
    capture: Place | None = setting(None, str | Place | None, _capture)
    """Where the output of the command goes by ttyS1: "capture" (the result's `output`),
    "stdout" (ours), "null", "file:PATH" or "unix:PATH". None: to the console."""

    if TYPE_CHECKING:

        def __init__(self, **settings: Unpack[CommandSettings]) -> None: ...

    def __post_init__(self) -> None:
        if self.command is not None and self.script is not None:
            raise ConfigError("script: it excludes command: one of them can be run")
        if self.capture is not None and not self.runs:
            raise ConfigError("capture: there is no command whose output it could be")

    @property
    def runs(self) -> bool:
        """Whether there is a command, whose status the guest then tells."""
        return self.command is not None or self.script is not None


def joined(words: Iterable[str]) -> bytes:
    """What the helper reads."""
    return b"".join(os.fsencode(word) + b"\0" for word in words)
