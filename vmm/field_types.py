"""A field's value against its annotation: what Python leaves to whoever is called.

`append=None` became a word of the kernel's command line, and a list for a path an
AttributeError somewhere below. One rule for all fields, from the annotations that type
checkers read, says the field's name instead.
"""

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from .errors import ConfigError

SHOWN: Final = 60  # characters of a value in a message
FEW: Final = 3  # words that a sentence lists

_PLAIN: Final[dict[Any, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    NoneType: "None",
    os.PathLike: "a path",
}


class _Misfit(Exception):
    """The value is of another kind."""


def fitting(name: str, value: object, kind: object) -> object:
    """`value` as a field of this annotation keeps it. Raises ConfigError, by `name`.

    Numbers of other libraries become Python's, sequences tuples. True is no number.
    """
    try:
        return _fitting(value, kind)
    except _Misfit:
        message = f"{name}: {_shown(value)} is not {_described(kind)}"
        raise ConfigError(message) from None
    except ValueError as error:  # text that no command line, path or file can have
        raise ConfigError(f"{name}: {_shown(value)} {error}") from None


def _fitting(value: object, kind: object) -> object:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _one_of(value, get_args(kind))
    if origin is Literal:
        return _literal(value, get_args(kind))
    return _TAKERS[origin or kind](value, get_args(kind))


def _one_of(value: object, kinds: tuple[Any, ...]) -> object:
    for kind in kinds:
        try:
            return _fitting(value, kind)
        except _Misfit:
            continue
    raise _Misfit


def _literal(value: object, words: tuple[Any, ...]) -> object:
    if isinstance(value, str) and value in words:
        return value
    raise _Misfit


def _text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise _Misfit
    if "\0" in value:
        raise ValueError("has a NUL byte")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("has characters that UTF-8 hasn't") from None
    return value


def _path(value: object, _: object) -> object:
    if not isinstance(value, os.PathLike):
        raise _Misfit
    _text(os.fspath(value), ())
    return value


def _whole(value: object, _: object) -> int:
    if isinstance(value, bool):
        raise _Misfit
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _Misfit from None


def _number(value: object, _: object) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise _Misfit
    try:
        return value if isinstance(value, int) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise _Misfit from None


def _truth(value: object, _: object) -> bool:
    if type(value) is not bool:  # "off" would be true
        raise _Misfit
    return value


def _nothing(value: object, _: object) -> None:
    if value is not None:
        raise _Misfit


def _several(value: object, kinds: tuple[Any, ...]) -> tuple[object, ...]:
    if not isinstance(value, Iterable) or isinstance(value, _BYTES_AND_TEXT):
        raise _Misfit
    return tuple(_fitting(item, kinds[0]) for item in value)


def _sequence(value: object, kinds: tuple[Any, ...]) -> tuple[object, ...]:
    if not isinstance(value, Sequence):
        raise _Misfit
    return _several(value, kinds)


def _mapping(value: object, kinds: tuple[Any, ...]) -> dict[object, object]:
    if not isinstance(value, Mapping):
        raise _Misfit
    key, item = kinds
    return {_fitting(k, key): _fitting(v, item) for k, v in value.items()}


def _tuple(value: object, kinds: tuple[Any, ...]) -> tuple[object, ...]:
    if not isinstance(value, tuple) or len(value) != len(kinds):
        raise _Misfit
    return tuple(_fitting(v, kind) for v, kind in zip(value, kinds, strict=True))


_BYTES_AND_TEXT: Final = (str, bytes, bytearray, memoryview, Mapping)
_TAKERS: Final[dict[Any, Any]] = {
    str: _text,
    os.PathLike: _path,
    int: _whole,
    float: _number,
    bool: _truth,
    NoneType: _nothing,
    Mapping: _mapping,
    Sequence: _sequence,
    Iterable: _several,
    tuple: _tuple,
}


def _described(kind: object) -> str:
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        is_path = any(get_origin(k) is os.PathLike for k in kinds)
        # For a path, text is one way to say it.
        return _either([_described(k) for k in kinds if not (is_path and k is str)])
    if origin is Literal:
        few = len(kinds) <= FEW
        return _either(kinds) if few else f"one of {', '.join(kinds)}"
    if origin is Mapping:
        return f"a mapping of {_described(kinds[0])} to {_described(kinds[1])}"
    if origin is tuple:
        return f"a pair ({', '.join(map(_described, kinds))})"
    if origin in (Sequence, Iterable):
        return f"a list, each {_described(kinds[0])}"
    return _PLAIN[origin or kind]


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
