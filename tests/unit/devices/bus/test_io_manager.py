"""IoManager: what an access reaches, and what a stray one does."""

import pytest
from support.io_manager_rig import COM1, PAGE, Echo, mmio, pio

from vmm.devices.bus.io_manager import MAX_REPORTED_STRAYS, IoManager
from vmm.devices.device_io import DeviceIo
from vmm.devices.resources import (
    DeviceResources,
    LegacyIrq,
    MmioAddressRange,
    PioAddressRange,
)


@pytest.fixture
def manager() -> IoManager:
    return IoManager()


# --- dispatch ------------------------------------------------------------


def test_an_access_reaches_its_device_with_base_and_offset(manager: IoManager) -> None:
    device = Echo(7)
    manager.register_device_io(device, COM1 + PAGE)
    assert pio(manager, 0x3FD, 2) == b"\x07\x07"
    manager.pio_write(0x3F8, memoryview(b"a"))
    assert mmio(manager, 0x1FF8, 8) == b"\x07" * 8
    manager.mmio_write(0x1004, memoryview(b"word"))
    assert device.log == [
        ("pio_read", 0x3F8, 5, b"\x07\x07"),
        ("pio_write", 0x3F8, 0, b"a"),
        ("read", 0x1000, 0xFF8, b"\x07" * 8),
        ("write", 0x1000, 4, b"word"),
    ]


def test_the_two_buses_are_apart(manager: IoManager) -> None:
    manager.register_device_io(Echo(1), [PioAddressRange(0x1000, 8)])
    manager.register_device_io(Echo(2), [MmioAddressRange(0x1000, 8)])
    assert pio(manager, 0x1000) == b"\x01"
    assert mmio(manager, 0x1000) == b"\x02"


def test_resources_that_are_not_trapped_are_ignored(manager: IoManager) -> None:
    manager.register_device_io(Echo(), DeviceResources([LegacyIrq(4)]))
    assert manager == IoManager()


def test_an_unclaimed_access_reads_ones_writes_nothing_and_is_counted(
    manager: IoManager,
) -> None:
    assert pio(manager, 0x80, 4) == b"\xff" * 4
    assert mmio(manager, 0, 8) == b"\xff" * 8
    manager.pio_write(0x80, memoryview(b"\x00"))
    manager.mmio_write(1 << 63, memoryview(b"\x00"))
    assert (manager.unclaimed_accesses, manager.crossing_accesses) == (4, 0)


def test_an_access_at_the_top_end_does_not_wrap(manager: IoManager) -> None:
    device = Echo(7)
    low = [PioAddressRange(0, 4), MmioAddressRange(0, 4)]
    top = [PioAddressRange(0xFFFF, 1), MmioAddressRange((1 << 64) - 1, 1)]
    manager.register_device_io(device, low + top)
    assert pio(manager, 0xFFFF) == mmio(manager, (1 << 64) - 1) == b"\x07"
    assert pio(manager, 0xFFFF, 2) == mmio(manager, (1 << 64) - 1, 2) == b"\xff\xff"
    assert len(device.log) == 2


def test_a_devices_exception_passes_and_the_device_can_be_named(
    manager: IoManager,
) -> None:
    class Broken(DeviceIo):
        def pio_read(self, base: int, offset: int, data: memoryview) -> None:
            raise ZeroDivisionError

    broken = Broken()
    manager.register_device_io(broken, COM1 + PAGE)
    with pytest.raises(ZeroDivisionError):
        pio(manager, 0x3F8)
    assert manager.device_at_port(0x3FF) is broken
    assert manager.device_at_address(0x1FFF) is broken
    assert manager.device_at_port(0x400) is None
    assert manager.device_at_address(0x2000) is None
    assert manager.device_at_address(0) is None


# --- strays --------------------------------------------------------------


def test_a_stray_is_told_once_a_port_and_once_a_page() -> None:
    told: list[tuple[str, int, int, bool]] = []
    manager = IoManager(on_stray=lambda *stray: told.append(stray))
    for _ in range(3):
        pio(manager, 0x80)
        manager.pio_write(0x80, memoryview(b"\x00"))
        manager.mmio_write(0x5008, memoryview(b"\x00\x00"))
        mmio(manager, 0x5FFF)
    assert told == [("PIO", 0x80, 1, False), ("MMIO", 0x5008, 2, True)]
    assert manager.unclaimed_accesses == 12


def test_a_guest_that_strays_everywhere_does_not_make_us_grow() -> None:
    told: list[int] = []
    manager = IoManager(on_stray=lambda bus, address, *_: told.append(address))
    for page in range(MAX_REPORTED_STRAYS + 100):
        mmio(manager, page << 12)
    assert len(told) == len(manager._reported) == MAX_REPORTED_STRAYS
    assert manager.unclaimed_accesses == MAX_REPORTED_STRAYS + 100
