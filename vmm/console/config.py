"""ConsoleConfig: what a user may choose for the host side of ttyS0, or hvc0."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, get_args

from ..errors import ConfigError
from ..field_types import Checked, SerialPolicy, setting, size
from ..place import Place, check_apart, place

if TYPE_CHECKING:  # for type checkers alone
    from typing import Unpack

    from .settings import ConsoleSettings

PLAIN: Final = ("stdio", "null", "stdout", "capture")
SERIAL_POLICIES: Final = get_args(SerialPolicy)


def serial_place(field: str, where: str | Place) -> Place:
    """A place that may be anything. Raises ConfigError."""
    return place(field, where, PLAIN)


def _tees(field: str, places: str | Place | Sequence[str | Place]) -> tuple[Place, ...]:
    several = (places,) if isinstance(places, str | Place) else places
    return tuple(place(field, where, ("capture",)) for where in several)


def _mode(field: str, mode: int) -> int:
    if not 0 <= mode <= 0o777:
        raise ConfigError(f"{field}: {mode:#o} is not within 0..0o777")
    return mode


class ConsoleConfig(Checked):
    """Where the output of a machine's console goes, and how long it waits for readers.

    That is ttyS0 or, by `console_device`, hvc0.
    """

    serial: Place = setting(Place("capture"), str | Place, serial_place)
    """Where it goes: "capture" (for `console.expect`), "stdio", "stdout", "null",
    "file:PATH", or "unix:PATH", on which we listen."""
    tee: tuple[Place, ...] = setting((), str | Place | Sequence[str | Place], _tees)
    """More files and sockets, each of which gets a copy of the output; "capture":
    `console.expect` does, wherever else it goes."""
    socket_mode: int = setting(0o600, int, _mode)
    """The mode of all our sockets' files, 0..0o777: who may connect has the console."""
    serial_buffer: int = setting(1 << 20, int | str, size)
    """Bytes, or "1M", that a reader may be behind."""
    serial_policy: SerialPolicy = "block"
    """What a reader who is slower than that does: hold the guest ("block"), or lose
    output ("drop")."""
    serial_limit: int | None = setting(None, int | str | None, size)
    """What comes after so many bytes is dropped. None: 1 GiB where the output is a
    file, else no limit."""
    serial_rate: int | None = setting(None, int | str | None, size)
    """At most so many bytes of output a second. None: no limit."""

    if TYPE_CHECKING:

        def __init__(self, **settings: Unpack[ConsoleSettings]) -> None: ...

    def __post_init__(self) -> None:
        check_apart(self.places())

    def places(self) -> list[tuple[str, Place]]:
        """All places, with the names of their fields."""
        return [("serial", self.serial), *(("tee", where) for where in self.tee)]
