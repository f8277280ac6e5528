"""What firmware leaves: the BIOS data area, vectors and ROM, and the PICs."""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest

from vmm.boot.firmware import COM_PORTS, firmware, told_of_reset
from vmm.boot.layout import ACPI, ACPI_SIZE, MIB
from vmm.boot.pic import set_up_pics
from vmm.config import CPUS_MAX
from vmm.kvm.abi import kvm_pic_state
from vmm.memory import GuestMemory, Range

if TYPE_CHECKING:
    from vmm.kvm.vm import Vm


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """RAM as firmware leaves it, on a machine with COM1 and COM2."""
    memory = GuestMemory([Range(0, MIB)])
    for _, address, data in firmware(2, COM_PORTS[:2], ()):
        memory.write(address, data)
    yield memory
    memory.close()


def word(memory: GuestMemory, address: int) -> int:
    (value,) = struct.unpack("<H", memory.read(address, 2))
    return int(value)


def test_the_bios_data_area_has_what_kernels_look_for(memory: GuestMemory) -> None:
    assert [word(memory, at) for at in (0x400, 0x402, 0x404)] == [0x3F8, 0x2F8, 0]
    assert word(memory, 0x40E) << 4 == 0x9FC00
    assert word(memory, 0x413) == 639
    assert word(memory, 0x410) == 2 << 9 | 0b10  # two UARTs, an FPU, no display
    assert memory.read(0x9FC00, 1) == b"\x01"  # the EBDA's size in KiB


def test_nothing_that_firmware_leaves_overlaps() -> None:
    parts = firmware(CPUS_MAX, COM_PORTS, ())
    end = 0
    for what, address, data in parts:
        assert end <= address, what
        assert not ACPI - len(data) < address < ACPI + ACPI_SIZE, what
        end = address + len(data)
    assert end == MIB


def test_every_vector_points_to_code_in_the_rom(memory: GuestMemory) -> None:
    for vector in range(256):
        offset, segment = struct.unpack("<HH", memory.read(4 * vector, 4))
        assert segment == 0xF000
        assert memory.read(0xF0000 + offset, 1) != b"\0", vector


def test_the_reset_vector_jumps_to_where_every_bios_has_its_start(
    memory: GuestMemory,
) -> None:
    assert memory.read(0xFFFF0, 5) == bytes.fromhex("ea 5b e0 00 f0")
    assert memory.read(0xFFFFE, 1) == b"\xfc"  # a PC AT


@pytest.mark.parametrize("mode", [0, 0x1234])
def test_firmware_is_told_of_a_reset_by_its_flag(
    memory: GuestMemory, mode: int
) -> None:
    assert not told_of_reset(memory)
    memory.write(0x472, struct.pack("<H", mode))
    assert told_of_reset(memory)


def test_an_area_that_was_overwritten_tells_of_nothing(memory: GuestMemory) -> None:
    memory.write(0x400, bytes(0x100))
    assert not told_of_reset(memory)


# The PICs


class FakeVm:
    """Has two PICs as KVM makes them."""

    def __init__(self) -> None:
        self.pics = [kvm_pic_state(elcr_mask=mask) for mask in (0xF8, 0xDE)]

    def get_pic(self, chip_id: int) -> kvm_pic_state:
        return kvm_pic_state.from_buffer_copy(self.pics[chip_id])

    def set_pic(self, chip_id: int, state: kvm_pic_state) -> None:
        self.pics[chip_id] = state


def test_pics_are_as_a_bios_leaves_them() -> None:
    vm = FakeVm()
    set_up_pics(cast("Vm", vm), [])
    master, slave = vm.pics
    assert (master.irq_base, slave.irq_base) == (0x08, 0x70)
    assert (master.imr, slave.imr) == (0xF8, 0xFE)  # IRQ 0, 1, 2 and 8 are served
    assert (master.elcr, slave.elcr) == (0, 0)
    assert (master.elcr_mask, slave.elcr_mask) == (0xF8, 0xDE)


def test_pics_know_what_is_level_triggered_where_they_can() -> None:
    vm = FakeVm()
    set_up_pics(cast("Vm", vm), [1, 5, 8, 11, 23])
    assert [pic.elcr for pic in vm.pics] == [1 << 5, 1 << 11 - 8]
