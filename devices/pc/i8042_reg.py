"""Registers, bits and commands of the i8042 under the names Linux has for them.

Offsets are from port 0x60, which is where the controller's registers start.
"""

from typing import Final

I8042_DATA_REG: Final = 0
I8042_COMMAND_REG: Final = 4  # reads: status

I8042_STR_OBF: Final = 0x01  # output buffer full
I8042_STR_SYSFLAG: Final = 0x04  # the self-test has passed
I8042_STR_CMDDAT: Final = 0x08  # the last write was a command
I8042_STR_KEYLOCK: Final = 0x10  # set: not locked
I8042_STR_AUXDATA: Final = 0x20  # the output buffer is from the AUX port
I8042_STR_TIMEOUT: Final = 0x40  # the device didn't answer
# IBF, 0x02, is never set: a write is done when it returns.

# The command byte
I8042_CTR_KBDINT: Final = 0x01
I8042_CTR_AUXINT: Final = 0x02
I8042_CTR_SYSFLAG: Final = 0x04
I8042_CTR_KBDDIS: Final = 0x10
I8042_CTR_AUXDIS: Final = 0x20
I8042_CTR_XLATE: Final = 0x40

I8042_CMD_AUX_DISABLE: Final = 0xA7
I8042_CMD_AUX_ENABLE: Final = 0xA8
I8042_CMD_AUX_TEST: Final = 0xA9
I8042_CMD_CTL_TEST: Final = 0xAA
I8042_CMD_KBD_TEST: Final = 0xAB
I8042_CMD_KBD_DISABLE: Final = 0xAD
I8042_CMD_KBD_ENABLE: Final = 0xAE
I8042_CMD_READ_INPUT_PORT: Final = 0xC0
I8042_CMD_READ_OUTPUT_PORT: Final = 0xD0
I8042_CMD_WRITE_OUTPUT_PORT: Final = 0xD1
I8042_CMD_KBD_LOOP: Final = 0xD2
I8042_CMD_AUX_LOOP: Final = 0xD3
I8042_CMD_AUX_SEND: Final = 0xD4
I8042_CMD_PULSE: Final = 0xF0  # ..0xFF: pulse the output bits that are 0
I8042_RET_CTL_TEST: Final = 0x55
