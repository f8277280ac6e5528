"""I8042State: all of a controller and its keyboard."""

from typing import Annotated, Final

from ..record import field
from ..state import Byte, State
from .i8042_reg import (
    I8042_CMD_AUX_LOOP,
    I8042_CMD_AUX_SEND,
    I8042_CMD_KBD_LOOP,
    I8042_CMD_WRITE_OUTPUT_PORT,
    I8042_CTR_KBDDIS,
    I8042_STR_CMDDAT,
    I8042_STR_KEYLOCK,
)
from .keyboard import KeyboardState

RAM_SIZE: Final = 32
MAX_RESPONSES: Final = 16  # that a guest may leave unread
FROM_CONTROLLER, FROM_KEYBOARD, FROM_AUX, FROM_AUX_TIMEOUT = range(4)
Response = tuple[Byte, Annotated[int, range(4)]]
"""A byte, and whom it is from: FROM_..."""
TAKE_PARAMETER: Final = (
    *range(0x60, 0x80),  # write RAM
    I8042_CMD_WRITE_OUTPUT_PORT,
    I8042_CMD_KBD_LOOP,
    I8042_CMD_AUX_LOOP,
    I8042_CMD_AUX_SEND,
)


class I8042State(State, kw_only=True):
    """What `I8042Device.state()` gives and `restore` takes."""

    ram: Annotated[bytes, range(RAM_SIZE, RAM_SIZE + 1)]
    """The first is the command byte."""
    output_port: Byte
    status: Byte
    """The bits of the status register that nothing else here implies."""
    command: Byte | None = None
    """The command whose parameter is to be written next."""
    responses: Annotated[tuple[Response, ...], range(MAX_RESPONSES + 1)] = ()
    """What was answered and not read."""
    latched: Byte | None = None
    """The byte taken from the keyboard and not read."""
    last: Byte = 0
    released: bool = False
    """The set 2 prefix F0 was taken, and the code after it wasn't."""
    keyboard: KeyboardState = field(default_factory=KeyboardState)

    def __post_init__(self) -> None:
        super().__post_init__()
        kept = self.status & ~I8042_STR_CMDDAT
        self.require(kept == I8042_STR_KEYLOCK, "status is KEYLOCK, and CMDDAT or not")
        self.require(
            self.command is None or self.command in TAKE_PARAMETER,
            "command is one that takes a parameter",
        )
        waits = self.keyboard.replies or self.keyboard.scancodes
        self.require(
            not waits or self.latched is not None or self.ram[0] & I8042_CTR_KBDDIS > 0,
            "the keyboard's next byte is latched unless its port is disabled",
        )
