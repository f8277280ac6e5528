"""MSI-X and MSI: where messages go, when they wait, and when they are lost."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

import pytest
from support.pci_rig import Function, MessageLine, PciRig, Scratch
from support.serial_rig import FailingTrigger

from vmm.devices.errors import TriggerError
from vmm.devices.pci.reg import (
    PCI_BASE_ADDRESS_0,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_MSI_DATA_64,
    PCI_MSI_FLAGS,
    PCI_MSI_MASK_64,
    PCI_MSI_PENDING_64,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
    PCI_MSIX_PBA,
    PCI_MSIX_TABLE,
)

if TYPE_CHECKING:
    from vmm.devices.trigger import Interrupt

LAPIC: Final = 0xFEE0_0000
PBA: Final = 0x800
ENABLE: Final = PCI_MSIX_FLAGS_ENABLE
MASKALL: Final = PCI_MSIX_FLAGS_MASKALL


class MessageRig(PciRig):
    """A Scratch whose driver is bus master and sees the table."""

    def __init__(self, device: Scratch) -> None:
        super().__init__(device)
        self.device = device
        self.function = Function(self, 1)
        self.function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
        self.table = self.function.get(PCI_BASE_ADDRESS_0 + 16)
        found = self.function.capabilities()
        self.msix, self.msi = found[PCI_CAP_ID_MSIX], found[PCI_CAP_ID_MSI]

    def control(self, bits: int) -> None:
        """MSI-X's Message Control."""
        self.function.set(self.msix + PCI_MSIX_FLAGS, bits, 2)

    def entry(self, vector: int, address: int, data: int, masked: int = 0) -> None:
        """As `__pci_write_msi_msg`: while the entry is masked."""
        at = self.table + 16 * vector
        self.store(at + 12, 1)
        self.store(at, address & 0xFFFF_FFFF)
        self.store(at + 4, address >> 32)
        self.store(at + 8, data)
        self.store(at + 12, masked)

    def mask(self, vector: int, masked: int) -> None:
        self.store(self.table + 16 * vector + 12, masked)

    def pending(self) -> int:
        return self.load(self.table + PBA, 8)

    @property
    def lines(self) -> list[MessageLine]:
        """Those of MSI-X."""
        return self.device.messages[:5]

    @property
    def edges(self) -> list[int]:
        return [line.edges for line in self.device.messages]


@pytest.fixture
def rig() -> MessageRig:
    return MessageRig(Scratch())


def test_the_capability_tells_of_table_and_pending_bits(rig: MessageRig) -> None:
    assert rig.function.get(rig.msix + PCI_MSIX_FLAGS, 2) == 4
    assert rig.function.get(rig.msix + PCI_MSIX_TABLE) == 4
    assert rig.function.get(rig.msix + PCI_MSIX_PBA) == PBA | 4
    rig.control(0xFFFF)
    assert rig.function.get(rig.msix + PCI_MSIX_FLAGS, 2) == 0xC004


def test_entries_are_masked_at_power_on(rig: MessageRig) -> None:
    assert [rig.load(rig.table + 16 * at + 12) for at in range(6)] == [1] * 5 + [0]
    rig.control(ENABLE)
    rig.device.interrupt(0)
    assert rig.edges == [0] * 9
    assert rig.pending() == 1


def test_a_message_goes_where_its_entry_says(rig: MessageRig) -> None:
    rig.control(ENABLE | MASKALL)  # as msix_capability_init does
    rig.entry(2, LAPIC | 0x1000, 0x4042)
    assert rig.lines[2].routes == []
    rig.control(ENABLE)
    assert rig.lines[2].routes == [(LAPIC | 0x1000, 0x4042)]
    rig.device.interrupt(2)
    rig.device.interrupt(2)
    assert rig.edges == [0, 0, 2, 0, 0, 0, 0, 0, 0]


def test_an_entry_is_routed_once_until_it_changes(rig: MessageRig) -> None:
    rig.control(ENABLE)
    rig.entry(0, LAPIC, 0x41)
    rig.mask(0, 1)
    rig.mask(0, 0)
    rig.device.interrupt(0)
    assert rig.lines[0].routes == [(LAPIC, 0x41)]
    rig.entry(0, LAPIC, 0x42)
    rig.store(rig.table + 8, 0x43)  # unmasked: at once
    assert rig.lines[0].routes == [(LAPIC, 0x41), (LAPIC, 0x42), (LAPIC, 0x43)]


def test_an_entry_is_written_by_quadwords_too(rig: MessageRig) -> None:
    rig.control(ENABLE)
    rig.store(rig.table + 16, (1 << 32) | LAPIC | 3, 8)
    rig.store(rig.table + 24, 0x55, 8)
    assert rig.lines[1].routes == [(1 << 32 | LAPIC, 0x55)]
    assert rig.load(rig.table + 16, 8) == 1 << 32 | LAPIC


