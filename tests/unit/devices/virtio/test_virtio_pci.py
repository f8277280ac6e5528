"""VirtioPci: what a function has that registers by MMIO haven't.

A case is one of the hostile drivers of issue 18, by its number.
"""

import struct

import pytest
from support.virtio_echo import ECHO, Echo
from support.virtio_transports import (
    DRIVER_OK,
    NEEDS_RESET,
    VERSION_1,
    IntxDriver,
    PciDriver,
)

from vmm.devices.errors import InvalidDevice, InvalidState
from vmm.devices.pci.reg import (
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_VNDR,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_DEVICE_ID,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
    PCI_REVISION_ID,
    PCI_SUBSYSTEM_ID,
    PCI_VENDOR_ID,
)
from vmm.devices.virtio.device import VirtioDevice
from vmm.devices.virtio.pci import (
    COMMON_CFG,
    DEVICE_CFG,
    ISR_CFG,
    NOTIFY_CFG,
    PCI_CFG,
    VirtioPci,
)
from vmm.devices.virtio.queue import Virtqueue

NO_VECTOR = 0xFFFF


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def driver(echo: Echo) -> PciDriver:
    return PciDriver(echo)


# How Linux finds it


def test_it_is_a_modern_device(driver: PciDriver) -> None:
    get = driver.function.get
    assert get(PCI_VENDOR_ID, 2) == 0x1AF4
    assert get(PCI_DEVICE_ID, 2) == 0x1040 + ECHO
    assert get(PCI_REVISION_ID, 1) >= 1
    assert get(PCI_SUBSYSTEM_ID, 2) >= 0x40


@pytest.mark.parametrize(
    ("kind", "code"), [(1, 0x020000), (2, 0x018000), (3, 0x078000), (4, 0xFF0000)]
)
def test_class_is_that_of_its_type(kind: int, code: int) -> None:
    class Some(Echo):
        device_type = kind

    assert PciDriver(Some()).function.get(PCI_REVISION_ID) >> 8 == code


def test_structures_are_where_capabilities_say(driver: PciDriver) -> None:
    assert driver.places.keys() == {
        COMMON_CFG,
        NOTIFY_CFG,
        ISR_CFG,
        DEVICE_CFG,
        PCI_CFG,
    }
    assert driver.places[COMMON_CFG][1] >= 0x3C  # as RING_RESET wants it
    assert driver.places[DEVICE_CFG][1] == 12
    assert driver.places[NOTIFY_CFG][1] == 2 * driver.multiplier
    for at, size in ((4, 4), (8, 4)):  # of the first
        assert driver.function.get(driver.window + at, size) is not None


def test_a_device_without_configuration_has_no_structure_for_it() -> None:
    class Plain(Echo):
        def config(self) -> bytes:
            return b""

    assert DEVICE_CFG not in PciDriver(Plain()).places


def test_common_configuration_reads_as_written(driver: PciDriver) -> None:
    assert driver.get("num_queues") == 2
    driver.set("device_feature_select", 1)
    assert driver.get("device_feature_select") == 1
    driver.negotiate(VERSION_1)
    driver.set("driver_feature_select", 1)
    assert driver.get("driver_feature") == 1
    driver.set("queue_select", 1)
    assert driver.get("queue_notify_off") == 1
    driver.store(0x28, (0x1_0000_2000).to_bytes(8, "little"))  # queue_driver, whole
    assert driver.load(0x28, 8) == (0x1_0000_2000).to_bytes(8, "little")
    assert driver.get("queue_driver_lo") == 0x2000
    assert driver.get("queue_driver_hi") == 1


def test_a_queue_is_not_disabled_by_writing_0(driver: PciDriver) -> None:
    driver.negotiate()
    driver.set_up(0)
    driver.set("queue_enable", 0)
    assert driver.get("queue_enable") == 1
    driver.set("queue_reset", 2)
    assert driver.get("queue_enable") == 1


# Case 26: accesses that can't be


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        *((0x00, 1), (0x00, 2), (0x01, 4), (0x14, 2), (0x14, 4), (0x20, 2), (0x22, 4)),
        *((0x40, 4), (0x100, 4), (0x1001, 1), (0x1000, 4)),
    ],
)
def test_case_26_other_accesses_read_ones_and_write_nothing(
    driver: PciDriver, offset: int, size: int
) -> None:
    driver.negotiate()
    before = driver.transport.state()
    assert driver.load(offset, size) == b"\xff" * size
    driver.store(offset, bytes(size))
    assert driver.transport.state() == before


# Case 27: vectors


@pytest.mark.parametrize("vector", [3, 4, 0x7FF, 0xFFFE, NO_VECTOR])
def test_case_27_an_unusable_vector_reads_back_as_none(
    driver: PciDriver, vector: int
) -> None:
    driver.set("config_msix_vector", vector)
    assert driver.get("config_msix_vector") == NO_VECTOR
    driver.set("queue_select", 1)
    driver.set("queue_msix_vector", vector)
    assert driver.get("queue_msix_vector") == NO_VECTOR


