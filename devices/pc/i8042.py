"""I8042Device: the PS/2 keyboard controller, and the PC's way to reset.

vm-superio's device knows the reset command only; this is all of the chip that
drivers/input/serio/i8042.c of Linux talks to, with an AT keyboard and, if
wanted, an AUX port with nothing plugged in. It has two registers: data,
offset 0 (port 0x60), and status and command, offset 4 (port 0x64).

Source: IBM PS/2 Hardware Interface Technical Reference, Keyboard and
Auxiliary Device Controller. Register and bit names are those of Linux.
"""

import threading
from collections import deque
from typing import Final

from ..fast_port import FastPort
from ..state import State
from ..trigger import InterruptLine, Trigger
from .i8042_reg import (
    I8042_CMD_AUX_DISABLE,
    I8042_CMD_AUX_ENABLE,
    I8042_CMD_AUX_LOOP,
    I8042_CMD_AUX_SEND,
    I8042_CMD_AUX_TEST,
    I8042_CMD_CTL_TEST,
    I8042_CMD_KBD_DISABLE,
    I8042_CMD_KBD_ENABLE,
    I8042_CMD_KBD_LOOP,
    I8042_CMD_KBD_TEST,
    I8042_CMD_PULSE,
    I8042_CMD_READ_INPUT_PORT,
    I8042_CMD_READ_OUTPUT_PORT,
    I8042_CMD_WRITE_OUTPUT_PORT,
    I8042_COMMAND_REG,
    I8042_CTR_AUXDIS,
    I8042_CTR_AUXINT,
    I8042_CTR_KBDDIS,
    I8042_CTR_KBDINT,
    I8042_CTR_SYSFLAG,
    I8042_CTR_XLATE,
    I8042_DATA_REG,
    I8042_RET_CTL_TEST,
    I8042_STR_AUXDATA,
    I8042_STR_CMDDAT,
    I8042_STR_KEYLOCK,
    I8042_STR_OBF,
    I8042_STR_SYSFLAG,
    I8042_STR_TIMEOUT,
)
from .i8042_state import (
    FROM_AUX,
    FROM_AUX_TIMEOUT,
    FROM_CONTROLLER,
    FROM_KEYBOARD,
    MAX_RESPONSES,
    RAM_SIZE,
    TAKE_PARAMETER,
    I8042State,
)
from .keyboard import Ps2Keyboard

OUTPUT_PORT_NOT_RESET: Final = 0x01
_OUTPUT_PORT_BUFFERS: Final = 0x30  # read only: a byte of keyboard, of AUX
_RESET_OUTPUT_PORT: Final = 0xCF

# As firmware leaves it: translating, and with both ports held until a driver
# enables them. A free keyboard port would let keys pressed before then fill
# the buffer, and Linux takes a buffer that 16 reads don't empty for no
# controller at all (i8042_flush).
_RESET_CTR: Final = (
    I8042_CTR_SYSFLAG | I8042_CTR_KBDDIS | I8042_CTR_AUXDIS | I8042_CTR_XLATE
)

# By source of a byte: what the status says of it.
_STATUS: Final = (
    0,
    0,
    I8042_STR_AUXDATA,
    I8042_STR_AUXDATA | I8042_STR_TIMEOUT,
)

_POWER_ON: Final = I8042State(
    ram=bytes((_RESET_CTR,)).ljust(RAM_SIZE, b"\0"),
    output_port=_RESET_OUTPUT_PORT,
    status=I8042_STR_KEYLOCK,
)

_BREAK: Final = 0xF0  # set 2: the key whose code follows was released
_SET_2_TO_1: Final = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59"
    "65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b"
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d"
    "69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f"
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61"
    "6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76"
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f"
    "52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54"
    "80 81 82 41 54"
)


