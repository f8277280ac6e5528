"""BARs: decoded as COMMAND says, moved as the guest wants, but only in windows."""

from typing import Final

import pytest
from support.pci_rig import ECAM, Function, PciRig, Scratch, probe_bars

from vmm.devices.bus.io_manager import IoManager
from vmm.devices.errors import InvalidDevice
from vmm.devices.pci.bar import Bar, BarKind
from vmm.devices.pci.device import PciDevice
from vmm.devices.pci.reg import (
    PCI_BASE_ADDRESS_0,
    PCI_COMMAND_IO,
    PCI_COMMAND_MEMORY,
)
from vmm.devices.resources import MmioAddressRange, PioAddressRange, Resource

IO: Final = PCI_COMMAND_IO
MEMORY: Final = PCI_COMMAND_MEMORY
BAR_0, BAR_2, BAR_3 = (PCI_BASE_ADDRESS_0 + 4 * index for index in (0, 2, 3))
AT_0, AT_2, AT_3, AT_MSIX = 0x60_0000_0000, 0xC000, 0xE010_0000, 0xE020_0000
ONES: Final = 0xFFFF_FFFF


class Small(PciDevice):
    """A page of 32-bit memory, which reads its own byte."""

    vendor_id = 0x1234
    device_id = 2
    bars = (Bar(0, 0x1000),)

    def __init__(self, byte: int) -> None:
        super().__init__()
        self.byte = byte

    def read_bar(self, bar: int, offset: int, data: memoryview) -> None:
        data[:] = bytes((self.byte,)) * len(data)


def trapped(io: IoManager, device: PciDevice) -> bool:
    """Whether what the device says is trapped is trapped for it."""
    ranges = device.get_trapped_io_resources()
    return all(
        io.device_at_port(at.base) is device
        if isinstance(at, PioAddressRange)
        else isinstance(at, MmioAddressRange)
        and io.device_at_address(at.base) is device
        for at in ranges
    )


@pytest.fixture
def device() -> Scratch:
    return Scratch()


@pytest.fixture
def rig(device: Scratch) -> PciRig:
    return PciRig(device)


@pytest.fixture
def function(rig: PciRig) -> Function:
    return Function(rig, 1)


def test_nothing_is_decoded_at_power_on(rig: PciRig, device: Scratch) -> None:
    assert rig.load(AT_3) == ONES
    assert not device.get_trapped_io_resources()
    assert not device.get_doorbells()
    assert rig.moves == []


def test_command_says_which_kind_is_decoded(rig: PciRig, function: Function) -> None:
    function.command(MEMORY)
    assert (rig.load(AT_0), rig.load(AT_3), rig.inb(AT_2)) == (0, 0x03030303, 0xFF)
    function.command(IO)
    assert (rig.load(AT_0), rig.load(AT_3), rig.inb(AT_2)) == (ONES, ONES, 2)
    function.command(0)
    assert rig.inb(AT_2) == 0xFF


