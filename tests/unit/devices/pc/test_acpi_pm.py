"""AcpiPm: the PM1 registers of a machine without events, and how it is switched off.

Source of every rule: ACPI Specification 6.5, section 4.8.3.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serial_rig import CountingTrigger

from vmm.devices.bus.io_manager import IoManager
from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.pc.acpi_pm import (
    EN_BITS,
    PM1_CNT,
    PM1_EN,
    PM1_SIZE,
    PM1_STS,
    SCI_EN,
    SLP_EN,
    SLP_TYP_S5,
    AcpiPm,
)
from vmm.devices.pc.platform import ACPI_PM, ACPI_SCI, AcpiPmPio

S5 = SLP_TYP_S5 << 10


class Pm(AcpiPm):
    """One on the bus, accessed by words as Linux does."""

    def __init__(self) -> None:
        self.off = CountingTrigger()
        super().__init__(self.off)
        self.adapter = AcpiPmPio(self)
        self.resources = ResourceManager().allocate_device_resources(
            self.adapter.get_resource_constraints()
        )
        self.adapter.assign_resources(self.resources, [CountingTrigger()])
        self.io = IoManager()
        self.io.register_device_io(
            self.adapter, self.adapter.get_trapped_io_resources()
        )

    def word(self, offset: int) -> int:
        data = bytearray(2)
        self.io.pio_read(ACPI_PM + offset, memoryview(data))
        return int.from_bytes(data, "little")

    def set_word(self, offset: int, value: int) -> None:
        data = bytearray(value.to_bytes(2, "little"))
        self.io.pio_write(ACPI_PM + offset, memoryview(data))


@pytest.fixture
def pm() -> Pm:
    return Pm()


def test_it_is_in_acpi_mode_from_the_start(pm: Pm) -> None:
    assert pm.word(PM1_CNT) == SCI_EN
    assert pm.word(PM1_STS) == pm.word(PM1_EN) == 0


def test_acpi_mode_cant_be_left(pm: Pm) -> None:
    pm.set_word(PM1_CNT, 0)
    assert pm.word(PM1_CNT) == SCI_EN


def test_s5_with_slp_en_switches_off(pm: Pm) -> None:
    pm.set_word(PM1_CNT, S5 | SLP_EN | SCI_EN)
    assert pm.off.edges == 1


def test_four_bytes_at_once_switch_off_too(pm: Pm) -> None:
    """`outl(0x604, 0x2000)`, which QEMU splits."""
    data = bytearray((S5 | SLP_EN).to_bytes(4, "little"))
    pm.io.pio_write(ACPI_PM + PM1_CNT, memoryview(data))
    assert pm.off.edges == 1


def test_linux_writes_the_type_first_and_then_both(pm: Pm) -> None:
    pm.set_word(PM1_CNT, S5 | SCI_EN)
    assert pm.off.edges == 0
    pm.set_word(PM1_CNT, S5 | SLP_EN | SCI_EN)
    assert pm.off.edges == 1


def test_the_high_byte_alone_switches_off_too(pm: Pm) -> None:
    pm.write(PM1_CNT + 1, (S5 | SLP_EN) >> 8)
    assert pm.off.edges == 1


@pytest.mark.parametrize("other", sorted(set(range(8)) - {SLP_TYP_S5}))
def test_other_sleep_types_do_nothing(pm: Pm, other: int) -> None:
    pm.set_word(PM1_CNT, other << 10 | SLP_EN)
    assert pm.off.edges == 0
    assert pm.word(PM1_CNT) == other << 10 | SCI_EN


def test_slp_en_reads_zero(pm: Pm) -> None:
    pm.set_word(PM1_CNT, S5 | SLP_EN)
    assert pm.word(PM1_CNT) == S5 | SCI_EN


def test_gbl_rls_reads_zero(pm: Pm) -> None:
    pm.set_word(PM1_CNT, 1 << 2)
    assert pm.word(PM1_CNT) == SCI_EN


def test_enable_bits_read_back_as_acpica_demands(pm: Pm) -> None:
    pm.set_word(PM1_EN, 0xFFFF)
    assert pm.word(PM1_EN) == EN_BITS


def test_status_is_read_only_as_nothing_happens(pm: Pm) -> None:
    pm.set_word(PM1_EN, 0xFFFF)
    pm.set_word(PM1_STS, 0xFFFF)
    assert pm.word(PM1_STS) == 0


def test_reset_forgets_what_was_enabled(pm: Pm) -> None:
    pm.set_word(PM1_EN, EN_BITS)
    pm.set_word(PM1_CNT, S5)
    pm.adapter.reset()
    assert (pm.word(PM1_EN), pm.word(PM1_CNT)) == (0, SCI_EN)


def test_it_keeps_its_ports_and_the_sci(pm: Pm) -> None:
    assert pm.resources.get_pio_address_ranges() == [(ACPI_PM, PM1_SIZE + 2)]
    assert pm.resources.get_legacy_irq() == ACPI_SCI


def test_the_fadt_describes_it_and_the_namespace_doesnt(pm: Pm) -> None:
    assert pm.adapter.get_acpi_devices() == ()


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 0xFF))))
def test_no_write_order_raises_or_leaves_acpi_mode(
    writes: list[tuple[int, int]],
) -> None:
    pm = Pm()
    for offset, value in writes:
        pm.write(offset, value)
        assert all(0 <= pm.read(at) <= 0xFF for at in range(8))
        assert pm.word(PM1_CNT) & (SCI_EN | SLP_EN) == SCI_EN
        assert pm.word(PM1_STS) == 0
