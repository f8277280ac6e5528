"""VmGenerationId: when a guest gets another ID, and when it is told.

Source: Microsoft, "Virtual Machine Generation ID".
"""

import pytest
from support.plain_ram import PlainRam

from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.errors import TriggerError
from vmm.devices.pc.vm_generation_id import (
    GENERATION_ID_SIZE,
    GENERATION_IRQ,
    VmGenerationId,
)
from vmm.devices.resources import LegacyIrq

AT = 0x1_0000_0018


class HighRam(PlainRam):
    """RAM from 4 GiB on."""

    def view(self, guest_addr: int, size: int) -> memoryview:
        return super().view(guest_addr - (1 << 32), size)


class Rig:
    """The device, and what its driver would find at each interrupt."""

    def __init__(self) -> None:
        self.ram = HighRam(0x100)
        self.seen: list[bytes] = []
        self.device = VmGenerationId(self.ram, AT)
        wanted = self.device.get_resource_constraints()
        resources = ResourceManager().allocate_device_resources(wanted)
        self.device.assign_resources(resources, [self])

    @property
    def id(self) -> bytes:
        return self.ram.read(AT, GENERATION_ID_SIZE)

    def trigger(self) -> None:
        self.seen.append(self.id)

    def set_level(self, high: bool) -> None:
        raise AssertionError(high)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_each_machine_has_an_id_of_its_own_and_nothing_else_is_written(
    rig: Rig,
) -> None:
    assert len({rig.id, Rig().id, bytes(GENERATION_ID_SIZE)}) == 3
    around = rig.ram.data.replace(rig.id, b"")
    assert len(around) == len(rig.ram.data) - GENERATION_ID_SIZE
    assert not any(around)


def test_a_boot_again_has_another_and_nobody_is_interrupted(rig: Rig) -> None:
    before = rig.id
    rig.device.reset()
    assert rig.id != before
    assert rig.seen == []


def test_a_clone_has_another_by_the_time_it_is_interrupted_once(rig: Rig) -> None:
    before = rig.id
    rig.device.restore(rig.device.state())
    assert rig.id != before
    assert rig.seen == [rig.id]
    rig.device.restore(None)  # put back: that is another clone
    assert rig.seen[1] == rig.id != rig.seen[0]


def test_without_its_interrupt_there_is_another_id_still(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise TriggerError("no")

    before = rig.id
    monkeypatch.setattr(rig, "trigger", fail)
    with pytest.raises(TriggerError):
        rig.device.restore(None)
    assert rig.id != before


def test_drivers_find_it_by_what_it_is_compatible_with(rig: Rig) -> None:
    (told,) = rig.device.get_acpi_devices()
    assert told.compatible == ("VM_Gen_Counter", "VMGENCTR")
    assert told.description == "VM_Gen_Counter"
    assert told.packages == {"ADDR": (0x18, 1)}
    assert list(told.resources) == []
    assert list(told.events) == [LegacyIrq(GENERATION_IRQ)]
