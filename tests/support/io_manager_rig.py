"""Devices that echo, and accesses by which a test reaches them."""

from vmm.devices.bus.io_manager import IoManager
from vmm.devices.device_io import DeviceIo
from vmm.devices.resources import MmioAddressRange, PioAddressRange, Resource


class Echo(DeviceIo):
    """Reads as its tag; remembers what it was asked."""

    def __init__(self, tag: int = 0) -> None:
        self.tag = tag
        self.log: list[tuple[str, int, int, bytes]] = []

    def read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.tag]) * len(data)
        self.log.append(("read", base, offset, bytes(data)))

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self.log.append(("write", base, offset, bytes(data)))

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.tag]) * len(data)
        self.log.append(("pio_read", base, offset, bytes(data)))

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.log.append(("pio_write", base, offset, bytes(data)))


class Quiet(DeviceIo):
    """Reads as its tag and remembers nothing."""

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.tag]) * len(data)


class Another(Echo):
    """For messages that must name two devices."""


COM1: list[Resource] = [PioAddressRange(0x3F8, 8)]
PAGE: list[Resource] = [MmioAddressRange(0x1000, 0x1000)]


def pio(manager: IoManager, port: int, size: int = 1) -> bytes:
    data = bytearray(size)
    manager.pio_read(port, memoryview(data))
    return bytes(data)


def mmio(manager: IoManager, address: int, size: int = 1) -> bytes:
    data = bytearray(size)
    manager.mmio_read(address, memoryview(data))
    return bytes(data)
