"""Crtc: a VGA's CRT controller without a display, for kernels that move its cursor.

Who prints by writing text to 0xB8000 sets the cursor here, and asks where it is: all
ones would be off the screen. There is nothing to see, and no other part of a VGA.

Source: IBM VGA Technical Reference, "CRT Controller Registers" and "Input Status
Register 1"; the retrace bits as in QEMU's vga_dumb_retrace.
"""

from typing import Annotated, Final

from ..state import Byte, State

CRTC_INDEX_PORT: Final = 0x3D4
INDEX: Final = 0
DATA: Final = 1
STATUS: Final = 6  # input status register 1

REGISTERS: Final = 0x19
OVERFLOW: Final = 0x07
VERTICAL_RETRACE_END: Final = 0x11
LOCK: Final = 1 << 7  # of that register: 0 to 7 are read only, but for ...
LINE_COMPARE_8: Final = 1 << 4  # ... this bit of OVERFLOW
RETRACES: Final = 1 << 0 | 1 << 3  # display disabled, vertical retrace


class CrtcState(State, kw_only=True):
    """All of a Crtc."""

    index: Byte
    registers: Annotated[bytes, range(REGISTERS, REGISTERS + 1)]
    in_retrace: bool
    """What the status last read said: the next read says the other."""


class Crtc:
    """Registers that keep what is written. Safe to call from any thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """All registers 0: the cursor is in the upper left corner."""
        self._index = 0
        self._registers = bytearray(REGISTERS)
        self._status = 0

    def state(self) -> CrtcState:
        """All of it."""
        return CrtcState(
            index=self._index,
            registers=bytes(self._registers),
            in_retrace=bool(self._status),
        )

    def restore(self, state: State | None) -> None:
        """Go on from `state`. Raises InvalidState."""
        new = CrtcState.of(state)
        self._index = new.index
        self._registers = bytearray(new.registers)
        self._status = RETRACES if new.in_retrace else 0

    def read(self, offset: int) -> int:
        """The index, the register that it names, or the status; others are 0.

        The retrace begins with one read of the status, and ends with the next.
        """
        if offset == INDEX:
            return self._index
        if offset == DATA:
            index = self._index
            return self._registers[index] if index < REGISTERS else 0
        if offset == STATUS:
            self._status ^= RETRACES
            return self._status
        return 0

    def write(self, offset: int, value: int) -> None:
        """Write the index, or the register that it names, 0..0xFF."""
        index = self._index  # another CPU may change it at any time
        if offset == INDEX:
            self._index = value
        elif offset == DATA and index < REGISTERS:
            self._write_register(index, value)

    def _write_register(self, index: int, value: int) -> None:
        locked = self._registers[VERTICAL_RETRACE_END] & LOCK
        if locked and index <= OVERFLOW:
            if index != OVERFLOW:
                return
            kept = self._registers[OVERFLOW] & ~LINE_COMPARE_8
            value = kept | value & LINE_COMPARE_8
        self._registers[index] = value
