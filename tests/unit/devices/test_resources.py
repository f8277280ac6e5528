"""Constraints and resources: what they accept, and what a device finds in them."""

import pytest

from vmm.devices.errors import InvalidRange, UnknownResource
from vmm.devices.resources import (
    DeviceResources,
    GenericIrqConstraint,
    KvmMemSlot,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MacAddress,
    MemAddressConstraint,
    MemAddressRange,
    MmioAddressConstraint,
    MmioAddressRange,
    MsiIrq,
    MsiIrqType,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressConstraint,
    PioAddressRange,
)

ALL = (
    PioAddressRange(0x3F8, 8),
    PioAddressRange(0x60, 1),
    MmioAddressRange(0xE000_0000, 0x1000),
    MemAddressRange(1 << 32, 1 << 20),
    LegacyIrq(4),
    MsiIrq(MsiIrqType.PCI_MSI, 24, 2),
    MsiIrq(MsiIrqType.PCI_MSIX, 26, 3),
    MsiIrq(MsiIrqType.GENERIC, 29, 1),
    MacAddress("52:54:00:12:34:56"),
    KvmMemSlot(3),
    KvmMemSlot(4),
)


@pytest.fixture
def resources() -> DeviceResources:
    return DeviceResources(ALL)


def test_getters_find_every_variant(resources: DeviceResources) -> None:
    assert resources.get_pio_address_ranges() == [(0x3F8, 8), (0x60, 1)]
    assert resources.get_mmio_address_ranges() == [(0xE000_0000, 0x1000)]
    assert resources.get_mem_address_ranges() == [(1 << 32, 1 << 20)]
    assert resources.get_legacy_irq() == 4
    assert resources.get_pci_msi_irqs() == (24, 2)
    assert resources.get_pci_msix_irqs() == (26, 3)
    assert resources.get_generic_msi_irqs() == (29, 1)
    assert resources.get_kvm_mem_slots() == [3, 4]
    assert resources.get_mac_address() == "52:54:00:12:34:56"
    assert resources.get_all_resources() == ALL


def test_getters_of_what_is_not_there() -> None:
    none = DeviceResources()
    assert none.get_pio_address_ranges() == none.get_mmio_address_ranges() == []
    assert none.get_mem_address_ranges() == []
    assert none.get_kvm_mem_slots() == []
    assert none.get_legacy_irq() is None
    assert none.get_pci_msi_irqs() is None
    assert none.get_pci_msix_irqs() is None
    assert none.get_generic_msi_irqs() is None
    assert none.get_mac_address() is None


def test_an_msi_block_of_n_counts_as_n_interrupts_in_order(
    resources: DeviceResources,
) -> None:
    assert resources.get_interrupts() == [4, 24, 25, 26, 27, 28, 29]


def test_device_resources_are_a_sized_iterable_with_equality(
    resources: DeviceResources,
) -> None:
    assert len(resources) == len(ALL)
    assert tuple(resources) == ALL
    assert resources == DeviceResources(ALL)
    assert resources != DeviceResources()
    assert resources != ALL
    assert "PioAddressRange(base=1016, size=8)" in repr(resources)


def test_appending_what_is_no_resource_is_refused(resources: DeviceResources) -> None:
    with pytest.raises(UnknownResource, match="'0x3f8' is not a Resource"):
        resources.append("0x3f8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        (PioAddressRange, 1 << 16),
        (MmioAddressRange, 1 << 64),
        (MemAddressRange, 1 << 64),
    ],
)
def test_an_address_range_may_end_at_the_last_address_but_not_after(
    kind: type[PioAddressRange], end: int
) -> None:
    assert kind(end - 1, 1).base == end - 1
    assert kind(0, end).size == end
    with pytest.raises(InvalidRange, match=f"ends at {end:#x}"):
        kind(end - 1, 2)


@pytest.mark.parametrize(
    ("base", "size", "message"),
    [
        (-1, 8, "PIO base is -0x1"),
        (0x10000, 1, "PIO base is 0x10000: it must be 0x0..0xffff"),
        (0x3F8, 0, "PIO size is 0x0"),
        (0x3F8, -8, "PIO size is -0x8"),
        (0x3F8, 0x10001, "PIO size is 0x10001"),
        ("0x3f8", 8, "PIO base is '0x3f8': an int is needed"),
        (0x3F8, 8.0, "PIO size is 8.0: an int is needed"),
        (True, 8, "PIO base is True"),
    ],
)
def test_a_bad_range_is_refused_with_its_numbers(
    base: int, size: int, message: str
) -> None:
    with pytest.raises(InvalidRange, match=message):
        PioAddressRange(base, size)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: LegacyIrq(-1), "IRQ is -0x1"),
        (lambda: MsiIrq(MsiIrqType.PCI_MSI, 24, 0), "MSI size is 0x0"),
        (lambda: MsiIrq("PCI", 24, 1), "MSI type is 'PCI'"),  # type: ignore[arg-type]
        (lambda: MacAddress("52:54"), "MAC address is '52:54'"),
        (lambda: MacAddress(5), "MAC address is 5"),  # type: ignore[arg-type]
        (lambda: KvmMemSlot(-3), "memory slot is -0x3"),
        (lambda: LegacyIrqConstraint(irq=-1), "IRQ is -0x1"),
        (lambda: PciMsiIrqConstraint(size=0), "number of MSIs is 0x0"),
        (lambda: PciMsixIrqConstraint(size=-2), "number of MSIs is -0x2"),
        (lambda: GenericIrqConstraint(size=0), "number of MSIs is 0x0"),
        (lambda: KvmMemSlotConstraint(size=0), "number of memory slots is 0x0"),
        (lambda: KvmMemSlotConstraint(slot=-1), "memory slot is -0x1"),
        (lambda: PioAddressConstraint(size=0), "PIO size is 0x0"),
        (lambda: PioAddressConstraint(size=1, align=0), "PIO align is 0x0"),
        (
            lambda: MmioAddressConstraint(size=1, align=3),
            "align is 0x3: .*power of two",
        ),
        (lambda: MemAddressConstraint(size=1, range=5), "range is 5"),  # type: ignore[arg-type]
        (lambda: PioAddressConstraint.at(0xFFFF, 2), "PIO range end is 0x10000"),
        (
            lambda: PioAddressConstraint(size=1, range=(-1, 5)),
            "PIO range start is -0x1",
        ),
        (
            lambda: PioAddressConstraint(size=8, range=(5, 6)),
            "0x5..0x6 has no room for",
        ),
        (
            lambda: PioAddressConstraint(size=1, range=(6, 5)),
            "0x6..0x5 has no room for",
        ),
    ],
)
def test_misuse_is_refused_with_its_numbers(bad: object, message: str) -> None:
    with pytest.raises(InvalidRange, match=message):
        bad()  # type: ignore[operator]


def test_at_asks_for_just_one_place() -> None:
    constraint = MmioAddressConstraint.at(0x1000, 0x10)
    assert constraint == MmioAddressConstraint(size=0x10, range=(0x1000, 0x100F))
