"""The table of what a machine has."""

from collections.abc import Iterator

import pytest
from support.device_rig import CONSTRAINTS, PORT, Device, Rig

from vmm.boot.layout import GIB, ram_ranges
from vmm.devices.device_io import DeviceIoMut, Locked
from vmm.devices.resources import (
    LegacyIrqConstraint,
    MemAddressConstraint,
    MmioAddressConstraint,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
)
from vmm.event_loop import EventLoop
from vmm.machine.devices_table import DeviceRow, devices_table

pytest_plugins = ("support.loop_fixtures",)


@pytest.fixture
def rig(loop: EventLoop) -> Iterator[Rig]:
    rig = Rig(loop)
    yield rig
    rig.manager.close()


def rows(rig: Rig) -> list[DeviceRow]:
    """Those of devices."""
    table = devices_table(ram_ranges(GIB), rig.manager.plugged())
    return [row for row in table if row.device != "RAM" and "KVM's" not in row.device]


def test_ram_and_kvms_own_come_first() -> None:
    table = devices_table(ram_ranges(4 * GIB), [])
    assert [row.device for row in table] == [
        *("RAM", "KVM's 8259A", "KVM's 8254", "KVM's IOAPIC", "KVM's LAPIC")
    ]
    assert table[0].addresses == ((0, 0xDFFF_FFFF), (1 << 32, 0x1_1FFF_FFFF))


def test_a_device_has_what_it_was_given(rig: Rig) -> None:
    rig.manager.add(Device(CONSTRAINTS))
    (row,) = rows(rig)
    assert row == DeviceRow(
        "Device",
        lines=(5,),
        ports=((PORT, PORT + 3),),
        addresses=((0xE000_0000, 0xE000_0FFF),),
    )


def test_messages_are_counted_and_lines_are_numbers(rig: Rig) -> None:
    asked = [
        LegacyIrqConstraint(shared=True, level=True),
        PciMsixIrqConstraint(size=5),
        PciMsiIrqConstraint(size=2),
    ]
    rig.manager.add(Device(asked))
    (row,) = rows(rig)
    assert (row.lines, row.messages) == ((11,), 7)


def test_memory_stands_beside_mmio(rig: Rig) -> None:
    asked = [
        MemAddressConstraint.at(1 << 33, 0x1000),
        MmioAddressConstraint.at(1 << 34, 0x1000),
    ]
    rig.manager.add(Device(asked))
    (row,) = rows(rig)
    assert row.addresses == (
        (1 << 34, (1 << 34) + 0xFFF),
        (1 << 33, (1 << 33) + 0xFFF),
    )


def test_a_locked_device_has_its_authors_name(rig: Rig) -> None:
    class Plain(DeviceIoMut):
        pass

    rig.manager.add(Locked(Plain()))
    assert [row.device for row in rows(rig)] == ["Plain"]