def test_what_is_masked_is_pending_until_it_is_not(rig: MessageRig) -> None:
    rig.control(ENABLE)
    rig.entry(1, LAPIC, 0x41, masked=1)
    rig.device.interrupt(1)
    rig.device.interrupt(1)
    assert (rig.pending(), rig.edges[1]) == (0b10, 0)
    rig.mask(1, 0)
    assert (rig.pending(), rig.edges[1]) == (0, 1)


def test_the_function_mask_holds_all_of_them(rig: MessageRig) -> None:
    rig.control(ENABLE)
    for vector in 0, 4:
        rig.entry(vector, LAPIC, 0x41 + vector)
    rig.control(ENABLE | MASKALL)
    for vector in range(5):
        rig.device.interrupt(vector)
    assert (rig.pending(), sum(rig.edges)) == (0b11111, 0)
    rig.control(ENABLE)
    assert (rig.pending(), rig.edges[:5]) == (0b01110, [1, 0, 0, 0, 1])


def test_the_function_mask_is_one_change_of_routes(rig: MessageRig) -> None:
    """Each of which may take the host milliseconds."""
    changes: list[list[int]] = []

    @contextmanager
    def together() -> Iterator[None]:
        before = [len(line.routes) for line in rig.lines]
        yield
        assert rig.edges[3] == 0, "sent before it is routed"
        after = [len(line.routes) for line in rig.lines]
        changes.append([now - then for now, then in zip(after, before, strict=True)])

    rig.lines[0].together = together
    rig.control(ENABLE | MASKALL)
    for vector in range(5):
        rig.entry(vector, LAPIC, 0x40 + vector)
    rig.device.interrupt(3)
    rig.control(ENABLE)
    assert changes == [[0] * 5, [1] * 5]
    assert rig.edges[:5] == [0, 0, 0, 1, 0]


def test_what_is_raised_while_msix_is_off_is_lost(rig: MessageRig) -> None:
    rig.entry(0, LAPIC, 0x41)
    rig.device.interrupt(0)
    rig.control(ENABLE)
    rig.device.interrupt(1)
    rig.control(0)
    assert (rig.pending(), sum(rig.edges)) == (0, 0)


def test_who_is_no_bus_master_sends_nothing_until_it_is(rig: MessageRig) -> None:
    rig.control(ENABLE)
    rig.entry(0, LAPIC, 0x41)
    rig.function.command(PCI_COMMAND_MEMORY)
    rig.device.interrupt(0)
    assert (rig.pending(), rig.edges[0]) == (1, 0)
    rig.function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
    assert (rig.pending(), rig.edges[0]) == (0, 1)
    rig.control(0)
    write_msi(rig, LAPIC, 0x41)
    rig.function.command(PCI_COMMAND_MEMORY)
    rig.device.interrupt(0)
    assert rig.edges[5] == 0
    rig.function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
    assert rig.edges[5] == 1


def test_case_27_a_dword_to_vector_control(rig: MessageRig) -> None:
    """Only its mask bit is there."""
    rig.store(rig.table + 12, 0xFFFF_FFFF)
    assert rig.load(rig.table + 12) == 1
    rig.store(rig.table + 8, 0x5A5A_5A5A_FFFF_FFFE, 8)
    assert rig.load(rig.table + 8, 8) == 0xFFFF_FFFE


@pytest.mark.parametrize("vector", [5, 2048, 1 << 40, -1])
def test_case_27_a_vector_past_the_table(rig: MessageRig, vector: int) -> None:
    rig.control(ENABLE)
    rig.device.interrupt(vector)
    rig.store(rig.table + 16 * 5, 0xFFFF_FFFF)
    assert rig.load(rig.table + 16 * 5) == 0
    assert (rig.pending(), sum(rig.edges)) == (0, 0)


def test_case_27_the_pending_bits_are_read_only(rig: MessageRig) -> None:
    rig.control(ENABLE)
    rig.device.interrupt(3)
    for size in 4, 8:
        rig.store(rig.table + PBA, 0xFFFF_FFFF, size)
        assert rig.load(rig.table + PBA, size) == 0b1000
    assert rig.load(rig.table + PBA + 4) == rig.load(rig.table + PBA + 8) == 0


@pytest.mark.parametrize(("at", "size"), [(0, 1), (0, 2), (2, 4), (4, 8), (78, 4)])
def test_case_27_the_table_takes_no_odd_writes(
    rig: MessageRig, at: int, size: int
) -> None:
    before = rig.device.state()
    rig.store(rig.table + at, 0, size)
    rig.store(rig.table + at, (1 << 8 * size) - 1, size)
    assert rig.device.state() == before


def test_case_27_a_message_that_leads_nowhere(rig: MessageRig) -> None:
    """The guest's own fault: nothing is raised, nothing is pending."""
    rig.control(ENABLE)
    rig.mask(0, 0)  # to address 0
    rig.device.interrupt(0)
    assert (rig.pending(), rig.edges[0]) == (0, 0)
    rig.entry(0, LAPIC, 0x41)
    assert rig.edges[0] == 0
    rig.device.interrupt(0)
    assert rig.edges[0] == 1