class I8042Device:
    """The controller. Its own lock makes it safe to call from any thread.

    `reset` is pulled for each way a guest has to reset the machine;
    `keyboard_line` is IRQ 1, by default one that leads nowhere, and `aux_line`
    IRQ 12. Without an `aux_line` there is no AUX port: its tests fail at once and
    its bytes never come back.

    >>> from vmm.devices import I8042Device
    >>> class Reset:
    ...     def trigger(self):
    ...         print("the guest resets")
    >>> i8042 = I8042Device(Reset())
    >>> i8042.write(4, 0xFE)  # command: pulse the reset line
    the guest resets
    """

    def __init__(
        self,
        reset: Trigger,
        keyboard_line: Trigger | None = None,
        aux_line: Trigger | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._reset_line = reset
        self._keyboard_line = keyboard_line or InterruptLine()
        self._aux_line = aux_line
        self.keyboard = Ps2Keyboard(self._lock, self._take_from_keyboard)
        self._status_port = FastPort()
        self.fast_ports = {I8042_COMMAND_REG: self._status_port}
        """The status, which drivers poll: a run loop may serve it; by its offset."""
        self._power_on()

    @property
    def has_aux(self) -> bool:
        """Whether there is an AUX port."""
        return self._aux_line is not None

    def reset(self) -> None:
        """Return to the power-on state, keyboard included."""
        with self._lock:
            self._power_on()

    def send_scancodes(self, scancodes: bytes) -> int:
        """Press keys; see `Ps2Keyboard.send_scancodes`."""
        return self.keyboard.send_scancodes(scancodes)

    def read(self, offset: int) -> int:
        """Read data (0) or status (4), 0..0xFF; any other offset reads 0.

        Data that is read twice is the same byte again. Reading makes room for
        the next byte, and its interrupt if the command byte allows one.
        """
        with self._lock:
            if offset == I8042_DATA_REG:
                return self._read_data()
            if offset == I8042_COMMAND_REG:
                return self._read_status()
        return 0

    def write(self, offset: int, value: int) -> None:
        """Write `value`, 0..0xFF, as data (0) or command (4); else ignored."""
        with self._lock:
            if offset == I8042_DATA_REG:
                resets = self._write_data(value)
            elif offset == I8042_COMMAND_REG:
                resets = self._write_command(value)
            else:
                resets = False
            self._publish_status()
        if resets:  # unlocked: whoever listens may reset us at once
            self._reset_line.trigger()

    def state(self) -> I8042State:
        """All of it, keyboard included."""
        with self._lock:
            return I8042State(
                ram=bytes(self._ram),
                output_port=self._output_port,
                command=self._command,
                status=self._status,
                responses=tuple(self._responses),
                latched=self._latched,
                last=self._last,
                released=self._released,
                keyboard=self.keyboard.state(),
            )

    def restore(self, state: State | None) -> None:
        """Go on from `state`.

        If a byte waits to be read, its interrupt is raised again. Raises InvalidState,
        and TriggerError with everything done but that.
        """
        new = I8042State.of(state)
        with self._lock:
            self._load(new)
            self._interrupt()

    def _power_on(self) -> None:
        self._load(_POWER_ON)
        self._publish_status()

    def _load(self, state: I8042State) -> None:
        self._ram = bytearray(state.ram)  # byte 0 is the command byte, CTR
        self._output_port = state.output_port
        self._command = state.command  # the one that waits for its parameter
        self._status = state.status  # the bits that don't follow from others
        # What waits to be read: answers of the controller first, which a
        # driver polls for, then one byte that was taken from the keyboard.
        self._responses = deque(state.responses)
        self._latched = state.latched
        self._last = state.last
        self._released = state.released  # _BREAK was seen, its code not yet
        self.keyboard.restore(state.keyboard)

    # --- towards the guest -----------------------------------------------

    def _front(self) -> tuple[int, int] | None:
        if self._responses:
            return self._responses[0]
        return None if self._latched is None else (self._latched, FROM_KEYBOARD)

    def _read_status(self) -> int:
        status = self._status | self._ram[0] & I8042_STR_SYSFLAG
        front = self._front()
        return status if front is None else status | I8042_STR_OBF | _STATUS[front[1]]

    def _publish_status(self) -> None:
        self._status_port.answer(self._read_status())

    def _read_data(self) -> int:
        front = self._front()
        if front is None:
            return self._last
        if self._responses:
            self._responses.popleft()
        else:
            self._latched = None
        self._last = front[0]
        self._latch()
        self._interrupt()
        return self._last

    def _respond(self, value: int, source: int = FROM_CONTROLLER) -> None:
        if len(self._responses) < MAX_RESPONSES:
            self._responses.append((value, source))
            if len(self._responses) == 1:
                self._interrupt()

    def _interrupt(self) -> None:
        """Raise the edge of the byte at the front, if the command byte allows."""
        self._publish_status()  # first: another CPU may be there at once
        front = self._front()
        source = FROM_CONTROLLER if front is None else front[1]
        if source == FROM_KEYBOARD and self._ram[0] & I8042_CTR_KBDINT:
            self._keyboard_line.trigger()
        elif source >= FROM_AUX and self._ram[0] & I8042_CTR_AUXINT and self._aux_line:
            self._aux_line.trigger()

    # --- from the keyboard -----------------------------------------------

    def _take_from_keyboard(self) -> None:
        if self._latched is None:
            self._latch()
            if not self._responses:
                self._interrupt()

    def _latch(self) -> None:
        while self._latched is None and not self._ram[0] & I8042_CTR_KBDDIS:
            value = self.keyboard.next_byte()
            if value is None:
                return
            self._latched = self._translate(value)

    def _translate(self, value: int) -> int | None:
        """Set 2 to set 1 if CTR.XLATE is set; None while a prefix waits."""
        if not self._ram[0] & I8042_CTR_XLATE:
            return value
        if value == _BREAK:
            self._released = True
            return None
        if value >= len(_SET_2_TO_1):
            return value
        value = _SET_2_TO_1[value] | (0x80 if self._released else 0)
        self._released = False
        return value

    # --- from the guest --------------------------------------------------

    def _write_ctr(self, value: int) -> None:
        rising = value & ~self._ram[0]
        was_empty = self._front() is None
        self._ram[0] = value
        self._latch()
        if was_empty or rising & (I8042_CTR_KBDINT | I8042_CTR_AUXINT):
            self._interrupt()

    def _write_data(self, value: int) -> bool:
        self._status &= ~I8042_STR_CMDDAT
        command, self._command = self._command, None
        if command is None:
            self._write_keyboard(value)
        elif command == I8042_CMD_WRITE_OUTPUT_PORT:
            self._output_port = value
            return not value & OUTPUT_PORT_NOT_RESET
        elif command == I8042_CMD_KBD_LOOP:
            self._respond(value, FROM_KEYBOARD)
        elif command == I8042_CMD_AUX_LOOP:
            self._respond(value if self.has_aux else 0xFF, FROM_AUX)
        elif command == I8042_CMD_AUX_SEND:
            self._respond(0xFE, FROM_AUX_TIMEOUT)  # nothing is plugged in
        elif command == 0x60:
            self._write_ctr(value)
        else:
            self._ram[command & 0x1F] = value
        return False

    def _write_keyboard(self, value: int) -> None:
        self._ram[0] &= ~I8042_CTR_KBDDIS  # sending releases the port's clock
        self.keyboard.write(value)
        self._take_from_keyboard()

    def _write_command(self, command: int) -> bool:
        self._status |= I8042_STR_CMDDAT
        self._command = None
        ctr = self._ram[0]
        if command >= I8042_CMD_PULSE:
            return not command & OUTPUT_PORT_NOT_RESET
        if 0x20 <= command < 0x40:
            self._respond(self._ram[command & 0x1F])
        elif command in TAKE_PARAMETER:
            self._command = command
        elif command == I8042_CMD_AUX_DISABLE:
            self._write_ctr(ctr | I8042_CTR_AUXDIS)
        elif command == I8042_CMD_AUX_ENABLE and self.has_aux:
            self._write_ctr(ctr & ~I8042_CTR_AUXDIS)
        elif command == I8042_CMD_KBD_DISABLE:
            self._write_ctr(ctr | I8042_CTR_KBDDIS)
        elif command == I8042_CMD_KBD_ENABLE:
            self._write_ctr(ctr & ~I8042_CTR_KBDDIS)
        else:
            self._answer(command)
        return False

    def _answer(self, command: int) -> None:
        """Commands that only answer; all others are ignored."""
        if command == I8042_CMD_CTL_TEST:
            self._respond(I8042_RET_CTL_TEST)
        elif command == I8042_CMD_KBD_TEST:
            self._respond(0x00)  # no error
        elif command == I8042_CMD_AUX_TEST:
            self._respond(0x00 if self.has_aux else 0x01)  # the clock line is low
        elif command == I8042_CMD_READ_INPUT_PORT:
            self._respond(0x80)  # not locked
        elif command == I8042_CMD_READ_OUTPUT_PORT:
            port = self._output_port & ~_OUTPUT_PORT_BUFFERS
            front = self._front()
            if front is not None:
                port |= 0x20 if front[1] >= FROM_AUX else 0x10
            self._respond(port)
