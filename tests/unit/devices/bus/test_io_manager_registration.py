"""IoManager: what is registered, refused, and free again."""

from collections.abc import Mapping

import pytest
from support.io_manager_rig import COM1, PAGE, Another, Echo, mmio, pio

from vmm.devices.bus.io_manager import IoManager, IoManagerContext
from vmm.devices.device_io import DeviceIo, DeviceIoMut
from vmm.devices.errors import DeviceOverlap, InvalidDevice, NoDevice
from vmm.devices.fast_port import FastPort
from vmm.devices.resources import MmioAddressRange, PioAddressRange


@pytest.fixture
def manager() -> IoManager:
    return IoManager()


# --- the faults of dbs-device --------------------------------------------


def test_fault_a_range_that_overlaps_another_in_part_was_accepted(
    manager: IoManager,
) -> None:
    manager.register_device_io(Echo(1), [PioAddressRange(0x3F8, 8)])
    with pytest.raises(
        DeviceOverlap,
        match=r"PIO 0x3fc\.\.0x403 of Another overlaps 0x3f8\.\.0x3ff of Echo",
    ):
        manager.register_device_io(Another(2), [PioAddressRange(0x3FC, 8)])
    assert pio(manager, 0x3FD) == b"\x01"


@pytest.mark.parametrize(
    ("base", "size"), [(0x3F8, 8), (0x3F0, 9), (0x3FF, 1), (0x3F0, 0x20), (0x3FA, 2)]
)
def test_every_way_to_overlap_is_refused(
    manager: IoManager, base: int, size: int
) -> None:
    manager.register_device_io(Echo(), [*COM1, MmioAddressRange(0x3F8, 8)])
    before = manager.clone()
    with pytest.raises(DeviceOverlap, match="PIO"):
        manager.register_device_io(Echo(), [PioAddressRange(base, size)])
    with pytest.raises(DeviceOverlap, match="MMIO"):
        manager.register_device_io(Echo(), [MmioAddressRange(base, size)])
    assert manager == before


def test_ranges_may_touch(manager: IoManager) -> None:
    manager.register_device_io(Echo(1), COM1)
    manager.register_device_io(Echo(2), [PioAddressRange(0x3F0, 8)])
    manager.register_device_io(Echo(3), [PioAddressRange(0x400, 8)])
    assert pio(manager, 0x3F7) + pio(manager, 0x3F8) == b"\x02\x01"
    assert pio(manager, 0x3FF) + pio(manager, 0x400) == b"\x01\x03"


def test_fault_a_refused_registration_threw_the_old_device_out(
    manager: IoManager,
) -> None:
    manager.register_device_io(Echo(1), COM1)
    with pytest.raises(DeviceOverlap):
        manager.register_device_io(Echo(2), COM1)
    assert pio(manager, 0x3F8) == b"\x01"


def test_fault_unregistering_what_was_never_registered_was_ok(
    manager: IoManager,
) -> None:
    with pytest.raises(NoDevice, match=r"no device has PIO 0x3f8\.\.0x3ff registered"):
        manager.unregister_device_io(COM1)
    manager.register_device_io(Echo(1), COM1 + PAGE)
    with pytest.raises(NoDevice, match=r"PIO 0x3f8\.\.0x3fb"):
        manager.unregister_device_io([PioAddressRange(0x3F8, 4)])
    with pytest.raises(NoDevice, match=r"MMIO 0x2000\.\.0x2fff"):
        manager.unregister_device_io([*COM1, MmioAddressRange(0x2000, 0x1000)])
    assert pio(manager, 0x3F8) == b"\x01"


