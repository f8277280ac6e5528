"""What a device's author has: guest memory, hooks, a state; and threads."""

import json
import threading
from collections.abc import Iterable

import pytest
from support.pci_rig import RAM_SIZE, Function, MessageLine, PciRig, Scratch

from vmm.devices.errors import InvalidState
from vmm.devices.pci.config_space import Capability
from vmm.devices.pci.device import PciDevice, PciState
from vmm.devices.pci.msix import MsixState
from vmm.devices.pci.reg import (
    PCI_BASE_ADDRESS_0,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_VNDR,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_MSI_DATA_64,
    PCI_MSI_FLAGS,
    PCI_MSI_MASK_64,
    PCI_MSI_PENDING_64,
    PCI_MSIX_FLAGS,
)

ALL = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER


@pytest.fixture
def device() -> Scratch:
    return Scratch()


@pytest.fixture
def rig(device: Scratch) -> PciRig:
    return PciRig(device)


@pytest.fixture
def function(rig: PciRig) -> Function:
    return Function(rig, 1)


def through_json(state: PciState) -> PciState:
    return type(state).from_json(json.loads(json.dumps(state.to_json())))


def test_dma_reaches_ram_in_place(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    function.command(PCI_COMMAND_MASTER)
    assert device.dma.write(0x100, b"hello")
    assert rig.ram.data[0x100:0x105] == b"hello"
    view = device.dma.view(0x100, 5)
    assert view is not None
    view[0] = ord("j")
    assert device.dma.read(0x100, 5) == b"jello"


@pytest.mark.parametrize(
    ("address", "size"),
    [(RAM_SIZE, 1), (RAM_SIZE - 1, 2), ((1 << 64) - 1, 2), (0x60_0000_0000, 4)],
)
def test_dma_to_where_no_ram_is_ends_as_a_master_abort(
    rig: PciRig, device: Scratch, function: Function, address: int, size: int
) -> None:
    function.command(PCI_COMMAND_MASTER)
    assert device.dma.view(address, size) is None
    assert device.dma.read(address, size) == b"\xff" * size
    assert not device.dma.write(address, bytes(size))


def test_dma_needs_the_bus_master_bit(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    function.command(PCI_COMMAND_MEMORY)
    assert not device.dma.write(0, b"x")
    assert device.dma.read(0, 2) == b"\xff\xff"
    assert device.dma.view(0, 1) is None
    assert rig.ram.data[:2] == b"\0\0"


def test_a_capability_is_told_what_is_read_and_written(rig: PciRig) -> None:
    class Told(Capability):
        def before_read(self, at: int, size: int) -> None:
            calls.append(("read", at, size))
            self.set(4, 4, 0x1234_5678)

        def after_write(self, at: int, size: int) -> None:
            calls.append(("write", at, size))

    class Vendor(PciDevice):
        vendor_id = 0x1234
        device_id = 4

        def extra_capabilities(self) -> list[Capability]:
            return [Told(PCI_CAP_ID_VNDR, bytes(8), b"\xff" * 2)]

    calls: list[tuple[str, int, int]] = []
    function = Function(PciRig(Vendor()), 1)
    at = function.capabilities()[PCI_CAP_ID_VNDR]
    calls.clear()
    assert function.get(at + 6, 2) == 0x1234
    function.set(at + 2, 0xABCD, 2)
    assert function.get(at + 2, 2) == 0xABCD
    function.get(0x3C)
    function.get(at + 12)
    assert calls == [("read", 6, 2), ("write", 2, 2), ("read", 2, 2)]


def test_default_device_reads_ones() -> None:
    data = bytearray(4)
    PciDevice().read_bar(0, 0, memoryview(data))
    PciDevice().write_bar(0, 0, memoryview(data))
    assert data == b"\xff" * 4


def set_up(rig: PciRig, function: Function) -> int:
    """BARs decoded and moved, a vector pending in each way, the line asserted."""
    function.command(ALL)
    function.set(PCI_BASE_ADDRESS_0 + 12, 0xE100_0000)
    rig.store(0xE100_0008, 7)
    found = function.capabilities()
    msi, msix = found[PCI_CAP_ID_MSI], found[PCI_CAP_ID_MSIX]
    function.set(msi + 4, 0xFEE0_0000)
    function.set(msi + PCI_MSI_DATA_64, 0x50, 2)
    function.set(msi + PCI_MSI_MASK_64, 0b0100)
    function.set(msi + PCI_MSI_FLAGS, 0x21, 2)
    table = function.get(PCI_BASE_ADDRESS_0 + 16)
    for vector in range(2):
        rig.store(table + 16 * vector, 0xFEE0_0000)
        rig.store(table + 16 * vector + 8, 0x41 + vector)
        rig.store(table + 16 * vector + 12, vector)
    device = rig.bus.devices[1]
    device.set_intx(True)
    device.interrupt(2)  # by MSI, masked
    function.set(msix + PCI_MSIX_FLAGS, 0x8000, 2)
    device.interrupt(1)  # by MSI-X, masked
    return table


def test_another_device_goes_on_from_its_state(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    table = set_up(rig, function)
    state = device.state()
    copy = Scratch()
    other = PciRig(copy)
    Function(other, 1).command(PCI_COMMAND_MEMORY)
    copy.restore(through_json(state))
    assert copy.state() == state
    assert copy.last == (3, 8, 7)
    assert other.load(0xE100_0000) == 0x03030303
    assert other.io.device_at_address(0xE010_0000) is None
    assert copy.messages[0].routes == [(0xFEE0_0000, 0x41)]
    assert not copy.line.is_high  # it takes messages
    other.store(table + 28, 0)
    assert copy.messages[1].edges == 1
    control = Function(other, 1).capabilities()[PCI_CAP_ID_MSIX] + PCI_MSIX_FLAGS
    Function(other, 1).set(control, 0, 2)
    at_msi = Function(other, 1).capabilities()[PCI_CAP_ID_MSI]
    assert Function(other, 1).get(at_msi + PCI_MSI_PENDING_64) == 0b0100
    Function(other, 1).set(at_msi + PCI_MSI_MASK_64, 0)
    assert copy.messages[7].edges == 1


def test_a_restored_device_routes_its_messages_anew(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    """The machine that it goes on in has forgotten them."""
    set_up(rig, function)
    device.restore(device.state())
    assert device.messages[0].routes == [(0xFEE0_0000, 0x41)] * 2


def test_the_line_is_held_again(device: Scratch) -> None:
    PciRig(device)
    device.set_intx(True)
    state = device.state()
    device.reset()
    device.restore(state)
    assert device.line.is_high
    copy = Scratch()
    PciRig(copy)
    device.restore(copy.state())
    assert not device.line.is_high


class Other(Scratch):
    device_id = 0x5679


class Fewer(Scratch):
    msix_vectors = 4


class WithoutMsix(Scratch):
    msix_vectors = 0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Other, "PCI configuration byte 0x2 is 0x79: this device has 0x78 there"),
        (Fewer, "byte 0x42 is 0x3"),
        (WithoutMsix, "PCI configuration byte"),
    ],
)
def test_another_device_s_state_is_refused(
    rig: PciRig, device: Scratch, function: Function, kind: type[Scratch], message: str
) -> None:
    set_up(rig, function)
    before = device.state()
    other = kind()
    PciRig(other)
    with pytest.raises(InvalidState, match=message):
        device.restore(other.state())
    assert device.state() == before


@pytest.mark.parametrize(
    ("msix", "message"),
    [
        (None, "the other device has MSI-X, or this"),
        (MsixState(bytes(64), ()), "MSI-X of 4 vectors: this has 5"),
    ],
)
def test_another_table_is_refused(
    rig: PciRig, device: Scratch, msix: MsixState | None, message: str
) -> None:
    before = device.state()
    with pytest.raises(InvalidState, match=message):
        device.restore(before.replace(msix=msix))
    assert device.state() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": bytes(15)}, "table has entries of 16 bytes"),
        ({"table": b"\1" + bytes(15)}, "table has no such bits"),
        ({"table": bytes(15) + b"\1"}, "table has no such bits"),
        ({"pending": (5,)}, "pending vectors are in the table"),
        ({"pending": (2, 1)}, "pending vectors are in order"),
        ({"pending": (1, 1)}, "pending vectors are in order"),
        ({"pending": (2048,)}, "pending is"),
    ],
)
def test_a_table_that_can_not_be_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidState, match=message):
        MsixState(bytes(80), ()).replace(**changes)


