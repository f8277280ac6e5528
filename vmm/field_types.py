"""Checked: a Record of what a user chooses, each value taken as its field says.

`append=None` became a word of the kernel's command line, and a list for a path an
AttributeError somewhere below. One rule for all fields says the field's name instead,
and what goes inwards has one form: a size is a number, a list a tuple.
"""

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Literal, Union, get_args, get_origin

from .devices.record import Record
from .errors import ConfigError

StrPath = str | os.PathLike[str]
WhichQuirks = Literal["auto", "none", "pvm"]
Policy = Literal["exit", "restart", "pause"]
BootProtocol = Literal["auto", "linux64", "linux32", "pvh", "multiboot"]
WhichTransport = Literal["auto", "pci", "mmio"]
SerialPolicy = Literal["block", "drop"]
ConsoleDevice = Literal["serial", "virtio"]

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

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SIZE_DIGITS: Final = 20


class Setting:
    """A field that keeps another form than it takes."""

    def __init__(
        self, default: object, takes: object, resolve: Callable[[str, Any], object]
    ) -> None:
        self.default = default
        self.takes = takes
        self.resolve = resolve


def setting(
    default: object, takes: object, resolve: Callable[[str, Any], object]
) -> Any:  # noqa: ANN401, as its field is annotated
    """For a field that takes other types than it keeps.

    `resolve` makes what is kept of the field's name and a value that isn't the default.
    It raises ConfigError, by that name.
    """
    return Setting(default, takes, resolve)


class Checked(Record, kw_only=True):
    """Base of configurations: annotations are what a field keeps, and takes.

    Where that isn't the same, its default is a `setting`. Raises ConfigError that
    begins with the field's name for what isn't of its type, or can't be.
    """

    _settings: ClassVar[dict[str, Setting]] = {}
    _takes: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__(kw_only=True)
        cls._settings = dict(cls._settings)
        for name, default in cls._defaults.items():
            if isinstance(default, Setting):
                cls._settings[name] = default
                cls._defaults[name] = default.default
                setattr(cls, name, default.default)
        takes = {name: special.takes for name, special in cls._settings.items()}
        cls._takes = cls._kinds | takes

    def __init__(self, **values: object) -> None:
        for name, value in values.items():
            if name in self._takes and value is not self._defaults.get(name, self):
                values[name] = self._resolved(name, value)
        super().__init__(**values)

    def _resolved(self, name: str, value: object) -> object:
        taken = fitting(name, value, self._takes[name])
        special = self._settings.get(name)
        return taken if special is None else special.resolve(name, taken)

    @classmethod
    def parameters(cls) -> dict[str, tuple[object, ...]]:
        """What each field takes, and its default."""
        known = super().parameters()
        return {name: (kind, *known[name][1:]) for name, kind in cls._takes.items()}


def parse_size(field: str, text: str) -> int:
    """Bytes from a number with K, M or G, powers of 1024. Raises ConfigError."""
    number = text.strip().upper()
    if number.endswith("B"):  # 512MB, 512MiB
        number = number[:-1].removesuffix("I")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    digits = number.removesuffix(unit)
    if not (text.isascii() and digits.isdecimal() and len(digits) <= SIZE_DIGITS):
        raise ConfigError(f"{field}: {text!r} is no size: write 512M, 2G or 1048576K")
    return int(digits) * _UNITS[unit]


def size(field: str, value: int | str | None) -> int | None:
    """Bytes of a size above 0, or None. Raises ConfigError."""
    number = parse_size(field, value) if isinstance(value, str) else value
    if number is not None and number < 1:
        raise ConfigError(f"{field}: {number} is not above 0")
    return number


def seconds(field: str, value: float | None) -> float | None:
    """A time, or None. Raises ConfigError."""
    if value is not None and not 0 < value < 1e9:
        raise ConfigError(f"{field}: {value} is no time in seconds")
    return value


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


def _fitting(value: object, kind: Any) -> object:  # noqa: ANN401
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _one_of(value, get_args(kind))
    if origin is Literal:
        return _literal(value, get_args(kind))
    taker = _TAKERS.get(origin or kind)
    if taker is not None:
        return taker(value, get_args(kind))
    if not isinstance(value, kind):  # a part of a configuration
        raise _Misfit
    return value


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


def _described(kind: Any) -> str:  # noqa: ANN401
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
    plain = _PLAIN.get(origin or kind)
    return f"a {kind.__name__}" if plain is None else plain


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
