"""ConsoleSettings: what ConsoleConfig takes, for type checkers; no run imports it."""

from collections.abc import Sequence
from typing import TypedDict

from ..field_types import SerialPolicy
from ..place import Place


class ConsoleSettings(TypedDict, total=False):
    """The keywords; ConsoleConfig says what they mean."""

    serial: str | Place
    tee: str | Place | Sequence[str | Place]
    socket_mode: int
    serial_buffer: int | str
    serial_policy: SerialPolicy
    serial_limit: int | str | None
    serial_rate: int | str | None
