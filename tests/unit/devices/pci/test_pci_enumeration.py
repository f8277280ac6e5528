"""How a guest finds what is on the bus: by ports, by the window, as Linux looks."""

from collections.abc import Iterable

import pytest
from support.pci_rig import (
    ECAM,
    Function,
    PciRig,
    ProbedBar,
    Scratch,
    enumerate_bus,
    identity,
    probe_bars,
)

from vmm.devices.errors import DeviceError, DeviceOverlap, Exhausted, InvalidDevice
from vmm.devices.pci.bar import Bar, BarKind
from vmm.devices.pci.config_space import Capability
from vmm.devices.pci.device import BarDoorbell, PciDevice
from vmm.devices.pci.reg import (
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_VNDR,
    PCI_COMMAND,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_REVISION_ID,
    PCI_STATUS,
    PCI_SUBSYSTEM_VENDOR_ID,
    PCI_VENDOR_ID,
)

ONES = 0xFFFF_FFFF
BOTH_WAYS = pytest.mark.parametrize("by_ports", [True, False], ids=["ports", "ECAM"])


class Plain(PciDevice):
    """Nothing but an identity."""

    vendor_id = 0x1234
    device_id = 1


@pytest.fixture
def rig() -> PciRig:
    return PciRig(Scratch())


@BOTH_WAYS
def test_the_bridge_and_the_devices_are_found(rig: PciRig, by_ports: bool) -> None:
    found = enumerate_bus(rig, by_ports=by_ports)
    assert {slot: identity(function) for slot, function in found.items()} == {
        0: (0x1B36, 0x0008, 0x060000),
        1: (0x1234, 0x5678, 0x088001),
    }


@BOTH_WAYS
def test_linux_sizes_each_bar(rig: PciRig, by_ports: bool) -> None:
    bars = probe_bars(Function(rig, 1, by_ports=by_ports))
    assert bars == [
        ProbedBar(0, 0x60_0000_0000, 0x4000, False, True, True),
        ProbedBar(2, 0xC000, 0x20, True, False, False),
        ProbedBar(3, 0xE010_0000, 0x10_0000, False, False, False),
        ProbedBar(4, 0xE020_0000, 0x1000, False, False, False),  # for MSI-X
    ]


@BOTH_WAYS
def test_linux_walks_the_capabilities(rig: PciRig, by_ports: bool) -> None:
    found = Function(rig, 1, by_ports=by_ports).capabilities()
    assert set(found) == {PCI_CAP_ID_MSI, PCI_CAP_ID_MSIX}
    assert all(offset % 4 == 0 and offset >= 0x40 for offset in found.values())


def test_a_device_without_capabilities_says_so() -> None:
    rig = PciRig(Plain())
    assert Function(rig, 1).capabilities() == {}
    assert Function(rig, 1).get(PCI_STATUS, 2) == 0


def test_header_has_what_the_author_said(rig: PciRig) -> None:
    function = Function(rig, 1)
    assert function.get(PCI_REVISION_ID, 1) == 3
    assert function.get(PCI_SUBSYSTEM_VENDOR_ID) == 0x8765_4321
    assert function.get(PCI_INTERRUPT_PIN, 1) == 1
    assert function.get(PCI_INTERRUPT_LINE, 1) == 11
    assert function.get(PCI_COMMAND, 2) == 0
    assert Function(PciRig(Plain()), 1).get(PCI_INTERRUPT_LINE, 2) == 0x00FF


def test_identity_is_read_only_and_the_interrupt_line_is_not(rig: PciRig) -> None:
    function = Function(rig, 1)
    before = identity(function)
    for at in range(0, 0x10, 4):
        function.set(at, ONES)
    function.set(PCI_INTERRUPT_LINE, 5, 1)
    assert identity(function) == before
    assert function.get(PCI_INTERRUPT_LINE, 1) == 5


def test_command_keeps_only_what_the_device_has() -> None:
    rig = PciRig(Scratch(), Plain())
    for slot, kept in ((1, 0x0547), (2, 0x0144)):
        Function(rig, slot).command(0xFFFF)
        assert Function(rig, slot).get(PCI_COMMAND, 2) == kept


def test_linux_takes_the_ports_for_configuration_mechanism_1(rig: PciRig) -> None:
    """As `pci_check_type1` in arch/x86/pci/direct.c."""
    rig.outb(0xCFB, 0x01)
    before = rig.inb(0xCF8, 4)
    rig.outb(0xCF8, 0x8000_0000, 4)
    assert rig.inb(0xCF8, 4) == 0x8000_0000
    rig.outb(0xCF8, before, 4)
    assert rig.inb(0xCF8, 4) == before == 0


