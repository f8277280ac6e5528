"""The chipset's two ways to reset a PC: port 0x92, and port 0xCF9.

They stand beside the i8042's, and act as it does: on the machine as a whole.

Sources: IBM PS/2 Hardware Interface Technical Reference, System Control Port A;
Intel 82371SB (PIIX3), "Reset Control Register".
"""

from collections.abc import Mapping
from typing import Annotated, Final

from ..fast_port import FastPort
from ..state import State
from ..trigger import Trigger

SYSTEM_CONTROL_PORT_A: Final = 0x92
FAST_INIT: Final = 0x01  # resets when it rises
FAST_A20: Final = 0x02
_PORT_A_MASK: Final = FAST_INIT | FAST_A20

RST_CPU: Final = 0x04  # resets when it rises
SYS_RST: Final = 0x02  # the kind: hard, with all devices; else the CPU alone
FULL_RST: Final = 0x08  # with the power taken away in between
_RESET_CONTROL_MASK: Final = RST_CPU | SYS_RST | FULL_RST


class SystemControlPortAState(State):
    """FAST_INIT and FAST_A20 as written."""

    value: Annotated[int, range(_PORT_A_MASK + 1)]


class ResetControlState(State):
    """RST_CPU, SYS_RST and FULL_RST as written."""

    value: Annotated[int, range(0, _RESET_CONTROL_MASK + 1, SYS_RST)]


class SystemControlPortA:
    """Port 0x92: the fast A20 gate, and the fast reset.

    A20 is on from power-on and keeps what is written, but masks nothing: KVM has no
    way to wrap addresses at 1 MiB, and nothing since the 80286 wants it.
    """

    def __init__(self, reset: Trigger) -> None:
        self._reset_line = reset
        self._port = FastPort()
        self.reset()

    @property
    def fast_ports(self) -> Mapping[int, FastPort]:
        """The port, for reads: drivers wait for A20 by reading it."""
        return {0: self._port}

    def read(self, offset: int) -> int:
        """What was written of bits 0 and 1; the others are 0."""
        return self._value

    def write(self, offset: int, value: int) -> None:
        """Set A20; reset the machine if bit 0 rises."""
        resets = value & ~self._value & FAST_INIT
        self._set(value & _PORT_A_MASK)
        if resets:
            self._reset_line.trigger()

    def reset(self) -> None:
        """A20 on, as firmware leaves it."""
        self._set(FAST_A20)

    def state(self) -> SystemControlPortAState:
        """What was written; by it the next write knows whether bit 0 rises."""
        return SystemControlPortAState(self._value)

    def restore(self, state: State | None) -> None:
        """Go on from `state`, without a reset. Raises InvalidState."""
        self._set(SystemControlPortAState.of(state).value)

    def _set(self, value: int) -> None:
        self._value = value
        self._port.answer(value)


class ResetControl:
    """Port 0xCF9. Hard and soft resets are one: a machine of ours always boots anew.

    Bits 1 to 3 keep what is written.
    """

    def __init__(self, reset: Trigger) -> None:
        self._reset_line = reset
        self._value = 0

    def read(self) -> int:
        """Bits 1 to 3 as written; the others are 0."""
        return self._value

    def write(self, value: int) -> None:
        """Keep the kind; reset the machine if RST_CPU rises."""
        resets = value & ~self._value & RST_CPU
        self._value = value & _RESET_CONTROL_MASK
        if resets:
            self._reset_line.trigger()

    def reset(self) -> None:
        """All bits 0."""
        self._value = 0

    def state(self) -> ResetControlState:
        """What was written; by it the next write knows whether RST_CPU rises."""
        return ResetControlState(self._value)

    def restore(self, state: State | None) -> None:
        """Go on from `state`, without a reset. Raises InvalidState."""
        self._value = ResetControlState.of(state).value
