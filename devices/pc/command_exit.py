"""CommandExit: a port through which a program in the guest ends the run.

The port of QEMU's isa-debug-exit device, where it is by default: iobase 0x501, iosize
2 (hw/misc/debugexit.c). QEMU's process exits with `value << 1 | 1`; here the value
goes to the host as it is, so that status 0 is a success.
"""

from collections.abc import Callable, Sequence
from typing import Final

from ..device_io import DeviceIo
from ..resources import PioAddressConstraint, ResourceConstraint
from ..state import Byte, State

COMMAND_EXIT_PORT: Final = 0x501
COMMAND_EXIT_SIZE: Final = 2


class CommandExitState(State):
    """What waits for its low byte."""

    high: Byte


class CommandExit(DeviceIo):
    """Tells `on_exit` the word, 0..0xFFFF, that was written to `port`.

    Writing the low byte ends; the high byte is 0, or what was written to it, by the
    same access or before. Reads are 0, as in QEMU. `on_exit` is called on a vCPU's
    thread and must not block.
    """

    def __init__(
        self, on_exit: Callable[[int], None], port: int = COMMAND_EXIT_PORT
    ) -> None:
        self._on_exit = on_exit
        self._port = port
        self._high = 0

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [PioAddressConstraint.at(self._port, COMMAND_EXIT_SIZE)]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes(len(data))

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        if offset + len(data) == COMMAND_EXIT_SIZE:
            self._high = data[-1]
        if offset == 0:
            self._on_exit(data[0] | self._high << 8)

    def reset(self) -> None:
        self._high = 0

    def state(self) -> CommandExitState:
        return CommandExitState(self._high)

    def restore(self, state: State | None) -> None:
        self._high = CommandExitState.of(state).high
