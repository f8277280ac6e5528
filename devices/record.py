"""Record: a frozen dataclass that costs next to nothing until somebody looks at it.

`dataclasses` compiles half a dozen methods for every class, and imports `inspect`:
for the values of a run that took a third of the time from a process's start to its
guest's first instruction. A Record has its methods written once.
"""

from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Self,
    TypeVar,
    cast,
    dataclass_transform,
)

if TYPE_CHECKING:
    from dataclasses import Field
    from inspect import Signature

_T = TypeVar("_T")


class _Factory:
    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], _T]) -> _T:
    """For a field whose default is made anew each time."""
    return cast("_T", _Factory(default_factory))


class _DataclassFields:
    """`__dataclass_fields__`, made when `dataclasses` asks for it."""

    def __get__(self, _: object, owner: "type[Record]") -> "dict[str, Field[Any]]":
        from .record_face import dataclass_fields

        return dataclass_fields(owner, _Factory)


class _Signature:
    """`__signature__`, made when `inspect` asks for it."""

    def __get__(self, _: object, owner: "type[Record]") -> "Signature":
        from .record_face import signature

        return signature(owner, _Factory)


class _Doc:
    """`__doc__`, with what is written below each field, made when `help` asks."""

    def __init__(self, written: str | None) -> None:
        self.written = written

    def __get__(self, _: object, owner: "type[Record]") -> str | None:
        from .record_face import documentation

        return documentation(owner, self.written)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Record:
    """Base of frozen values, written like dataclasses: annotations and defaults.

    `class Point(Record, kw_only=True)` takes its fields by name only, and so do its
    heirs. `__post_init__` runs at the end of making one. `dataclasses.fields`,
    `asdict` and `replace` take it for the dataclass that it is for type checkers.
    """

    field_names: ClassVar[tuple[str, ...]] = ()
    _kinds: ClassVar[dict[str, object]] = {}
    _defaults: ClassVar[dict[str, object]] = {}
    _positional: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[_DataclassFields] = _DataclassFields()
    __signature__: ClassVar[_Signature] = _Signature()

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        super().__init_subclass__()
        own = [
            name
            for name, kind in cls.__annotations__.items()
            if str(kind).removeprefix("typing.").partition("[")[0] != "ClassVar"
        ]
        new = tuple(name for name in own if name not in cls.field_names)
        cls.field_names += new
        cls._kinds = cls._kinds | {name: cls.__annotations__[name] for name in own}
        cls._positional += () if kw_only else new
        cls.__match_args__ = cls._positional  # type: ignore[attr-defined, misc, unused-ignore]
        cls._defaults = cls._defaults | {
            name: cls.__dict__[name] for name in own if name in cls.__dict__
        }
        cls.__doc__ = _Doc(cls.__doc__)  # type: ignore[assignment]

    def __init__(self, *args: object, **values: object) -> None:
        name = type(self).__name__
        positional = self._positional
        if len(args) > len(positional):
            raise TypeError(f"{name} takes {len(positional)} fields by position")
        for field_name, value in zip(positional, args, strict=False):
            if field_name in values:
                raise TypeError(f"{name} got {field_name!r} twice")
            values[field_name] = value
        for unknown in values.keys() - set(self.field_names):
            raise TypeError(f"{name} has no field {unknown!r}")
        for field_name in self.field_names:
            if field_name in values:
                value = values[field_name]
            elif field_name in self._defaults:
                value = self._defaults[field_name]
                if isinstance(value, _Factory):
                    value = value.make()
            else:
                raise TypeError(f"{name} needs {field_name!r}")
            object.__setattr__(self, field_name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the values, for heirs."""

    @classmethod
    def parameters(cls) -> dict[str, tuple[object, ...]]:
        """What making one takes, by name: the annotation and, if any, the default."""
        return {
            name: (kind, cls._defaults[name]) if name in cls._defaults else (kind,)
            for name, kind in cls._kinds.items()
        }

    def to_dict(self) -> dict[str, object]:
        """The fields by their names."""
        return {name: getattr(self, name) for name in self.field_names}

    def replace(self, **changes: object) -> Self:
        """Another one, with other values for some fields."""
        return type(self)(**(Record.to_dict(self) | changes))

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.field_names)

    def __repr__(self) -> str:
        pairs = (f"{name}={getattr(self, name)!r}" for name in self.field_names)
        return f"{type(self).__qualname__}({', '.join(pairs)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __setattr__(self, name: str, _: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} can't be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} stays")
