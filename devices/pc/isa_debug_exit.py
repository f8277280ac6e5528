"""IsaDebugExit: the port by which test suites end a run, as QEMU's isa-debug-exit.

Source: QEMU's hw/misc/debugexit.c: any write ends, with status `value << 1 | 1`.
kvm-unit-tests has it at 0xF4, of four ports; QEMU itself at 0x501.
"""

from collections.abc import Callable, Sequence
from typing import Final

from ..device_io import DeviceIo
from ..resources import PioAddressConstraint, ResourceConstraint

DEBUG_EXIT_PORT: Final = 0x501
ISA_DEBUG_EXIT_SIZE: Final = 4


class IsaDebugExit(DeviceIo):
    """Tells `on_exit` each value that is written to `port` or the three behind it.

    A value is of one, two or four bytes, wherever it was written; reads are 0, as in
    QEMU. `on_exit` is called on a vCPU's thread and must not block.
    """

    def __init__(
        self, on_exit: Callable[[int], None], port: int = DEBUG_EXIT_PORT
    ) -> None:
        self._on_exit = on_exit
        self._port = port

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [PioAddressConstraint.at(self._port, ISA_DEBUG_EXIT_SIZE)]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes(len(data))

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self._on_exit(int.from_bytes(data, "little"))


def exit_status(value: int) -> int:
    """The process status, 0..255, that QEMU ends with for `value`: never 0."""
    return (value << 1 | 1) & 0xFF
