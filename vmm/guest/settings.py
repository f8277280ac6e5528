"""CommandSettings: what CommandConfig takes, for type checkers; no run imports it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from ..field_types import StrPath
from ..place import Place


class AroundCommand(TypedDict, total=False):
    """All keywords but the command itself; CommandConfig says what they mean."""

    script: StrPath | None
    files: Mapping[str, StrPath] | Iterable[StrPath | tuple[StrPath, str]]
    capture: str | Place | None


class CommandSettings(AroundCommand, total=False):
    """The keywords."""

    command: str | Sequence[str] | None