def test_a_state_that_the_heir_refuses_changes_nothing(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    set_up(rig, function)
    before = device.state()
    device.reset()
    power_on = device.state()
    plain = before.to_json()
    plain["device"]["last"] = [9, 0, 0]
    with pytest.raises(InvalidState, match="BAR 9 is none"):
        device.restore(type(before).from_json(plain))
    assert device.state() == power_on
    assert not device.get_trapped_io_resources()


def test_a_device_that_keeps_nothing_has_the_pci_part() -> None:
    class Plain(PciDevice):
        vendor_id = 0x1234
        device_id = 1

    device = Plain()
    function = Function(PciRig(device), 1)
    function.command(PCI_COMMAND_MASTER)
    state = device.state()
    assert type(state) is PciState
    device.reset()
    device.restore(through_json(state))
    assert device.config.is_bus_master


def test_interrupts_come_from_any_thread_while_the_driver_masks(
    rig: PciRig, device: Scratch, function: Function
) -> None:
    """None is lost and none is sent twice: each is sent, or pending, or merged."""
    function.command(ALL)
    table = function.get(PCI_BASE_ADDRESS_0 + 16)
    msix = function.capabilities()[PCI_CAP_ID_MSIX]
    function.set(msix + PCI_MSIX_FLAGS, 0x8000, 2)
    rig.store(table, 0xFEE0_0000)

    def interrupt() -> None:
        for _ in range(2000):
            device.interrupt(0)

    thread = threading.Thread(target=interrupt)
    thread.start()
    while thread.is_alive():
        for masked in 0, 1:
            rig.store(table + 12, masked)
    thread.join()
    pending = rig.load(table + 0x800)
    rig.store(table + 12, 0)
    line = device.interrupts[0]
    assert isinstance(line, MessageLine)
    assert 1 <= line.edges <= 2000
    assert rig.load(table + 0x800) == 0
    assert pending in (0, 1)


class Register(Capability):
    """A register that can't be written."""

    def after_write(self, at: int, size: int) -> None:
        raise ValueError("out of paper")


class Hasty(Scratch):
    """Raises where it is set up."""

    def extra_capabilities(self) -> Iterable[Capability]:
        yield Register(PCI_CAP_ID_VNDR, bytes(2), b"\xff")


def test_who_raises_in_configuration_space_is_told() -> None:
    """Not the bridge, at whose address that is."""
    device = Hasty()
    rig = PciRig(Scratch(), device)
    function = Function(rig, 2)
    at = function.capabilities()[PCI_CAP_ID_VNDR]
    assert rig.bridge.get_author_device() is rig.bridge
    with pytest.raises(ValueError, match="out of paper"):
        function.set(at + 2, 1, 1)
    assert rig.bridge.get_author_device() is device


def test_who_raises_when_another_gives_way_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def follow(*, retry: bool) -> bool:
        raise ValueError("out of paper")

    device = Scratch()
    rig = PciRig(Scratch(), device)
    monkeypatch.setattr(device, "follow", follow)
    with pytest.raises(ValueError, match="out of paper"):
        Function(rig, 1).command(PCI_COMMAND_MEMORY)
    assert rig.bridge.get_author_device() is device
