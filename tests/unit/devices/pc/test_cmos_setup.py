"""What firmware puts into the CMOS RAM, as kernels read it."""

import pytest
from support.cmos_rtc_rig import WALL_NS
from support.serial_rig import CountingTrigger

from vmm.devices.clock import VirtualClock
from vmm.devices.pc.cmos_rtc import CmosRtc
from vmm.devices.pc.cmos_setup import cmos_setup

MIB, GIB = 1 << 20, 1 << 30


def number(ram: dict[int, int], at: int, size: int = 2) -> int:
    return int.from_bytes(bytes(ram[at + index] for index in range(size)), "little")


@pytest.mark.parametrize(
    ("below", "above", "extended", "above_16m", "above_4g"),
    [
        (2 * MIB, 0, 1024, 0, 0),
        (16 * MIB, 0, 15 * 1024, 0, 0),
        (64 * MIB, 0, 63 * 1024, 48 * 16, 0),
        (128 * MIB, 0, 0xFFFF, 112 * 16, 0),
        (3584 * MIB, 512 * MIB, 0xFFFF, 3568 * 16, 512 * 16),
        (3584 * MIB, 1020 * GIB, 0xFFFF, 3568 * 16, 1020 * 16 * 1024),
    ],
)
def test_memory_is_told_in_each_registers_unit(
    below: int, above: int, extended: int, above_16m: int, above_4g: int
) -> None:
    ram = cmos_setup(below, above)
    assert number(ram, 0x15) == 640
    assert number(ram, 0x17) == number(ram, 0x30) == extended
    assert number(ram, 0x34) == above_16m
    assert number(ram, 0x5B, 3) == above_4g


def test_the_checksum_is_that_of_10_to_2d() -> None:
    ram = cmos_setup(64 * MIB, 0)
    total = sum(ram.get(at, 0) for at in range(0x10, 0x2E))
    assert ram[0x2E] << 8 | ram[0x2F] == total


def test_the_clock_has_it_again_after_a_reset() -> None:
    setup = cmos_setup(64 * MIB, 0)
    rtc = CmosRtc(
        VirtualClock(), CountingTrigger(), wall_ns=lambda: WALL_NS, setup=setup
    )
    rtc.write(0, 0x17)
    rtc.write(1, 0x55)
    rtc.reset()
    for register, value in setup.items():
        rtc.write(0, register)
        assert rtc.read(1) == value
