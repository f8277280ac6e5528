"""A PCI device in forty lines: it sums up guest memory by DMA, and tells by MSI-X.

`machine.plug(Summer())` before `machine.start()` puts it on the bus of a machine with
PCI. `pci_driver.c` beside this file is a driver for it that runs under Linux.
"""

import struct
import zlib
from typing import Annotated

from vmm.devices import Bar, PciDevice, State

REGISTERS = struct.Struct("<QQII")  # source, target, size, status
STATUS, MOST = 20, 1 << 20


class SummerState(State):
    registers: Annotated[bytes, range(REGISTERS.size, REGISTERS.size + 1)]


class Summer(PciDevice):
    """Writing STATUS has it put the CRC-32 of `size` bytes at `source` to `target`.

    STATUS is 1 after that, or 2 where there is no RAM or the size is beyond MOST.
    """

    vendor_id, device_id = 0x1234, 0x0C32
    class_code = 0x120000  # a processing accelerator
    bars = (Bar(0, 0x1000),)
    msix_vectors = 1

    def __init__(self) -> None:
        super().__init__()
        self.registers = bytearray(REGISTERS.size)

    def read_bar(self, bar: int, offset: int, data: memoryview) -> None:
        data[:] = self.registers[offset : offset + len(data)].ljust(len(data), b"\0")

    def write_bar(self, bar: int, offset: int, data: memoryview) -> None:
        if offset + len(data) <= REGISTERS.size:
            self.registers[offset : offset + len(data)] = data
        if offset == STATUS:
            self.sum_up()

    def sum_up(self) -> None:
        source, target, size, _ = REGISTERS.unpack(self.registers)
        memory = self.dma.view(source, size) if size <= MOST else None
        crc = None if memory is None else zlib.crc32(memory).to_bytes(4, "little")
        done = crc is not None and self.dma.write(target, crc)
        self.registers[STATUS] = 1 if done else 2
        self.interrupt()

    def reset_device(self) -> None:
        self.registers[:] = bytes(REGISTERS.size)

    def device_state(self) -> SummerState:
        return SummerState(bytes(self.registers))

    def restore_device(self, state: State) -> None:
        self.registers[:] = SummerState.of(state).registers
