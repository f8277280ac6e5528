"""Whatever a guest does to its PCI bus: nothing raises, and what is trapped is true."""

from hypothesis import given, settings
from hypothesis import strategies as st
from support.lengths import cases
from support.pci_rig import ECAM, WINDOWS, PciRig, Scratch, enumerate_bus

from vmm.devices.resources import MmioAddressRange, PioAddressRange

REGISTERS = st.integers(0, 0x68) | st.integers(0, 0x1FF)
SIZES = st.sampled_from([1, 2, 4, 4, 4, 8])
VALUES = (
    st.sampled_from([0, 0xFFFF_FFFF, 7, 0x8000_0000, 0xC000_0000, 0xFEE0_0000])
    | st.integers(0, 0xFF).map(lambda at: 0xE010_0000 + (at << 12))
    | st.integers(0, 0xFF).map(lambda at: 0xC000 + (at << 5))
    | st.integers(0, (1 << 64) - 1)
)
SLOTS = st.sampled_from([0, 1, 2, 2, 3])
STEP = st.one_of(
    st.tuples(st.just("config"), SLOTS, REGISTERS, SIZES, VALUES),
    st.tuples(st.just("config"), SLOTS, st.just(4), st.just(2), st.just(7)),
    st.tuples(st.just("port"), SLOTS, REGISTERS, SIZES, VALUES),
    st.tuples(st.just("bar"), SLOTS, REGISTERS, SIZES, VALUES),
    st.tuples(st.just("interrupt"), SLOTS, st.integers(0, 8), SIZES, VALUES),
)


@settings(max_examples=cases(60, 5_000), deadline=None)
@given(steps=st.lists(STEP, max_size=60))
def test_any_guest(steps: list[tuple[str, int, int, int, int]]) -> None:
    devices = [Scratch(), Scratch()]
    rig = PciRig(*devices)
    for kind, slot, at, size, value in steps:
        value &= (1 << 8 * size) - 1
        if kind == "config":
            rig.store(ECAM | slot << 15 | at, value, size)
            rig.load(ECAM | slot << 15 | at, size)
        elif kind == "port":
            rig.outb(0xCF8, 0x8000_0000 | slot << 11 | at & 0xFC, 4)
            rig.outb(0xCFC + at % 4, value & 0xFFFF_FFFF, min(size, 4))
        elif kind == "bar":
            touch_bars(rig, slot, at, value, size)
        elif slot in (1, 2):
            devices[slot - 1].interrupt(at)
            devices[slot - 1].set_intx(bool(value & 1))
        check(rig, devices)
    for device in devices:
        state = device.state()
        device.restore(state)
        assert device.state() == state
    assert set(enumerate_bus(rig)) == {0, 1, 2}


def touch_bars(rig: PciRig, slot: int, at: int, value: int, size: int) -> None:
    for place in rig.bus.devices[slot % 3].get_trapped_io_resources():
        if isinstance(place, PioAddressRange):
            rig.outb(place.base + at % place.size, value & 0xFF)
        elif isinstance(place, MmioAddressRange):
            rig.store(place.base + at, value, size)
            rig.load(place.base + at, size)


def check(rig: PciRig, devices: list[Scratch]) -> None:
    """Each range is where its device says, in a window; and no other is trapped."""
    count = 0
    for device in devices:
        for place in device.get_trapped_io_resources():
            count += 1
            if isinstance(place, PioAddressRange):
                assert rig.io.device_at_port(place.base) is device
                assert WINDOWS.io[0] <= place.base <= WINDOWS.io[1]
            else:
                assert isinstance(place, MmioAddressRange)
                assert rig.io.device_at_address(place.base) is device
                assert place.base >= WINDOWS.mem32[0]
    table = rig.io._table
    assert len(table.pio.entries) + len(table.mmio.entries) == count + 2