def test_case_27_any_event_may_have_any_vector(driver: PciDriver, echo: Echo) -> None:
    driver.start()
    driver.set("config_msix_vector", 2)
    for queue in (0, 1):
        driver.set("queue_select", queue)
        driver.set("queue_msix_vector", 2)
        driver.send(queue, [b"x"], [8])
    echo.config_changed()
    assert [line.edges for line in driver.lines[:3]] == [0, 0, 3]


def test_case_27_without_a_vector_nobody_is_interrupted(
    driver: PciDriver, echo: Echo
) -> None:
    driver.start()
    driver.set("queue_select", 0)
    driver.set("queue_msix_vector", NO_VECTOR)
    driver.set("config_msix_vector", NO_VECTOR)
    driver.send(0, [b"x"], [8])
    echo.config_changed()
    assert driver.events() == set()
    assert driver.rings[0].collect()


def test_vectors_of_a_queue_that_there_is_not(driver: PciDriver) -> None:
    driver.set("queue_select", 7)
    driver.set("queue_msix_vector", 1)
    assert driver.get("queue_msix_vector") == NO_VECTOR


def test_reset_forgets_vectors(driver: PciDriver) -> None:
    driver.start()
    driver.status = 0
    assert driver.get("config_msix_vector") == NO_VECTOR
    for queue in (0, 1):
        driver.set("queue_select", queue)
        assert driver.get("queue_msix_vector") == NO_VECTOR


def test_with_messages_the_isr_status_stays_0(driver: PciDriver) -> None:
    driver.start()
    driver.send(0, [b"x"], [8])
    data = bytearray(1)
    driver.rig.io.mmio_read(driver.places[ISR_CFG][0], memoryview(data))
    assert data == b"\0"
    assert not driver.lines[-1].is_high


def test_case_23_a_pending_message_does_not_outlive_a_reset(driver: PciDriver) -> None:
    driver.start()
    at = driver.function.capabilities()[PCI_CAP_ID_MSIX] + PCI_MSIX_FLAGS
    driver.function.set(at, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL, 2)
    driver.send(0, [b"x"], [8])
    driver.status = 0
    driver.function.set(at, PCI_MSIX_FLAGS_ENABLE, 2)
    assert driver.events() == set()


def test_a_masked_message_comes_when_it_may(driver: PciDriver) -> None:
    driver.start()
    at = driver.function.capabilities()[PCI_CAP_ID_MSIX] + PCI_MSIX_FLAGS
    driver.function.set(at, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL, 2)
    driver.send(0, [b"x"], [8])
    assert driver.events() == set()
    driver.function.set(at, PCI_MSIX_FLAGS_ENABLE, 2)
    assert driver.events() == {"used"}


# INTx


def test_intx_is_held_until_the_isr_status_is_read(echo: Echo) -> None:
    driver = IntxDriver(echo)
    driver.start()
    driver.send(0, [b"x"], [8])
    echo.fail("why not")
    assert driver.lines[-1].is_high
    assert driver.events() == {"used", "config"}
    assert driver.events() == set()


def test_intx_is_let_go_of_by_a_reset(echo: Echo) -> None:
    driver = IntxDriver(echo)
    driver.start()
    driver.send(0, [b"x"], [8])
    driver.status = 0
    assert not driver.lines[-1].is_high


# Case 28: the window in configuration space


class Window:
    """VIRTIO_PCI_CAP_PCI_CFG, as a boot loader without MMIO uses it."""

    def __init__(self, driver: PciDriver) -> None:
        self.function, self.at = driver.function, driver.window

    def point(self, offset: int, length: int, bar: int = 0) -> None:
        self.function.set(self.at + 4, bar, 1)
        self.function.set(self.at + 8, offset)
        self.function.set(self.at + 12, length)

    def load(self, offset: int, length: int, bar: int = 0) -> int:
        self.function.set(self.at + 16, 0xEEEE_EEEE)
        self.point(offset, length, bar)
        return self.function.get(self.at + 16)

    def store(self, offset: int, length: int, value: int) -> None:
        self.point(offset, length)
        self.function.set(self.at + 16, value)


def test_window_reaches_what_is_behind_the_bar(driver: PciDriver, echo: Echo) -> None:
    window = Window(driver)
    driver.function.command(PCI_COMMAND_MASTER)  # the BAR itself isn't decoded
    for status in (1, 3):
        window.store(0x14, 1, status)
    assert window.load(0x14, 1) & 0xFF == 3
    assert window.load(0x12, 2) & 0xFFFF == 2
    assert window.load(0x2000, 4) == 2
    window.store(0x2008, 4, int.from_bytes(b"name", "little"))
    assert echo.tag == b"name"


def test_window_rings_a_doorbell(driver: PciDriver, echo: Echo) -> None:
    driver.start()
    driver.rings[0].send([b"x"], [8])
    Window(driver).store(0x3000, 2, 0)
    assert echo.calls[-1] == "handle 0"
    assert driver.rings[0].collect()