def test_a_line_that_is_cut_is_told_the_device(rig: MessageRig) -> None:
    class Cut(FailingTrigger):
        together = nullcontext

        def route(self, address: int, data: int) -> None:
            pass

    rig.device.reset()
    resources = rig.device.get_assigned_resources()
    lines: list[Interrupt] = [*(Cut() for _ in range(9)), MessageLine()]
    rig.device.assign_resources(resources, lines)
    rig.function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
    rig.control(ENABLE)
    rig.entry(0, LAPIC, 0x41)
    with pytest.raises(TriggerError, match="the line is cut"):
        rig.device.interrupt(0)


def test_the_largest_table_there_is() -> None:
    device = Scratch()
    device.msix_vectors = 2048
    rig = PciRig(device)
    function = Function(rig, 1)
    function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
    at = function.capabilities()[PCI_CAP_ID_MSIX]
    assert function.get(at + PCI_MSIX_FLAGS, 2) == 2047
    assert function.get(at + PCI_MSIX_PBA) == 0x8000 | 4
    function.set(at + PCI_MSIX_FLAGS, ENABLE, 2)
    device.interrupt(2047)
    table = function.get(PCI_BASE_ADDRESS_0 + 16)
    assert rig.load(table + 0x8000 + 248, 8) == 1 << 63
    assert rig.load(table + 0x8000 + 256, 8) == 0


def test_msi_tells_how_many_it_could_send(rig: MessageRig) -> None:
    assert rig.function.get(rig.msi + PCI_MSI_FLAGS, 2) == 0x0184  # 4, 64 bit, mask


def write_msi(rig: MessageRig, address: int, data: int, order: int = 0) -> None:
    """As `pci_write_msg_msi`, then `pci_msi_set_enable`."""
    rig.function.set(rig.msi + 4, address & 0xFFFF_FFFF)
    rig.function.set(rig.msi + 8, address >> 32)
    rig.function.set(rig.msi + PCI_MSI_DATA_64, data, 2)
    rig.function.set(rig.msi + PCI_MSI_FLAGS, order << 4 | 1, 2)


def test_msi_sends_one_message(rig: MessageRig) -> None:
    write_msi(rig, 1 << 32 | LAPIC, 0x4143)
    line = rig.device.messages[5]
    assert line.routes == [(1 << 32 | LAPIC, 0x4143)]
    rig.device.interrupt()
    assert line.edges == 1
    assert rig.device.takes_messages


def test_msi_numbers_are_in_the_low_bits_of_the_data(rig: MessageRig) -> None:
    write_msi(rig, LAPIC, 0x43, order=2)
    routes = [line.routes for line in rig.device.messages[5:]]
    assert routes == [[(LAPIC, 0x40 | at)] for at in range(4)]
    rig.device.interrupt(3)
    assert rig.edges[5:] == [0, 0, 0, 1]


def test_msi_folds_vectors_into_those_that_were_taken(rig: MessageRig) -> None:
    write_msi(rig, LAPIC, 0x42, order=1)
    for vector in range(4):
        rig.device.interrupt(vector)
    assert rig.edges[5:] == [2, 2, 0, 0]
    write_msi(rig, LAPIC, 0x40, order=7)  # reserved: all that it has
    rig.device.interrupt(3)
    assert rig.edges[5:] == [2, 2, 0, 1]


def test_msi_has_mask_and_pending_bits(rig: MessageRig) -> None:
    write_msi(rig, LAPIC, 0x40, order=2)
    rig.function.set(rig.msi + PCI_MSI_MASK_64, 0xFFFF_FFFE)
    for vector in range(4):
        rig.device.interrupt(vector)
    assert rig.edges[5:] == [1, 0, 0, 0]
    assert rig.function.get(rig.msi + PCI_MSI_MASK_64) == 0b1110
    assert rig.function.get(rig.msi + PCI_MSI_PENDING_64) == 0b1110
    rig.function.set(rig.msi + PCI_MSI_PENDING_64, 0)
    rig.function.set(rig.msi + PCI_MSI_MASK_64, 0b1000)
    assert rig.edges[5:] == [1, 1, 1, 0]
    assert rig.function.get(rig.msi + PCI_MSI_PENDING_64) == 0b1000
    rig.function.set(rig.msi + PCI_MSI_FLAGS, 0, 2)
    assert rig.function.get(rig.msi + PCI_MSI_PENDING_64) == 0
    rig.function.set(rig.msi + PCI_MSI_FLAGS, 0x21, 2)
    assert sum(rig.edges) == 3


def test_msix_goes_before_msi(rig: MessageRig) -> None:
    """A driver enables one of both; hardware may do as it likes."""
    write_msi(rig, LAPIC, 0x40)
    rig.control(ENABLE)
    rig.entry(0, LAPIC, 0x41)
    rig.device.interrupt()
    assert rig.edges == [1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_reset_masks_and_forgets(rig: MessageRig) -> None:
    rig.control(ENABLE)
    rig.entry(0, LAPIC, 0x41)
    rig.device.interrupt(1)
    power_on = MessageRig(Scratch())
    power_on.function.command(0)
    rig.device.reset()
    assert rig.device.state() == power_on.device.state()
    assert not rig.device.takes_messages