def test_config_address_keeps_no_reserved_bits(rig: PciRig) -> None:
    rig.outb(0xCF8, ONES, 4)
    assert rig.inb(0xCF8, 4) == 0x80FF_FFFC


@pytest.mark.parametrize(
    "address",
    [0x0000_0800, 0x8001_0800, 0x8000_0900, 0x8000_F800],
    ids=["disabled", "bus 1", "function 1", "empty slot"],
)
def test_ports_reach_nothing_else(rig: PciRig, address: int) -> None:
    rig.outb(0xCF8, address, 4)
    assert rig.inb(0xCFC, 4) == ONES
    rig.outb(0xCFC, 0, 4)


def test_a_byte_at_0xcf9_is_the_reset_control(rig: PciRig) -> None:
    rig.outb(0xCF8, 0x8000_0800, 4)
    rig.outb(0xCF9, 0x02)
    rig.outb(0xCF9, 0x06)
    assert rig.resets.edges == 1
    assert rig.inb(0xCF9) == 0x06
    assert rig.inb(0xCF8, 4) == 0x8000_0800


@BOTH_WAYS
@pytest.mark.parametrize(("at", "size"), [(0, 1), (1, 1), (3, 1), (2, 2), (1, 2)])
def test_registers_are_read_by_any_of_their_bytes(
    rig: PciRig, by_ports: bool, at: int, size: int
) -> None:
    whole = Function(rig, 1).get(PCI_VENDOR_ID)
    part = Function(rig, 1, by_ports=by_ports).get(at, size)
    assert part == whole >> 8 * at & (1 << 8 * size) - 1


@pytest.mark.parametrize(
    ("offset", "size"),
    [(1, 4), (2, 4), (3, 2), (0, 8), (4, 8), (0xFE, 4), (0x100, 4), (0xFFC, 4)],
)
def test_case_26_configuration_accesses_that_are_none(
    rig: PciRig, offset: int, size: int
) -> None:
    """Over the end of 4 aligned bytes, or past the 256 of a conventional function."""
    place = ECAM | 1 << 15 | offset
    before = rig.bus.devices[1].state()
    assert rig.load(place, size) == (1 << 8 * size) - 1
    rig.store(place, 0x5A5A, size)
    assert rig.bus.devices[1].state() == before


@pytest.mark.parametrize("port", [0xCF8, 0xCFA, 0xCFB])
@pytest.mark.parametrize("size", [1, 2])
def test_case_26_part_of_config_address(rig: PciRig, port: int, size: int) -> None:
    rig.outb(0xCF8, 0x8000_0800, 4)
    assert rig.inb(port, size) == (1 << 8 * size) - 1
    rig.outb(port, 0, size)
    assert rig.inb(0xCF8, 4) == 0x8000_0800


@pytest.mark.parametrize(("port", "size"), [(0xCFA, 4), (0xCFB, 2), (0xCFD, 4)])
def test_case_26_ports_of_both_registers_at_once(
    rig: PciRig, port: int, size: int
) -> None:
    rig.outb(0xCF8, 0x8000_0804, 4)
    assert rig.inb(port, size) == (1 << 8 * size) - 1
    rig.outb(port, (1 << 8 * size) - 1, size)
    assert rig.inb(0xCF8, 4) == 0x8000_0804
    assert Function(rig, 1).get(PCI_COMMAND, 2) == 0


def test_without_a_window_there_are_the_ports() -> None:
    rig = PciRig(Scratch(), has_ecam=False)
    assert rig.load(ECAM | 1 << 15) == ONES
    assert set(enumerate_bus(rig, by_ports=True)) == {0, 1}


def test_slots_are_those_asked_for_or_the_first_ones_free() -> None:
    asked = Plain()
    asked.slot = 1
    devices = [asked, Plain(), Plain()]
    rig = PciRig(*devices)
    assert [device.slot for device in devices] == [1, 2, 3]
    rig.bus.detach(asked)
    assert Function(rig, 1).get(PCI_VENDOR_ID) == ONES
    other = Plain()
    rig.bus.attach(other)
    assert other.slot == 1
    assert rig.bus.devices == [rig.bridge, other, *devices[1:]]


def test_a_slot_is_one_devices() -> None:
    rig, other = PciRig(Plain()), Plain()
    other.slot = 1
    with pytest.raises(DeviceOverlap, match="PCI slot 1 of Plain is Plain's"):
        rig.bus.attach(other)
    other.slot = 32
    with pytest.raises(InvalidDevice, match=r"Plain.slot is 32: it must be 0..31"):
        rig.bus.attach(other)


