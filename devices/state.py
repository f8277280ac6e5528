"""State: what a device keeps of itself over a snapshot, in a form that JSON has."""

from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Self,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from .errors import InvalidState
from .record import Record

Byte = Annotated[int, range(1 << 8)]
Uint64 = Annotated[int, range(1 << 64)]
Nanoseconds = Annotated[int, range(1 << 63)]
"""A time that has passed or is left; never one on a clock, which ends with its host."""

_PLAIN: Final = (int, bool, str, bytes, tuple)
_MOST_SHOWN: Final = 60  # characters of a value in a message


class State(Record):
    """Base of what `state()` of a device gives and its `restore` takes.

    Fields are int, bool, str, bytes, tuples of these, and other States, or one of them
    `| None`; others are a TypeError when the first is made. The range of an int, and
    the length of the others, come as ``Annotated[int, range(5)]``. A value that doesn't
    fit its field raises InvalidState, which names the field. What fields say together,
    heirs check by `require` in their `__post_init__`: so that each State of a device's
    class is one that such a device can be in.
    """

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():
            value = getattr(self, name)
            if not kind.fits(value):
                try:
                    shown = repr(value)
                except ValueError:  # an int of more than 4,300 digits
                    shown = f"a huge {type(value).__name__}"
                if len(shown) > _MOST_SHOWN:
                    shown = f"{shown[:_MOST_SHOWN]}..."
                where = f"{type(self).__name__}.{name}"
                raise InvalidState(f"{where} is {shown}: it must be {kind}")

    def require(self, holds: bool, what: str) -> None:
        """Raise InvalidState, which says what must be, unless it `holds`."""
        if not holds:
            raise InvalidState(f"{type(self).__name__}: {what}")

    @classmethod
    def of(cls, state: object) -> Self:
        """`state`, if it is one of this class; else InvalidState is raised."""
        if type(state) is not cls:
            raise InvalidState(f"{type(state).__name__} is no {cls.__name__}")
        return state

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`: bytes in hexadecimal, tuples as lists."""
        return {name: _encode(getattr(self, name)) for name in self.field_names}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The State of which `to_json` gave `data`, written and read again.

        Raises InvalidState for anything else; no field may be missing or unknown.
        """
        if not isinstance(data, dict):
            raise InvalidState(f"{type(data).__name__} is no {cls.__name__}")
        kinds = _kinds(cls)
        for wrong, names in (
            ("lacks", kinds.keys() - data.keys()),
            ("has no field", data.keys() - kinds.keys()),
        ):
            if names:
                some = ", ".join(sorted(map(str, names)))[:_MOST_SHOWN]
                raise InvalidState(f"{cls.__name__} {wrong} {some}")
        return cls(**{name: kind.decode(data[name]) for name, kind in kinds.items()})


def refuse_state(device: object, state: object) -> None:
    """All of `restore` for a `device` that keeps nothing: takes only None."""
    if state is not None:
        name = type(device).__name__
        raise InvalidState(f"{name} keeps no state: {type(state).__name__} is none")


class _Kind:
    """What the annotation of a field says of its values."""

    def __init__(self, annotation: object) -> None:
        kind, self._may_be_none = annotation, False
        if get_origin(kind) in (Union, UnionType):
            others = [option for option in get_args(kind) if option is not NoneType]
            if len(others) == 1:
                kind, self._may_be_none = others[0], True
        limits: list[Any] = []
        if get_origin(kind) is Annotated:
            kind, *limits = get_args(kind)
        self._type: Any = get_origin(kind) or kind
        if not _is_kept(self._type) or [type(it) for it in limits] not in ([], [range]):
            raise TypeError(f"a State can't have a field of {annotation}: see State")
        self._limit: range | None = limits[0] if limits else None
        items = get_args(kind)
        self._is_any_number = ... in items
        self._items = [_Kind(item) for item in items if item is not ...]

    def _item_kinds(self, count: int) -> "list[_Kind]":
        return self._items * count if self._is_any_number else self._items

    def fits(self, value: object) -> bool:
        if value is None:
            return self._may_be_none
        if type(value) is not self._type:
            return False
        measure = len(value) if isinstance(value, bytes | str | tuple) else value
        if self._limit is not None and measure not in self._limit:
            return False
        if not isinstance(value, tuple):
            return True
        kinds = self._item_kinds(len(value))
        return len(kinds) == len(value) and all(map(_Kind.fits, kinds, value))

    def decode(self, value: object) -> object:
        """What `_encode` has made `value` of; what it can't have made, as it is."""
        if isinstance(value, list) and self._type is tuple:
            kinds = self._item_kinds(len(value))
            if len(kinds) == len(value):
                return tuple(map(_Kind.decode, kinds, value))
        elif isinstance(value, str) and self._type is bytes:
            try:
                return bytes.fromhex(value)
            except ValueError:
                return value
        elif isinstance(value, dict) and issubclass(self._type, State):
            return self._type.from_json(value)
        return value

    def __str__(self) -> str:
        text: str = self._type.__name__
        if self._items:
            text += f" of ({', '.join(map(str, self._items))})"
        if self._limit is not None:
            first, last = self._limit.start, self._limit.stop - 1
            if self._type is int:
                text = f"{first}..{last:#x}"
            else:
                text += f", {first}..{last} of them" if first < last else f", {last}"
        return f"{text} or None" if self._may_be_none else text


_S = TypeVar("_S", bound=State)
_WITH_DEVICE: Final[dict[tuple[type[State], type[State]], type[State]]] = {}


def with_device(kind: type[_S], own: type[State]) -> type[_S]:
    """`kind` with one more field, `device`, of class `own`: always the same class.

    For what stands between a bus and any device, whose state it has in its own.
    """
    made = _WITH_DEVICE.get((kind, own))
    if made is None:
        body = {"__annotations__": {"device": own}, "__module__": kind.__module__}
        new = type(f"{kind.__name__}With{own.__name__}", (kind,), body)
        # Another machine's thread may have been faster.
        made = _WITH_DEVICE.setdefault((kind, own), new)
    return cast("type[_S]", made)


def _is_kept(kind: object) -> bool:
    return kind in _PLAIN or (isinstance(kind, type) and issubclass(kind, State))


_KINDS: Final[dict[type, dict[str, _Kind]]] = {}


def _kinds(state: type[State]) -> dict[str, _Kind]:
    if state not in _KINDS:
        hints = get_type_hints(state, include_extras=True)
        _KINDS[state] = {name: _Kind(hints[name]) for name in state.field_names}
    return _KINDS[state]


def _encode(value: object) -> object:
    if isinstance(value, State):
        return value.to_json()
    if isinstance(value, bytes):
        return value.hex()
    return [_encode(item) for item in value] if isinstance(value, tuple) else value
