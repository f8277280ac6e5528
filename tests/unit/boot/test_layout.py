"""Where in guest physical memory devices may be."""

import itertools

import pytest

from vmm.boot.layout import (
    ANY_MMIO,
    KVMS_OWN,
    PCI_ECAM,
    PCI_IO,
    PCI_MEM32,
    device_addresses,
    pci_mem64,
    ram_ranges,
)
from vmm.devices.bus.resource_manager import PoolLayout

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize("size", [2 * MIB, 128 * MIB, 4 * GIB, 600 * GIB])
def test_devices_may_be_wherever_neither_ram_nor_kvms_own_is(size: int) -> None:
    ranges = device_addresses(ram_ranges(size))

    def is_free(address: int) -> bool:
        return any(first <= address <= last for first, last in ranges)

    for address in (0xA0000, 0xBFFFF, 0xE000_0000, 0xFED0_0000, 0xFF00_0000):
        assert is_free(address)
    for address in (0, 0x9FFFF, 0xC0000, MIB, *(part.guest_addr for part in KVMS_OWN)):
        assert not is_free(address)
    low = min(size, 0xE000_0000)
    assert not is_free(low - 1)
    assert is_free(low)
    assert is_free((1 << 32) + size - low)
    assert size == low or not is_free((1 << 32) + size - low - 1)


@pytest.mark.parametrize("size", [2 * MIB, 4 * GIB, 384 * GIB, 600 * GIB, 1024 * GIB])
def test_pcis_windows_are_free_and_apart_from_what_others_get(size: int) -> None:
    ram = ram_ranges(size)
    free = device_addresses(ram)
    ecam = PCI_ECAM.guest_addr, PCI_ECAM.guest_addr + PCI_ECAM.size - 1
    windows = [ecam, PCI_MEM32, pci_mem64(ram)]
    for first, last in windows:
        assert any(low <= first <= last <= high for low, high in free)
    ordered = sorted([*windows, *ANY_MMIO])
    for (_, last), (first, _) in itertools.pairwise(ordered):
        assert last < first


def test_pcis_64_bit_window_takes_the_largest_bars_and_39_bits_suffice() -> None:
    first, last = pci_mem64(ram_ranges(128 * MIB))
    assert first % (128 * GIB) == 0
    assert last == (1 << 39) - 1


def test_pcis_ports_are_for_devices_that_take_any() -> None:
    layout = PoolLayout()
    assert any(low <= PCI_IO[0] <= PCI_IO[1] <= high for low, high in layout.pio)
    assert PCI_IO[0] >= layout.any_port_from
