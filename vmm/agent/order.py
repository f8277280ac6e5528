"""What a user asks for, as the agent reads it: checked, bounded, in bytes."""

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Args = StrOrBytesPath | Sequence[StrOrBytesPath]
Env = Mapping[str, str] | Mapping[bytes, bytes]

SIZE_MAX: Final = 65000  # of all words together; the agent has 64 KiB
WORDS_MAX: Final = 1024  # of arguments, and of the environment
SHELL: Final = "/bin/sh"

# Flags
_ON_TERMINAL: Final = 1
_ERR_IS_OUT: Final = 2
_HAS_INPUT: Final = 4
_HAS_ENV: Final = 8
_AS_USER: Final = 16
_OWN_TOOL: Final = 32
_NOBODY: Final = 0xFFFFFFFF  # no uid, no gid
_TELL_START: Final = 64

Size = tuple[int, int]


class Surroundings(TypedDict, total=False):
    """What a command finds: as subprocess has them, but user and group by number."""

    env: Env | None
    cwd: StrOrBytesPath | None
    user: int | None
    group: int | None


def order(  # noqa: PLR0913, as subprocess has them
    args: Args,
    *,
    env: Env | None = None,
    cwd: StrOrBytesPath | None = None,
    user: int | None = None,
    group: int | None = None,
    has_input: bool = False,
    err_is_out: bool = False,
    size: Size | None = None,
    is_tool: bool = False,
    tells_start: bool = False,
) -> bytes:
    """The payload of RUN. `size`, rows and columns, gives the command a terminal.

    With `tells_start` the agent says when it runs, and its pid.

    Raises TypeError and ValueError, as subprocess does, for what no command can have.
    """
    argv = words(args)
    variables = [] if env is None else _variables(env)
    flags = (
        _ON_TERMINAL * (size is not None)
        | _ERR_IS_OUT * err_is_out
        | _HAS_INPUT * has_input
        | _HAS_ENV * (env is not None)
        | _AS_USER * (user is not None or group is not None)
        | _OWN_TOOL * is_tool
        | _TELL_START * tells_start
    )
    payload = bytes((flags,))
    if size is not None:
        payload += struct.pack("<HH", *checked_size(size))
    if flags & _AS_USER:
        payload += struct.pack("<II", _number("user", user), _number("group", group))
    if env is not None:
        payload += struct.pack("<H", len(variables))
    texts = [b"" if cwd is None else _text("cwd", cwd), *variables, *argv]
    payload += b"".join(text + b"\0" for text in texts)
    if len(payload) > SIZE_MAX or max(len(argv), len(variables)) > WORDS_MAX:
        raise ValueError(
            f"args, env and cwd have {len(payload)} bytes and more than {WORDS_MAX} "
            f"words, or more than {SIZE_MAX} bytes: put() a script, and run that"
        )
    return payload


def words(args: Args) -> list[bytes]:
    """The words of a command; a text is a line for the guest's shell."""
    if isinstance(args, str | bytes):
        return [SHELL.encode(), b"-c", _text("args", args)]
    if isinstance(args, os.PathLike):
        return [_text("args", args)]
    if not isinstance(args, Sequence):
        raise TypeError(f"args: {type(args).__name__} is no list of words, nor a line")
    argv = [_text("args", word) for word in args]
    if not argv or not argv[0]:
        raise ValueError("args: there is no command in it")
    return argv


def checked_size(size: Size) -> Size:
    """Rows and columns. Raises ValueError if no terminal has so many."""
    rows, columns = size
    if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
        raise ValueError(f"size: {rows} rows and {columns} columns are out of range")
    return rows, columns


def _variables(env: Env) -> list[bytes]:
    if not isinstance(env, Mapping):
        raise TypeError(f"env: {type(env).__name__} is no mapping of names to values")
    variables = []
    for name, value in env.items():
        key = _text("env", name)
        if not key or b"=" in key:
            raise ValueError(f"env: {name!r} is no name of a variable")
        variables.append(key + b"=" + _text("env", value))
    return variables


def _text(field: str, value: object) -> bytes:
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"{field}: {value!r} is neither text nor a path")
    text: bytes = os.fsencode(value)
    if b"\0" in text:
        raise ValueError(f"{field}: {value!r} has a NUL byte")
    return text


def _number(field: str, value: int | None) -> int:
    if value is None:
        return _NOBODY
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field}: {value!r} is no number")
    if not 0 <= value < _NOBODY:
        raise ValueError(f"{field}: {value} is out of range")
    return value
