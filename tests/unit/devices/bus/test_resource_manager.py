"""ResourceManager: what it hands out, what it refuses, what it takes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.devices.bus.resource_manager import PoolLayout, ResourceManager
from vmm.devices.errors import Exhausted, InvalidRange, UnknownResource
from vmm.devices.resources import (
    DeviceResources,
    GenericIrqConstraint,
    KvmMemSlot,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MacAddress,
    MemAddressConstraint,
    MmioAddressConstraint,
    MsiIrq,
    MsiIrqType,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressConstraint,
    PioAddressRange,
    Resource,
    ResourceConstraint,
)


@pytest.fixture
def manager() -> ResourceManager:
    return ResourceManager()


def take(manager: ResourceManager, *constraints: ResourceConstraint) -> DeviceResources:
    return manager.allocate_device_resources(constraints)


def irq(manager: ResourceManager, number: int | None = None) -> int | None:
    return take(manager, LegacyIrqConstraint(irq=number)).get_legacy_irq()


def test_resources_come_in_the_order_of_the_constraints(
    manager: ResourceManager,
) -> None:
    resources = take(
        manager,
        LegacyIrqConstraint(irq=4),
        PioAddressConstraint.at(0x3F8, 8),
        LegacyIrqConstraint(irq=1),
    )
    expected = (LegacyIrq(4), PioAddressRange(0x3F8, 8), LegacyIrq(1))
    assert resources.get_all_resources() == expected


def test_ports_for_any_device_are_above_those_of_isa(manager: ResourceManager) -> None:
    resources = take(manager, PioAddressConstraint(size=8))
    assert resources.get_pio_address_ranges() == [(0x1000, 8)]


def test_the_first_aligned_fit_wins_and_gaps_are_filled(
    manager: ResourceManager,
) -> None:
    resources = take(
        manager,
        PioAddressConstraint(size=1),
        PioAddressConstraint(size=8, align=16),
        PioAddressConstraint(size=15),
    )
    ranges = resources.get_pio_address_ranges()
    assert ranges == [(0x1000, 1), (0x1010, 8), (0x1001, 15)]


def test_mmio_is_found_below_4_gib_first_then_above(manager: ResourceManager) -> None:
    hole = 0xFEC0_0000 - 0xE000_0000
    resources = take(
        manager, MmioAddressConstraint(size=hole), MmioAddressConstraint(size=0x1000)
    )
    ranges = resources.get_mmio_address_ranges()
    assert ranges == [(0xE000_0000, hole), (0x40_0000_0000, 0x1000)]


def test_a_range_chooses_the_pool(manager: ResourceManager) -> None:
    high = (0x50_0000_0001, 0x5F_FFFF_FFFF)
    constraint = MmioAddressConstraint(size=0x1000, align=0x1000, range=high)
    resources = take(manager, constraint)
    assert resources.get_mmio_address_ranges() == [(0x50_0000_1000, 0x1000)]


@pytest.mark.parametrize("base", [0xFED0_0000, 0xFED4_0000, 0xFF00_0000, 1 << 33])
def test_mmio_may_be_wherever_nothing_else_is(
    manager: ResourceManager, base: int
) -> None:
    resources = take(manager, MmioAddressConstraint.at(base, 0x1000))
    assert resources.get_mmio_address_ranges() == [(base, 0x1000)]


def test_mmio_somewhere_in_a_wide_range_is_where_any_would_be(
    manager: ResourceManager,
) -> None:
    wide = MmioAddressConstraint(size=0x1000, range=(0, (1 << 39) - 1))
    assert take(manager, wide) == take(
        ResourceManager(), MmioAddressConstraint(size=0x1000)
    )


def test_mmio_and_memory_never_overlap(manager: ResourceManager) -> None:
    take(manager, MemAddressConstraint(size=0x1000))
    with pytest.raises(Exhausted, match=r"addresses: 0x1 .* is not free: 0x0 left"):
        take(manager, MmioAddressConstraint.at(1 << 32, 1))


def test_memory_addresses_start_at_4_gib(manager: ResourceManager) -> None:
    resources = take(manager, MemAddressConstraint(size=1 << 30, align=1 << 30))
    assert resources.get_mem_address_ranges() == [(1 << 32, 1 << 30)]


def test_msis_are_24_to_1023_and_typed(manager: ResourceManager) -> None:
    resources = take(
        manager,
        PciMsiIrqConstraint(size=2),
        PciMsixIrqConstraint(size=4),
        GenericIrqConstraint(size=994),
    )
    assert resources.get_all_resources() == (
        MsiIrq(MsiIrqType.PCI_MSI, 24, 2),
        MsiIrq(MsiIrqType.PCI_MSIX, 26, 4),
        MsiIrq(MsiIrqType.GENERIC, 30, 994),
    )
    with pytest.raises(Exhausted, match=r"MSIs: 0x1 .* 0x0 left there"):
        take(manager, PciMsiIrqConstraint(size=1))


def test_there_are_509_memory_slots(manager: ResourceManager) -> None:
    assert len(take(manager, KvmMemSlotConstraint(size=509))) == 509
    with pytest.raises(Exhausted, match="memory slots"):
        take(manager, KvmMemSlotConstraint())


def test_memory_slots_are_freed_one_by_one(manager: ResourceManager) -> None:
    slots = take(manager, KvmMemSlotConstraint(size=3, slot=7))
    assert slots.get_kvm_mem_slots() == [7, 8, 9]
    manager.free_device_resources([KvmMemSlot(8)])
    assert take(manager, KvmMemSlotConstraint(slot=8)).get_kvm_mem_slots() == [8]


def test_an_irq_is_exclusive_unless_both_share_it(manager: ResourceManager) -> None:
    assert irq(manager, 4) == 4
    with pytest.raises(Exhausted, match=r"IRQ 4 is taken; left are .1, 3, 5"):
        irq(manager, 4)
    with pytest.raises(Exhausted, match="IRQ 4 is taken"):
        take(manager, LegacyIrqConstraint(irq=4, shared=True))


def test_a_shared_irq_is_5_and_for_those_who_share_only(
    manager: ResourceManager,
) -> None:
    first = take(manager, LegacyIrqConstraint(shared=True))
    second = take(manager, LegacyIrqConstraint(shared=True))
    assert first == second == DeviceResources([LegacyIrq(5, shared=True)])
    manager.free_device_resources(first)
    with pytest.raises(Exhausted, match="IRQ 5 is shared by others"):
        irq(manager, 5)
    manager.free_device_resources(second)
    assert irq(manager, 5) == 5


@pytest.mark.parametrize("number", [0, 2, 13, 16])
def test_the_pcs_own_irqs_are_nobodys(manager: ResourceManager, number: int) -> None:
    with pytest.raises(InvalidRange, match=f"IRQ {number} can't be"):
        irq(manager, number)


def test_who_shares_a_line_agrees_whether_it_is_level_triggered(
    manager: ResourceManager,
) -> None:
    edge = LegacyIrqConstraint(irq=5, shared=True)
    level = LegacyIrqConstraint(irq=5, shared=True, level=True)
    for first, second, how in ((edge, level, "edge"), (level, edge, "level")):
        given = take(manager, first)
        with pytest.raises(Exhausted, match=f"IRQ 5 is shared by others, {how}-trig"):
            take(manager, second)
        manager.free_device_resources(given)


def test_any_shared_level_triggered_irq_is_11(manager: ResourceManager) -> None:
    given = take(manager, LegacyIrqConstraint(shared=True, level=True))
    assert given == DeviceResources([LegacyIrq(11, shared=True, level=True)])
    assert given.get_level_irqs() == [11]


def test_any_irq_is_never_one_that_an_isa_device_asks_for(
    manager: ResourceManager,
) -> None:
    take(manager, LegacyIrqConstraint(irq=11, shared=True))
    assert [irq(manager) for _ in range(4)] == [10, 9, 7, 6]
    with pytest.raises(Exhausted, match=r"no IRQ is free of .*left are .1, 3, 4, 5, 8"):
        irq(manager)


def test_what_is_held_is_exhausted_and_tells_what_is_left(
    manager: ResourceManager,
) -> None:
    take(manager, PioAddressConstraint.at(0x3F8, 8))
    with pytest.raises(
        Exhausted,
        match=r"ports: 0x8 aligned to 0x1 in 0x3f4..0x3fb is not free: "
        "0x4 left there, the largest run 0x4",
    ):
        take(manager, PioAddressConstraint.at(0x3F4, 8))


@pytest.mark.parametrize(
    "constraint",
    [
        MmioAddressConstraint(size=1 << 50),
        MmioAddressConstraint.at(0x1000, 0x1000),
        MmioAddressConstraint.at(0xFEC0_0000, 0x1000),
        MmioAddressConstraint.at(0xFEDF_F000, 0x2000),
        PioAddressConstraint.at(0x1E, 4),
        PioAddressConstraint.at(0x20, 1),
        PioAddressConstraint.at(0x40, 1),
        PioAddressConstraint.at(0x61, 1),
        PioAddressConstraint.at(0xA1, 1),
        PioAddressConstraint.at(0x4D0, 2),
        MmioAddressConstraint(size=1, align=1 << 60),
        PioAddressConstraint(size=4, align=4, range=(0x3F9, 0x3FE)),
        KvmMemSlotConstraint(slot=509),
        GenericIrqConstraint(size=1001),
    ],
)
def test_what_could_never_be_is_an_invalid_range(
    manager: ResourceManager, constraint: ResourceConstraint
) -> None:
    with pytest.raises(InvalidRange, match="can't be: the pool has"):
        take(manager, constraint)


def test_what_no_pool_knows_is_unknown(manager: ResourceManager) -> None:
    with pytest.raises(UnknownResource, match="no pool hands out"):
        take(manager, ResourceConstraint())
    with pytest.raises(UnknownResource, match="no pool takes back"):
        manager.free_device_resources([Resource()])


def test_allocation_is_all_or_nothing(manager: ResourceManager) -> None:
    wanted = (
        PioAddressConstraint.at(0x3F8, 8),
        MmioAddressConstraint(size=0x1000),
        MemAddressConstraint(size=0x1000),
        PciMsiIrqConstraint(size=1),
        KvmMemSlotConstraint(size=2),
        LegacyIrqConstraint(irq=4),
    )
    with pytest.raises(Exhausted):
        take(manager, *wanted, LegacyIrqConstraint(irq=4))
    assert take(manager, *wanted) == take(ResourceManager(), *wanted)


def test_freeing_is_all_or_nothing(manager: ResourceManager) -> None:
    resources = take(
        manager, PioAddressConstraint.at(0x3F8, 8), LegacyIrqConstraint(irq=4)
    )
    with pytest.raises(InvalidRange, match=r"ports 0x2f8\.\.0x2ff is not allocated"):
        manager.free_device_resources([*resources, PioAddressRange(0x2F8, 8)])
    manager.free_device_resources(resources)


def test_freeing_needs_the_exact_range(manager: ResourceManager) -> None:
    take(manager, PioAddressConstraint.at(0x3F8, 8))
    with pytest.raises(InvalidRange, match=r"ports 0x3f8\.\.0x3fb is not allocated"):
        manager.free_device_resources([PioAddressRange(0x3F8, 4)])


@pytest.mark.parametrize("shared", [False, True])
def test_freeing_an_irq_twice_is_refused(
    manager: ResourceManager, shared: bool
) -> None:
    line = take(manager, LegacyIrqConstraint(irq=9, shared=shared))
    manager.free_device_resources(line)
    with pytest.raises(InvalidRange, match="IRQ 9 is not allocated"):
        manager.free_device_resources(line)


def test_a_mac_address_is_passed_over_when_freeing(manager: ResourceManager) -> None:
    manager.free_device_resources([MacAddress("52:54:00:12:34:56")])


def test_the_vmm_passes_its_own_layout() -> None:
    page = ((0xD000_0000, 0xD000_0FFF),)
    layout = PoolLayout(addresses=page, any_mmio=page, any_port_from=0xC000)
    resources = take(
        ResourceManager(layout),
        MmioAddressConstraint(size=0x1000),
        PioAddressConstraint(size=1),
    )
    assert resources.get_mmio_address_ranges() == [(0xD000_0000, 0x1000)]
    assert resources.get_pio_address_ranges() == [(0xC000, 1)]


@pytest.mark.parametrize("ranges", [((8, 7),), ((0, 8), (8, 9)), ((-1, 3),)])
def test_a_layout_of_empty_or_overlapping_ranges_is_refused(
    ranges: tuple[tuple[int, int], ...],
) -> None:
    first, last = ranges[-1]
    with pytest.raises(InvalidRange, match=f"MSIs: {first:#x}..{last:#x} is empty or"):
        ResourceManager(PoolLayout(msi=ranges))


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16]), st.booleans()),
        max_size=60,
    )
)
def test_what_is_held_never_overlaps_and_all_comes_back(
    steps: list[tuple[int, int, bool]],
) -> None:
    manager = ResourceManager(PoolLayout(pio=((0, 299),), any_port_from=0))
    held: list[DeviceResources] = []
    taken: set[int] = set()
    for size, align, frees in steps:
        if frees and held:
            freed = held.pop(size % len(held))
            manager.free_device_resources(freed)
            taken -= ports(freed)
            continue
        try:
            new = take(manager, PioAddressConstraint(size=size, align=align))
        except Exhausted:
            continue
        assert not ports(new) & taken
        assert min(ports(new)) % align == 0
        taken |= ports(new)
        held.append(new)
    for resources in held:
        manager.free_device_resources(resources)
    assert take(manager, PioAddressConstraint.at(0, 300))


def ports(resources: DeviceResources) -> set[int]:
    ((base, size),) = resources.get_pio_address_ranges()
    return set(range(base, base + size))
