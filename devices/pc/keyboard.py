"""Ps2Keyboard: the AT keyboard on the other end of the i8042's cable.

It answers every command at once, so that no driver waits for a time-out.
Source: IBM PS/2 Hardware Interface Technical Reference, Keyboards.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Annotated, Final

from ..state import Byte, State

KBD_CMD_SETLEDS: Final = 0xED
KBD_CMD_ECHO: Final = 0xEE
KBD_CMD_SCANSET: Final = 0xF0
KBD_CMD_GETID: Final = 0xF2
KBD_CMD_SETREP: Final = 0xF3
KBD_CMD_ENABLE: Final = 0xF4
KBD_CMD_RESET_DIS: Final = 0xF5  # defaults, and stop scanning
KBD_CMD_RESET_DEF: Final = 0xF6  # defaults
KBD_CMD_RESEND: Final = 0xFE
KBD_CMD_RESET_BAT: Final = 0xFF

KBD_RET_BAT: Final = 0xAA  # basic assurance test passed
KBD_RET_ECHO: Final = 0xEE
KBD_RET_ACK: Final = 0xFA
KBD_RET_NAK: Final = 0xFE  # what came was no command: send it again
KBD_ID: Final = b"\xab\x83"

DEFAULT_SCANSET: Final = 2
DEFAULT_TYPEMATIC: Final = 0x2B  # 500 ms, then 10.9 a second
MAX_SCANCODES: Final = 256  # that the host may have waiting
MAX_REPLIES: Final = 3  # to one command

_TAKES_PARAMETER: Final = (KBD_CMD_SETLEDS, KBD_CMD_SCANSET, KBD_CMD_SETREP)


class KeyboardState(State, kw_only=True):
    """What `Ps2Keyboard.state()` gives and `restore` takes."""

    replies: Annotated[bytes, range(MAX_REPLIES + 1)] = b""
    scancodes: Annotated[bytes, range(MAX_SCANCODES + 1)] = b""
    last: Byte = 0
    command: Byte | None = None
    """The command whose parameter is to be written next."""
    scanning: bool = True
    scanset: Annotated[int, range(1, 4)] = DEFAULT_SCANSET
    typematic: Annotated[int, range(0x80)] = DEFAULT_TYPEMATIC
    leds: Annotated[int, range(8)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.command is None or self.command in _TAKES_PARAMETER,
            "command is one that takes a parameter",
        )
        self.require(
            self.scanning or not self.scancodes, "no scancodes without scanning"
        )


class Ps2Keyboard:
    """A keyboard whose keys the host presses with `send_scancodes`.

    It belongs to one controller, whose lock guards it: only `send_scancodes`
    takes that lock, everything else is called with it held.
    """

    def __init__(self, lock: threading.Lock, on_output: Callable[[], None]) -> None:
        self._lock = lock
        self._on_output = on_output
        self.reset()

    def reset(self) -> None:
        """Power-on: scanning, set 2, LEDs off, nothing to send."""
        self.restore(KeyboardState())

    def restore(self, state: KeyboardState) -> None:
        """Go on from `state`, without a byte on the cable."""
        self.replies = deque(state.replies)
        self.scancodes = deque(state.scancodes)
        self.last = state.last
        self.command = state.command
        self.scanning = state.scanning
        self.scanset = state.scanset
        self.typematic = state.typematic
        self.leds = state.leds

    def state(self) -> KeyboardState:
        """All of it."""
        return KeyboardState(
            replies=bytes(self.replies),
            scancodes=bytes(self.scancodes),
            last=self.last,
            command=self.command,
            scanning=self.scanning,
            scanset=self.scanset,
            typematic=self.typematic,
            leds=self.leds,
        )

    def send_scancodes(self, scancodes: bytes) -> int:
        """Send what pressed and released keys send; return how many were taken.

        They are codes of the set that the guest chose, 2 as a rule: A pressed
        and released is ``1c f0 1c``, and a guest that has the controller
        translate, as Linux does, sees set 1. At most 256 wait; none are taken
        while the guest has scanning disabled.
        """
        with self._lock:
            if not self.scanning:
                return 0
            taken = scancodes[: MAX_SCANCODES - len(self.scancodes)]
            self.scancodes.extend(taken)
            self._on_output()
            return len(taken)

    def next_byte(self) -> int | None:
        """Take the next byte off the cable: an answer first, then a scancode."""
        for queue in (self.replies, self.scancodes):
            if queue:
                self.last = queue.popleft()
                return self.last
        return None

    def write(self, value: int) -> None:
        """Take a command or its parameter; what it cuts short is not sent."""
        self.replies.clear()
        command, self.command = self.command, None
        if command is not None and value < KBD_CMD_SETLEDS:
            self.replies.extend(self._run_parameter(command, value))
        else:
            self.replies.extend(self._run(value))

    def _run(self, command: int) -> tuple[int, ...]:
        if command in _TAKES_PARAMETER:
            self.command = command
        elif command == KBD_CMD_ECHO:
            return (KBD_RET_ECHO,)
        elif command == KBD_CMD_GETID:
            return (KBD_RET_ACK, *KBD_ID)
        elif command == KBD_CMD_ENABLE:
            self.scancodes.clear()
            self.scanning = True
        elif command in (KBD_CMD_RESET_DIS, KBD_CMD_RESET_DEF):
            self._set_defaults(scanning=command == KBD_CMD_RESET_DEF)
        elif command == KBD_CMD_RESEND:
            return (self.last,)
        elif command == KBD_CMD_RESET_BAT:
            self._set_defaults(scanning=True)
            return (KBD_RET_ACK, KBD_RET_BAT)
        elif command < KBD_CMD_SCANSET or command == 0xF1:
            return (KBD_RET_NAK,)
        return (KBD_RET_ACK,)  # F7..FD too: key types, which only set 3 has

    def _run_parameter(self, command: int, value: int) -> tuple[int, ...]:
        if command == KBD_CMD_SETLEDS:
            self.leds = value & 0x07  # scroll, num, caps lock
        elif command == KBD_CMD_SETREP:
            self.typematic = value & 0x7F
        elif value == 0:
            return (KBD_RET_ACK, self.scanset)
        elif value <= 3:
            self.scanset = value
        else:
            return (KBD_RET_NAK,)
        return (KBD_RET_ACK,)

    def _set_defaults(self, *, scanning: bool) -> None:
        self.scancodes.clear()
        self.scanning = scanning
        self.scanset = DEFAULT_SCANSET
        self.typematic = DEFAULT_TYPEMATIC
        self.leds = 0