def test_fault_an_access_over_the_end_of_a_range_was_dispatched(
    manager: IoManager,
) -> None:
    device = Echo(7)
    manager.register_device_io(device, COM1 + PAGE)
    assert pio(manager, 0x3FF, 2) == b"\xff\xff"
    assert mmio(manager, 0x1FFF, 8) == b"\xff" * 8
    manager.pio_write(0x3FD, memoryview(b"1234"))
    manager.mmio_write(0x1FFC, memoryview(b"12345678"))
    assert device.log == []
    assert (manager.unclaimed_accesses, manager.crossing_accesses) == (0, 4)


def test_fault_two_of_three_ranges_stayed_when_the_third_failed(
    manager: IoManager,
) -> None:
    manager.register_device_io(Echo(1), COM1)
    three = [PioAddressRange(0x100, 4), *PAGE, PioAddressRange(0x3FF, 1)]
    with pytest.raises(DeviceOverlap):
        manager.register_device_io(Echo(2), three)
    assert pio(manager, 0x100) == mmio(manager, 0x1000) == b"\xff"


def test_nothing_stays_of_a_device_that_raises(manager: IoManager) -> None:
    class Broken(DeviceIo):
        def get_fast_ports(self) -> Mapping[int, FastPort]:
            raise RuntimeError("a user's bug")

    before = manager.clone()
    context = IoManagerContext(manager)
    transaction = context.begin_tx()
    with pytest.raises(RuntimeError, match="a user's bug"):
        context.register_device_io(transaction, Broken(), COM1)
    context.commit_tx(transaction)
    assert manager == before


def test_ranges_of_one_registration_must_not_overlap_either(
    manager: IoManager,
) -> None:
    with pytest.raises(DeviceOverlap):
        manager.register_device_io(Echo(), COM1 + COM1)
    assert manager == IoManager()


# --- registering and not -------------------------------------------------


def test_what_is_unregistered_is_gone_and_free_again(manager: IoManager) -> None:
    manager.register_device_io(Echo(1), COM1 + PAGE)
    manager.unregister_device_io(COM1 + PAGE)
    assert manager == IoManager()
    assert pio(manager, 0x3F8) == mmio(manager, 0x1000) == b"\xff"
    manager.register_device_io(Echo(2), COM1 + PAGE)
    assert pio(manager, 0x3F8) == mmio(manager, 0x1000) == b"\x02"


@pytest.mark.parametrize("device", [DeviceIoMut(), object()])
def test_what_is_no_device_io_is_refused(manager: IoManager, device: object) -> None:
    with pytest.raises(InvalidDevice, match="wrap a DeviceIoMut in Locked"):
        manager.register_device_io(device, COM1)  # type: ignore[arg-type]


def test_a_clone_is_equal_and_goes_its_own_way(manager: IoManager) -> None:
    manager.register_device_io(Echo(1), COM1)
    clone = manager.clone()
    assert clone == manager
    clone.register_device_io(Echo(2), PAGE)
    assert clone != manager
    assert mmio(manager, 0x1000) == b"\xff"


def test_managers_are_equal_when_the_same_devices_are_at_the_same_ranges() -> None:
    device, one, two = Echo(), IoManager(), IoManager()
    one.register_device_io(device, COM1)
    two.register_device_io(device, COM1)
    assert one == two
    two.unregister_device_io(COM1)
    two.register_device_io(Echo(), COM1)
    assert one != two
    assert one != COM1


def test_ten_thousand_devices_are_registered_and_found(manager: IoManager) -> None:
    device = Echo(7)
    context = IoManagerContext(manager)
    with context.transaction() as tx:
        for at in range(10_000):
            ranges = [PioAddressRange(at * 4, 4), MmioAddressRange(at << 12, 0x1000)]
            context.register_device_io(tx, device, ranges)
    assert pio(manager, 39_999) == mmio(manager, (10_000 << 12) - 1) == b"\x07"
    assert device.log[-1][1:3] == (9_999 << 12, 0xFFF)
    for at in range(0, 10_000, 500):  # one by one works as well
        manager.unregister_device_io([PioAddressRange(at * 4, 4)])
    assert pio(manager, 2_000) == b"\xff"