@pytest.mark.parametrize(
    ("offset", "length", "bar"),
    [
        (0x14, 3, 0),
        (0x14, 8, 0),
        (0x14, 0, 0),
        (0x14, 0xFFFF_FFFF, 0),
        (0x01, 4, 0),
        (0x4000, 4, 0),
        (0x3FFE, 4, 0),
        (0xFFFF_FFFC, 4, 0),
        (0x00, 4, 1),
        (0x00, 4, 5),
        (0x00, 4, 255),
    ],
)
def test_case_28_a_window_that_cannot_be_shows_nothing(
    driver: PciDriver, offset: int, length: int, bar: int
) -> None:
    driver.negotiate()
    window = Window(driver)
    before = driver.pci.registers.state()
    assert window.load(offset, length, bar) == 0xEEEE_EEEE
    driver.function.set(window.at + 16, 0)
    assert driver.pci.registers.state() == before


def test_case_28_moved_bar_keeps_its_driver_and_doorbells(
    driver: PciDriver, echo: Echo
) -> None:
    driver.start()
    driver.function.command(PCI_COMMAND_MASTER)
    driver.function.set(0x10, 0xE800_0000)
    driver.function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
    (first, _), *_ = [(bell.base, bell.size) for bell in driver.pci.get_doorbells()]
    assert first == 0xE800_3000
    driver.places = {
        kind: (at - 0xE010_0000 + 0xE800_0000, size)
        for kind, (at, size) in driver.places.items()
    }
    driver.send(0, [b"x"], [8])
    assert driver.rings[0].collect()
    assert echo.is_active


# What a machine sees


def test_each_queue_has_a_doorbell_of_two_bytes(driver: PciDriver, echo: Echo) -> None:
    bells = driver.pci.get_doorbells()
    at = driver.places[NOTIFY_CFG][0]
    assert [(bell.base, bell.size, bell.value) for bell in bells] == [
        (at, 2, None),
        (at + 4, 2, None),
    ]
    driver.start()
    driver.rings[1].send([b"x"], [8])
    bells[1].on_ring()
    assert echo.calls[-1] == "handle 1"


def test_many_queues_have_room() -> None:
    """As many as MSI-X has vectors for."""

    class Wide(VirtioDevice):
        device_type = 1
        queue_sizes = (2,) * 2047
        served = -1

        def handle(self, queue: Virtqueue) -> None:
            self.served = queue.index

    wide = Wide()
    driver = PciDriver(wide)
    assert driver.get("num_queues") == 2047
    driver.negotiate()
    driver.set_up(2046, 2)
    assert driver.get("queue_msix_vector") == 2047
    driver.status |= DRIVER_OK
    driver.kick(2046)
    assert wide.served == 2046


def test_configuration_that_has_no_room() -> None:
    class Large(Echo):
        def config(self) -> bytes:
            return bytes(0x1001)

    with pytest.raises(InvalidDevice, match="Large has 4097 bytes of configuration"):
        PciDriver(Large())


def test_it_goes_by_its_authors_name(driver: PciDriver, echo: Echo) -> None:
    assert driver.pci.get_author_device() is echo


def test_a_device_may_ask_for_a_slot() -> None:
    class Plain(VirtioDevice):
        device_type = 4
        queue_sizes = (8,)

    driver = PciDriver(Plain())
    other = VirtioPci(Plain(), driver.ram, driver.clock, slot=7)
    driver.rig.bus.attach(other)
    assert other.slot == 7


def test_capabilities_are_the_specifications(driver: PciDriver) -> None:
    """Each `struct virtio_pci_cap` as its bytes are, with its length."""
    at, found = driver.function.get(0x34, 1), []
    while at:
        if driver.function.get(at, 1) == PCI_CAP_ID_VNDR:
            size = driver.function.get(at + 2, 1)
            raw = bytes(driver.function.get(at + byte, 1) for byte in range(size))
            found.append(struct.unpack_from("<3xBB3xII", raw))
        at = driver.function.get(at + 1, 1)
    assert found == [
        (COMMON_CFG, 0, 0x0000, 0x40),
        (NOTIFY_CFG, 0, 0x3000, 8),
        (ISR_CFG, 0, 0x1000, 1),
        (DEVICE_CFG, 0, 0x2000, 12),
        (PCI_CFG, 0, 0, 0),
    ]


def test_needs_reset_is_told_by_the_configurations_vector(
    driver: PciDriver, echo: Echo
) -> None:
    driver.start()
    echo.fail("gone")
    assert driver.status & NEEDS_RESET
    assert [line.edges for line in driver.lines[:3]] == [1, 0, 0]


@pytest.mark.parametrize("vectors", [(), (NO_VECTOR,) * 3])
def test_a_state_has_a_vector_for_each_queue(
    driver: PciDriver, vectors: tuple[int, ...]
) -> None:
    state = driver.pci.device_state()
    with pytest.raises(InvalidState, match="one vector a queue"):
        state.replace(queue_vectors=vectors)