def test_accesses_name_the_bar_and_the_place_in_it(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    function.command(IO | MEMORY)
    rig.store(AT_0 + 0x3FFF, 7, 1)
    assert device.last == (0, 0x3FFF, 7)
    rig.store(AT_3 + 0x1234, 8, 8)
    assert device.last == (3, 0x1234, 8)
    rig.outb(AT_2 + 0x1C, 9, 4)
    assert device.last == (2, 0x1C, 9)


def test_a_bar_moves_in_one_transaction(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    function.command(MEMORY)
    rig.moves.clear()
    function.set(BAR_3, 0xE100_0000)
    others = MmioAddressRange(AT_0, 0x4000), MmioAddressRange(AT_MSIX, 0x1000)

    def ranges(base: int) -> list[Resource]:
        return [others[0], MmioAddressRange(base, 0x10_0000), others[1]]

    assert rig.moves == [(ranges(AT_3), ranges(0xE100_0000), True)]
    assert rig.load(0xE10F_FFFC) == 0x03030303
    assert rig.load(AT_3) == ONES
    assert trapped(rig.io, device)


def test_both_halves_of_a_64_bit_bar_move_it(rig: PciRig, function: Function) -> None:
    function.command(MEMORY)
    function.set(BAR_0 + 4, 0x61)
    function.set(BAR_0, 0x0000_8000)
    assert rig.load(0x61_0000_8000) == 0
    function.set(BAR_0, 0xE300_0000)
    function.set(BAR_0 + 4, 0)
    assert rig.load(0xE300_3FFC) == 0  # below 4 GiB


def test_ports_move(rig: PciRig, function: Function) -> None:
    function.command(IO)
    function.set(BAR_2, 0xFFE0)
    assert rig.inb(0xFFFF) == 2
    assert rig.inb(AT_2) == 0xFF


def test_sizing_moves_nothing_while_decoding_is_off(
    rig: PciRig, function: Function
) -> None:
    probe_bars(function)
    assert rig.moves == []
    function.command(IO | MEMORY)
    probe_bars(function)
    assert len(rig.moves) == 3  # on, off, on again
    assert rig.load(AT_3) == 0x03030303


def test_setting_what_is_set_moves_nothing(rig: PciRig, function: Function) -> None:
    function.command(IO | MEMORY)
    rig.moves.clear()
    function.command(IO | MEMORY)
    function.set(BAR_3, function.get(BAR_3))
    assert rig.moves == []


def test_doorbells_are_where_their_bars_are(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    function.command(IO | MEMORY)
    bells = device.get_doorbells()
    assert [(bell.base, bell.size, bell.is_pio) for bell in bells] == [
        (AT_0 + 0x10, 2, False),
        (AT_2 + 4, 2, True),
    ]
    bells[1].on_ring()
    assert device.rings == [2]
    function.command(MEMORY)
    function.set(BAR_0, 0x10_0000)
    assert [bell.base for bell in device.get_doorbells()] == [0x60_0010_0010]


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (BAR_3, 0),
        (BAR_3, 0xE000_0000),
        (BAR_3, 0xF000_0000),
        (BAR_3, 0xFFF0_0000),
        (BAR_3, 0x0010_0000),
        (BAR_2, 0x0000_0CE0),
        (BAR_2, 0x0001_C000),
        (BAR_2, 0xFFFF_FFE0),
        (BAR_0 + 4, 0),
        (BAR_0 + 4, 0xFFFF_FFFF),
    ],
)
def test_case_28_a_bar_out_of_the_window_is_not_decoded(
    rig: PciRig, device: Scratch, function: Function, register: int, value: int
) -> None:
    """Nor does it take anything from who is there, and the others stay."""
    before = function.get(register)
    function.command(IO | MEMORY)
    whole = device.get_trapped_io_resources()
    function.set(register, value)
    assert len(device.get_trapped_io_resources()) == len(whole) - 1
    assert trapped(rig.io, device)
    assert function.get(register) & ~0xF == value & ~0xF  # as it was written
    assert Function(rig, 0).get(0, 2) == 0x1B36
    function.set(register, before)
    assert device.get_trapped_io_resources() == whole


def test_case_28_a_bar_onto_another_device_s() -> None:
    """The first one keeps the place, until it leaves it to the other."""
    first, second = Small(1), Small(2)
    rig = PciRig(first, second)
    functions = Function(rig, 1), Function(rig, 2)
    for function in functions:
        function.command(MEMORY)
    at_1, at_2 = (function.get(BAR_0) for function in functions)
    functions[1].set(BAR_0, at_1)
    assert (rig.load(at_1, 1), rig.load(at_2, 1)) == (1, 0xFF)
    assert not second.get_trapped_io_resources()
    functions[0].set(BAR_0, at_2)
    assert (rig.load(at_1, 1), rig.load(at_2, 1)) == (2, 1)


def test_case_28_a_bar_onto_another_of_the_same_device(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    """One of both is decoded, and both when they have parted."""
    function.command(MEMORY)
    function.set(PCI_BASE_ADDRESS_0 + 16, AT_3)
    assert (rig.load(AT_3), rig.load(AT_MSIX)) == (0x03030303, ONES)
    assert len(device.get_trapped_io_resources()) == 2
    function.set(BAR_3, 0xE100_0000)
    assert rig.load(0xE100_0000) == 0x03030303
    assert rig.load(AT_3 + 12) == 1  # the MSI-X table: masked
    assert trapped(rig.io, device)


def test_case_28_bars_that_stay_are_left_alone(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    """Though another of the device's can't be where it is to be."""
    function.command(MEMORY)
    before = set(device.get_trapped_io_resources())
    rig.moves.clear()
    function.set(PCI_BASE_ADDRESS_0 + 16, AT_3)
    left = set(device.get_trapped_io_resources())
    assert left < before
    assert all(left <= set(places) for _, places, moved in rig.moves if moved)
    rig.moves.clear()
    device.follow(retry=True)
    assert [moved for *_, moved in rig.moves] == [False, False]


def test_case_28_a_bar_onto_what_is_no_pci_device() -> None:
    """Inside a window, which a machine may have given to others, too."""
    device = Small(1)
    rig = PciRig(device)
    rig.io.register_device_io(PciDevice(), [MmioAddressRange(0xE200_0000, 0x10)])
    function = Function(rig, 1)
    function.command(MEMORY)
    function.set(BAR_0, 0xE200_0000)
    assert not device.get_trapped_io_resources()
    assert [moved for _, _, moved in rig.moves] == [True, False, True, False]


def test_case_26_bar_accesses_that_are_none(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    """Over the end of a BAR; and of the table's, which has no odd registers."""
    function.command(IO | MEMORY)
    before = device.state()
    for address, size in ((AT_0 + 0x3FFE, 4), (AT_3 + 0xF_FFFC, 8)):
        assert rig.load(address, size) == (1 << 8 * size) - 1
        rig.store(address, 0, size)
    assert rig.inb(AT_2 + 0x1E, 4) == ONES
    rig.outb(AT_2 + 0x1E, 0, 4)
    for at, size in ((1, 4), (4, 8), (0, 1), (2, 2), (0xFFC, 4), (0x50, 4)):
        rig.store(AT_MSIX + at, 0x5A5A_5A5A & (1 << 8 * size) - 1, size)
    assert device.state() == before


def test_case_26_an_access_that_the_move_has_overtaken(
    device: Scratch, function: Function
) -> None:
    """A vCPU may be on its way to where the BAR was, or to a larger one."""
    function.command(IO | MEMORY)
    data = bytearray(4)
    for base, offset in ((0x1234_0000, 0), (AT_MSIX, 0x2000)):
        device.read(base, offset, memoryview(data))
        assert data == b"\xff" * 4
        device.write(base, offset, memoryview(bytearray(4)))
    device.pio_read(AT_2, 0x1E, memoryview(data))
    device.pio_write(0x9000, 0, memoryview(data))
    assert device.last == (0, 0, 0)


def test_reset_puts_bars_back_and_decodes_none(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    function.command(IO | MEMORY)
    function.set(BAR_3, 0xE100_0000)
    device.reset()
    assert rig.load(0xE100_0000) == ONES
    assert function.get(BAR_3) == AT_3
    assert not device.get_trapped_io_resources()
    function.command(MEMORY)
    assert rig.load(AT_3) == 0x03030303


def test_an_unplugged_device_decodes_nothing(
    device: Scratch, function: Function
) -> None:
    function.command(IO | MEMORY)
    resources = device.get_assigned_resources()
    device.assign_resources(type(resources)(), [])
    assert not device.get_trapped_io_resources()
    device.interrupt(1)
    device.set_intx(True)


@pytest.mark.parametrize(
    ("index", "size", "kind", "message"),
    [
        (6, 0x1000, BarKind.MEM32, r"BAR 6 of 32-bit memory is none of 0..5"),
        (-1, 0x1000, BarKind.MEM32, "BAR -1"),
        (5, 0x1000, BarKind.MEM64, "BAR 5 of 64-bit memory is none"),
        (0, 0, BarKind.MEM32, r"0x0 bytes of 32-bit memory: a power of two"),
        (0, 0x1800, BarKind.MEM32, "a power of two is needed, 0x10..0x80000000"),
        (0, 8, BarKind.MEM32, "0x8 bytes"),
        (0, 1 << 32, BarKind.MEM32, "0x100000000 bytes"),
        (0, 2, BarKind.IO, r"0x2 bytes of ports: a power of two is needed, 0x4..0x100"),
        (0, 512, BarKind.IO, "0x200 bytes of ports"),
    ],
)
def test_a_bar_that_can_not_be_is_refused(
    index: int, size: int, kind: BarKind, message: str
) -> None:
    with pytest.raises(InvalidDevice, match=message):
        Bar(index, size, kind)


def test_ports_are_not_prefetchable() -> None:
    with pytest.raises(InvalidDevice, match="BAR 0: ports can't be prefetchable"):
        Bar(0, 16, BarKind.IO, prefetchable=True)


def test_the_window_of_configuration_space_is_never_a_bar_s(
    rig: PciRig, function: Function
) -> None:
    function.command(MEMORY)
    function.set(BAR_0, ECAM)
    function.set(BAR_0 + 4, 0)
    assert Function(rig, 0).get(0, 2) == 0x1B36
