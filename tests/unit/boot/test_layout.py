"""Where in guest physical memory devices may be."""

import pytest

from vmm.boot.layout import KVMS_OWN, device_addresses, ram_ranges

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