def test_a_device_is_in_one_slot() -> None:
    device = Plain()
    rig = PciRig(device)
    with pytest.raises(DeviceOverlap, match="Plain is in PCI slot 1 already"):
        rig.bus.attach(device)


def test_more_devices_than_slots_are_refused() -> None:
    rig = PciRig(*(Plain() for _ in range(31)))
    with pytest.raises(Exhausted, match="Plain finds none of the 32 PCI slots free"):
        rig.bus.attach(Plain())


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"msix_vectors": 2049}, r"Plain: msix_vectors is 2049: 0..2048"),
        ({"msi_vectors": 3}, r"Plain: msi_vectors is 3: 0, or a power of two"),
        ({"msi_vectors": 64}, "Plain: msi_vectors is 64"),
        ({"bars": (Bar(1, 16), Bar(1, 16))}, "Plain: BAR 1 is there twice"),
        (
            {"bars": tuple(Bar(at, 16) for at in range(6)), "msix_vectors": 1},
            "Plain: it has no BAR left for its MSI-X table",
        ),
        ({"vendor_id": 0x10000}, "Plain: vendor_id is 0x10000"),
        ({"class_code": -1}, "Plain: class_code is -0x1"),
    ],
)
def test_a_device_that_can_not_be_is_refused(
    attributes: dict[str, object], message: str
) -> None:
    rig, device = PciRig(), Plain()
    for name, value in attributes.items():
        setattr(device, name, value)
    with pytest.raises(InvalidDevice, match=message):
        rig.bus.attach(device)
    assert rig.bus.devices == [rig.bridge]
    assert device.slot is None


def test_who_asked_for_no_slot_has_none_when_it_is_gone() -> None:
    first, second = Plain(), Plain()
    bus = PciRig().bus
    bus.attach(first)
    bus.detach(first)
    assert first.slot is None
    bus.attach(second)
    bus.attach(first)
    assert bus.devices[1:] == [second, first]


def test_a_device_without_an_identity_is_refused() -> None:
    with pytest.raises(InvalidDevice, match="PciDevice: it has no vendor_id"):
        PciRig().bus.attach(PciDevice())


@pytest.mark.parametrize(
    ("bell", "message"),
    [
        ((0, 0xFE, 4), "no BAR 0 of its own has a doorbell's 4 bytes at 0xfe"),
        ((0, -2, 2), "no BAR 0 .* 2 bytes at -0x2"),
        ((1, 0, 2), "no BAR 1 .* 2 bytes at 0x0"),
        ((0, 0, 3), "no access of 3 bytes"),
        ((2, 0, 8), "no access of 8 bytes"),
    ],
)
def test_a_doorbell_that_can_not_be_is_refused(
    bell: tuple[int, int, int], message: str
) -> None:
    """Or KVM would take writes that are another device's."""

    class Belled(Plain):
        bars = (Bar(0, 0x100), Bar(2, 16, BarKind.IO))

        def get_bar_doorbells(self) -> Iterable[BarDoorbell]:
            yield BarDoorbell(*bell, on_ring=lambda: None)

    rig = PciRig()
    with pytest.raises(DeviceError, match=f"^Belled: {message}"):
        rig.bus.attach(Belled())
    assert rig.bus.devices == [rig.bridge]


def test_capabilities_that_do_not_fit_are_refused() -> None:
    class Full(Plain):
        def extra_capabilities(self) -> list[Capability]:
            return [Capability(PCI_CAP_ID_VNDR, bytes(62)) for _ in range(4)]

    rig = PciRig()
    with pytest.raises(InvalidDevice, match="Full: capability 0x9 of 64 bytes: 0"):
        rig.bus.attach(Full())


def test_capabilities_of_the_author_s_come_last() -> None:
    class Vendor(Scratch):
        def extra_capabilities(self) -> list[Capability]:
            return [Capability(PCI_CAP_ID_VNDR, b"\x08abcde", writable=b"\0\xff")]

    function = Function(PciRig(Vendor()), 1)
    offset = function.capabilities()[PCI_CAP_ID_VNDR]
    assert offset == max(function.capabilities().values())
    function.set(offset, ONES)
    function.set(offset + 4, ONES)
    assert function.get(offset) == 0xFF08_0009
    assert function.get(offset + 4) == int.from_bytes(b"bcde", "little")
