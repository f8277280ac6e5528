"""Place: where output goes, parsed once from the text that says it."""

import os
from collections.abc import Iterable, Sequence
from typing import Final

from .devices.record import Record
from .errors import ConfigError
from .field_types import fitting

STANDARD: Final = ("stdio", "stdout")
PATHS: Final = ("file", "unix")
KINDS: Final = ("capture", *STANDARD, "null", *PATHS)


class Place(Record):
    """Where output goes: one of `KINDS`, of which file and unix have a path.

    Its text is "null", "file:PATH" and so on. Raises ConfigError for what is no place.
    """

    kind: str
    path: str = ""

    def __post_init__(self) -> None:
        fitting("kind", self.kind, str)
        fitting("path", self.path, str)
        if self.kind not in KINDS or bool(self.path) != (self.kind in PATHS):
            raise ConfigError(f"kind: {str(self)!r} is no place")

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" if self.path else self.kind

    @property
    def file(self) -> str | None:
        """The path, the same for all names of one file; None: it has none."""
        return os.path.realpath(self.path) if self.path else None

    @property
    def is_standard(self) -> bool:
        """Whether it is our standard output."""
        return self.kind in STANDARD


def parse_place(text: str, plain: Sequence[str]) -> Place:
    """The place that a text names: one of `plain`, a file or a socket.

    Raises ValueError, which lists them but for "capture", which is for programs.
    """
    kind, colon, path = text.partition(":")
    known = not colon if kind in plain else kind in PATHS and path
    if not known:
        named = [word for word in plain if word != "capture"]
        words = ", ".join([*named, "file:PATH or unix:PATH"])
        raise ValueError(f"{text!r} is not {words}")
    return Place(kind, path)


def place(field: str, where: str | Place, plain: Sequence[str]) -> Place:
    """Likewise, for `field` of a configuration. Raises ConfigError."""
    try:
        return parse_place(str(where), plain)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}") from None


def check_apart(places: Iterable[tuple[str, Place]]) -> None:
    """Raises ConfigError, by the field of the later, where two are one file."""
    fields: dict[str, str] = {}
    for field, where in places:
        file = where.file
        if file is None:
            continue
        if file in fields:
            raise ConfigError(
                f"{field}: {str(where)!r} is where {fields[file]} goes, too: each "
                "needs a file of its own"
            )
        fields[file] = field
