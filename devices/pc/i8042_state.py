"""I8042State: all of a controller and its keyboard, ready for JSON."""

from typing import Final

from ..errors import InvalidState
from ..record import Record, field
from .keyboard import KeyboardState

MAX_RESPONSES: Final = 16  # that a guest may leave unread
FROM_CONTROLLER, FROM_KEYBOARD, FROM_AUX, FROM_AUX_TIMEOUT = range(4)


class I8042State(Record, kw_only=True):
    """What `I8042Device.state()` saves and `restore` takes.

    It survives ``I8042State(**json.loads(json.dumps(asdict(state))))``
    unchanged. Raises InvalidState for what no controller could have been in.
    """

    ram: tuple[int, ...]
    """32 bytes; the first is the command byte."""
    output_port: int
    status: int
    """The bits of the status register that nothing else here implies."""
    command: int | None = None
    """The command whose parameter is to be written next."""
    responses: tuple[tuple[int, int], ...] = ()
    """(byte, FROM_...) of what was answered and not read."""
    latched: int | None = None
    """The byte taken from the keyboard and not read."""
    last: int = 0
    released: bool = False
    """The set 2 prefix F0 was taken, and the code after it wasn't."""
    keyboard: KeyboardState = field(default_factory=KeyboardState)

    def __post_init__(self) -> None:
        # JSON has neither tuples nor dataclasses.
        object.__setattr__(self, "ram", tuple(self.ram))
        responses = tuple((value, source) for value, source in self.responses)
        object.__setattr__(self, "responses", responses)
        if isinstance(self.keyboard, dict):
            object.__setattr__(self, "keyboard", KeyboardState(**self.keyboard))
        if len(self.ram) != 32 or len(responses) > MAX_RESPONSES:
            raise InvalidState(
                f"I8042State has {len(self.ram)} bytes of RAM and {len(responses)} "
                f"responses: it must have 32 and can have {MAX_RESPONSES}"
            )
        single = (self.output_port, self.status, self.last, self.latched or 0)
        for value in (*self.ram, *single, *(value for value, _ in responses)):
            if type(value) is not int or not 0 <= value <= 0xFF:
                raise InvalidState(f"I8042State: {value!r} is no byte")
        for _, source in responses:
            if source not in range(4):
                raise InvalidState(f"I8042State: {source!r} is no source of a byte")
