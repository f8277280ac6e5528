"""IoManager and IoManagerContext: dispatch, refusals, hotplug."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.devices.device_io import DeviceIo, DeviceIoMut
from vmm.devices.errors import (
    DeviceOverlap,
    InvalidDevice,
    NoDevice,
    TransactionConflict,
    TransactionError,
)
from vmm.devices.io_manager import MAX_REPORTED_STRAYS, IoManager, IoManagerContext
from vmm.devices.resources import (
    DeviceResources,
    LegacyIrq,
    MmioAddressRange,
    PioAddressRange,
    Resource,
)


class Echo(DeviceIo):
    """Reads as its tag; remembers what it was asked."""

    def __init__(self, tag: int = 0) -> None:
        self.tag = tag
        self.log: list[tuple[str, int, int, bytes]] = []

    def read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.tag]) * len(data)
        self.log.append(("read", base, offset, bytes(data)))

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self.log.append(("write", base, offset, bytes(data)))

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.tag]) * len(data)
        self.log.append(("pio_read", base, offset, bytes(data)))

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.log.append(("pio_write", base, offset, bytes(data)))


class Quiet(DeviceIo):
    """Reads as its tag and remembers nothing."""

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.tag]) * len(data)


class Another(Echo):
    """For messages that must name two devices."""


COM1: list[Resource] = [PioAddressRange(0x3F8, 8)]
PAGE: list[Resource] = [MmioAddressRange(0x1000, 0x1000)]


@pytest.fixture
def manager() -> IoManager:
    return IoManager()


def pio(manager: IoManager, port: int, size: int = 1) -> bytes:
    data = bytearray(size)
    manager.pio_read(port, memoryview(data))
    return bytes(data)


def mmio(manager: IoManager, address: int, size: int = 1) -> bytes:
    data = bytearray(size)
    manager.mmio_read(address, memoryview(data))
    return bytes(data)


# --- dispatch ------------------------------------------------------------


def test_an_access_reaches_its_device_with_base_and_offset(manager: IoManager) -> None:
    device = Echo(7)
    manager.register_device_io(device, COM1 + PAGE)
    assert pio(manager, 0x3FD, 2) == b"\x07\x07"
    manager.pio_write(0x3F8, memoryview(b"a"))
    assert mmio(manager, 0x1FF8, 8) == b"\x07" * 8
    manager.mmio_write(0x1004, memoryview(b"word"))
    assert device.log == [
        ("pio_read", 0x3F8, 5, b"\x07\x07"),
        ("pio_write", 0x3F8, 0, b"a"),
        ("read", 0x1000, 0xFF8, b"\x07" * 8),
        ("write", 0x1000, 4, b"word"),
    ]


def test_the_two_buses_are_apart(manager: IoManager) -> None:
    manager.register_device_io(Echo(1), [PioAddressRange(0x1000, 8)])
    manager.register_device_io(Echo(2), [MmioAddressRange(0x1000, 8)])
    assert pio(manager, 0x1000) == b"\x01"
    assert mmio(manager, 0x1000) == b"\x02"


def test_resources_that_are_not_trapped_are_ignored(manager: IoManager) -> None:
    manager.register_device_io(Echo(), DeviceResources([LegacyIrq(4)]))
    assert manager == IoManager()


def test_an_unclaimed_access_reads_ones_writes_nothing_and_is_counted(
    manager: IoManager,
) -> None:
    assert pio(manager, 0x80, 4) == b"\xff" * 4
    assert mmio(manager, 0, 8) == b"\xff" * 8
    manager.pio_write(0x80, memoryview(b"\x00"))
    manager.mmio_write(1 << 63, memoryview(b"\x00"))
    assert (manager.unclaimed_accesses, manager.crossing_accesses) == (4, 0)


def test_an_access_at_the_top_end_does_not_wrap(manager: IoManager) -> None:
    device = Echo(7)
    low = [PioAddressRange(0, 4), MmioAddressRange(0, 4)]
    top = [PioAddressRange(0xFFFF, 1), MmioAddressRange((1 << 64) - 1, 1)]
    manager.register_device_io(device, low + top)
    assert pio(manager, 0xFFFF) == mmio(manager, (1 << 64) - 1) == b"\x07"
    assert pio(manager, 0xFFFF, 2) == mmio(manager, (1 << 64) - 1, 2) == b"\xff\xff"
    assert len(device.log) == 2


def test_a_devices_exception_passes_and_the_device_can_be_named(
    manager: IoManager,
) -> None:
    class Broken(DeviceIo):
        def pio_read(self, base: int, offset: int, data: memoryview) -> None:
            raise ZeroDivisionError

    broken = Broken()
    manager.register_device_io(broken, COM1 + PAGE)
    with pytest.raises(ZeroDivisionError):
        pio(manager, 0x3F8)
    assert manager.device_at_port(0x3FF) is broken
    assert manager.device_at_address(0x1FFF) is broken
    assert manager.device_at_port(0x400) is None
    assert manager.device_at_address(0x2000) is None
    assert manager.device_at_address(0) is None


# --- strays --------------------------------------------------------------


def test_a_stray_is_told_once_a_port_and_once_a_page() -> None:
    told: list[tuple[str, int, int, bool]] = []
    manager = IoManager(on_stray=lambda *stray: told.append(stray))
    for _ in range(3):
        pio(manager, 0x80)
        manager.pio_write(0x80, memoryview(b"\x00"))
        manager.mmio_write(0x5008, memoryview(b"\x00\x00"))
        mmio(manager, 0x5FFF)
    assert told == [("PIO", 0x80, 1, False), ("MMIO", 0x5008, 2, True)]
    assert manager.unclaimed_accesses == 12


def test_a_guest_that_strays_everywhere_does_not_make_us_grow() -> None:
    told: list[int] = []
    manager = IoManager(on_stray=lambda bus, address, *_: told.append(address))
    for page in range(MAX_REPORTED_STRAYS + 100):
        mmio(manager, page << 12)
    assert len(told) == len(manager._reported) == MAX_REPORTED_STRAYS
    assert manager.unclaimed_accesses == MAX_REPORTED_STRAYS + 100


# --- the faults of dbs-device --------------------------------------------


def test_fault_a_range_that_overlaps_another_in_part_was_accepted(
    manager: IoManager,
) -> None:
    manager.register_device_io(Echo(1), [PioAddressRange(0x3F8, 8)])
    with pytest.raises(
        DeviceOverlap,
        match=r"PIO 0x3fc\.\.0x403 of Another overlaps 0x3f8\.\.0x3ff of Echo",
    ):
        manager.register_device_io(Another(2), [PioAddressRange(0x3FC, 8)])
    assert pio(manager, 0x3FD) == b"\x01"


@pytest.mark.parametrize(
    ("base", "size"), [(0x3F8, 8), (0x3F0, 9), (0x3FF, 1), (0x3F0, 0x20), (0x3FA, 2)]
)
def test_every_way_to_overlap_is_refused(
    manager: IoManager, base: int, size: int
) -> None:
    manager.register_device_io(Echo(), [*COM1, MmioAddressRange(0x3F8, 8)])
    before = manager.clone()
    with pytest.raises(DeviceOverlap, match="PIO"):
        manager.register_device_io(Echo(), [PioAddressRange(base, size)])
    with pytest.raises(DeviceOverlap, match="MMIO"):
        manager.register_device_io(Echo(), [MmioAddressRange(base, size)])
    assert manager == before


def test_ranges_may_touch(manager: IoManager) -> None:
    manager.register_device_io(Echo(1), COM1)
    manager.register_device_io(Echo(2), [PioAddressRange(0x3F0, 8)])
    manager.register_device_io(Echo(3), [PioAddressRange(0x400, 8)])
    assert pio(manager, 0x3F7) + pio(manager, 0x3F8) == b"\x02\x01"
    assert pio(manager, 0x3FF) + pio(manager, 0x400) == b"\x01\x03"


def test_fault_a_refused_registration_threw_the_old_device_out(
    manager: IoManager,
) -> None:
    manager.register_device_io(Echo(1), COM1)
    with pytest.raises(DeviceOverlap):
        manager.register_device_io(Echo(2), COM1)
    assert pio(manager, 0x3F8) == b"\x01"


def test_fault_unregistering_what_was_never_registered_was_ok(
    manager: IoManager,
) -> None:
    with pytest.raises(NoDevice, match=r"no device has PIO 0x3f8\.\.0x3ff registered"):
        manager.unregister_device_io(COM1)
    manager.register_device_io(Echo(1), COM1 + PAGE)
    with pytest.raises(NoDevice, match=r"PIO 0x3f8\.\.0x3fb"):
        manager.unregister_device_io([PioAddressRange(0x3F8, 4)])
    with pytest.raises(NoDevice, match=r"MMIO 0x2000\.\.0x2fff"):
        manager.unregister_device_io([*COM1, MmioAddressRange(0x2000, 0x1000)])
    assert pio(manager, 0x3F8) == b"\x01"


def test_fault_an_access_over_the_end_of_a_range_was_dispatched(
    manager: IoManager,
) -> None:
    device = Echo(7)
    manager.register_device_io(device, COM1 + PAGE)
    assert pio(manager, 0x3FF, 2) == b"\xff\xff"
    assert mmio(manager, 0x1FFF, 8) == b"\xff" * 8
    manager.pio_write(0x3FD, memoryview(b"1234"))
    manager.mmio_write(0x1FFC, memoryview(b"12345678"))
    assert device.log == []
    assert (manager.unclaimed_accesses, manager.crossing_accesses) == (0, 4)


def test_fault_two_of_three_ranges_stayed_when_the_third_failed(
    manager: IoManager,
) -> None:
    manager.register_device_io(Echo(1), COM1)
    three = [PioAddressRange(0x100, 4), *PAGE, PioAddressRange(0x3FF, 1)]
    with pytest.raises(DeviceOverlap):
        manager.register_device_io(Echo(2), three)
    assert pio(manager, 0x100) == mmio(manager, 0x1000) == b"\xff"


def test_ranges_of_one_registration_must_not_overlap_either(
    manager: IoManager,
) -> None:
    with pytest.raises(DeviceOverlap):
        manager.register_device_io(Echo(), COM1 + COM1)
    assert manager == IoManager()


# --- registering and not -------------------------------------------------


def test_what_is_unregistered_is_gone_and_free_again(manager: IoManager) -> None:
    manager.register_device_io(Echo(1), COM1 + PAGE)
    manager.unregister_device_io(COM1 + PAGE)
    assert manager == IoManager()
    assert pio(manager, 0x3F8) == mmio(manager, 0x1000) == b"\xff"
    manager.register_device_io(Echo(2), COM1 + PAGE)
    assert pio(manager, 0x3F8) == mmio(manager, 0x1000) == b"\x02"


@pytest.mark.parametrize("device", [DeviceIoMut(), object()])
def test_what_is_no_device_io_is_refused(manager: IoManager, device: object) -> None:
    with pytest.raises(InvalidDevice, match="wrap a DeviceIoMut in Locked"):
        manager.register_device_io(device, COM1)  # type: ignore[arg-type]


def test_a_clone_is_equal_and_goes_its_own_way(manager: IoManager) -> None:
    manager.register_device_io(Echo(1), COM1)
    clone = manager.clone()
    assert clone == manager
    clone.register_device_io(Echo(2), PAGE)
    assert clone != manager
    assert mmio(manager, 0x1000) == b"\xff"


def test_managers_are_equal_when_the_same_devices_are_at_the_same_ranges() -> None:
    device, one, two = Echo(), IoManager(), IoManager()
    one.register_device_io(device, COM1)
    two.register_device_io(device, COM1)
    assert one == two
    two.unregister_device_io(COM1)
    two.register_device_io(Echo(), COM1)
    assert one != two
    assert one != COM1


def test_ten_thousand_devices_are_registered_and_found(manager: IoManager) -> None:
    device = Echo(7)
    context = IoManagerContext(manager)
    with context.transaction() as tx:
        for at in range(10_000):
            ranges = [PioAddressRange(at * 4, 4), MmioAddressRange(at << 12, 0x1000)]
            context.register_device_io(tx, device, ranges)
    assert pio(manager, 39_999) == mmio(manager, (10_000 << 12) - 1) == b"\x07"
    assert device.log[-1][1:3] == (9_999 << 12, 0xFFF)
    for at in range(0, 10_000, 500):  # one by one works as well
        manager.unregister_device_io([PioAddressRange(at * 4, 4)])
    assert pio(manager, 2_000) == b"\xff"


# --- transactions --------------------------------------------------------


@pytest.fixture
def context(manager: IoManager) -> IoManagerContext:
    return IoManagerContext(manager)


def test_nothing_of_a_transaction_is_seen_before_its_commit(
    manager: IoManager, context: IoManagerContext
) -> None:
    manager.register_device_io(Echo(1), COM1)
    tx = context.begin_tx()
    context.unregister_device_io(tx, COM1)
    context.register_device_io(tx, Echo(2), COM1 + PAGE)
    assert pio(manager, 0x3F8) + mmio(manager, 0x1000) == b"\x01\xff"
    context.commit_tx(tx)
    assert pio(manager, 0x3F8) + mmio(manager, 0x1000) == b"\x02\x02"


def test_a_cancelled_transaction_leaves_no_trace(
    manager: IoManager, context: IoManagerContext
) -> None:
    tx = context.begin_tx()
    context.register_device_io(tx, Echo(), COM1)
    context.cancel_tx(tx)
    assert manager == IoManager()


def test_a_refusal_leaves_the_transaction_as_it_was(
    manager: IoManager, context: IoManagerContext
) -> None:
    tx = context.begin_tx()
    context.register_device_io(tx, Echo(1), COM1)
    with pytest.raises(DeviceOverlap):
        context.register_device_io(tx, Echo(2), PAGE + COM1)
    with pytest.raises(NoDevice):
        context.unregister_device_io(tx, COM1 + PAGE)
    context.commit_tx(tx)
    assert pio(manager, 0x3F8) + mmio(manager, 0x1000) == b"\x01\xff"


def test_the_second_of_two_transactions_conflicts_and_changes_nothing(
    manager: IoManager, context: IoManagerContext
) -> None:
    first, second = context.begin_tx(), context.begin_tx()
    context.register_device_io(first, Echo(1), COM1)
    context.register_device_io(second, Echo(2), PAGE)
    context.commit_tx(first)
    with pytest.raises(TransactionConflict):
        context.commit_tx(second)
    assert mmio(manager, 0x1000) == b"\xff"


def test_registering_beside_a_transaction_conflicts_with_it(
    manager: IoManager, context: IoManagerContext
) -> None:
    tx = context.begin_tx()
    manager.register_device_io(Echo(), COM1)
    with pytest.raises(TransactionConflict):
        context.commit_tx(tx)


def test_a_transaction_can_not_be_used_after_its_end(
    context: IoManagerContext,
) -> None:
    tx = context.begin_tx()
    context.commit_tx(tx)
    with pytest.raises(TransactionError):
        context.commit_tx(tx)
    with pytest.raises(TransactionError):
        context.cancel_tx(tx)
    with pytest.raises(TransactionError):
        context.register_device_io(tx, Echo(), COM1)
    with pytest.raises(TransactionError):
        context.unregister_device_io(tx, COM1)


def test_a_with_block_commits_or_cancels(
    manager: IoManager, context: IoManagerContext
) -> None:
    with context.transaction() as tx:
        context.register_device_io(tx, Echo(1), COM1)

    def fail() -> Iterator[None]:
        with context.transaction() as tx:
            context.unregister_device_io(tx, COM1)
            raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        next(fail())
    assert pio(manager, 0x3F8) == b"\x01"


class Reader(threading.Thread):
    """A vCPU that polls a port and notes what no device at it could answer."""

    def __init__(self, manager: IoManager, answers: tuple[bytes, ...]) -> None:
        super().__init__()
        self.manager = manager
        self.answers = answers
        self.wrong: list[bytes] = []
        self.reads = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set() or self.reads < 1_000:
            answer = pio(self.manager, 0x500, 4)
            self.reads += 1
            if answer not in self.answers:
                self.wrong.append(answer)


def test_vcpus_see_no_torn_view_while_devices_come_and_go(
    manager: IoManager, context: IoManagerContext
) -> None:
    """Two devices swap places 1,000 times: a reader finds one there, always."""
    places = [[PioAddressRange(0x500, 4)], [PioAddressRange(0x600, 4)]]
    devices = Quiet(1), Quiet(2)
    for device, place in zip(devices, places, strict=True):
        manager.register_device_io(device, place)
    readers = [Reader(manager, (b"\x01" * 4, b"\x02" * 4)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(1_000):
        with context.transaction() as tx:
            context.unregister_device_io(tx, places[0] + places[1])
            context.register_device_io(tx, devices[turn % 2], places[0])
            context.register_device_io(tx, devices[1 - turn % 2], places[1])
    for reader in readers:
        reader.stop.set()
        reader.join(timeout=60)
    assert [reader.wrong for reader in readers] == [[], [], []]
    assert min(reader.reads for reader in readers) >= 1_000
    assert manager.unclaimed_accesses == 0


# --- against a model -----------------------------------------------------

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["plug", "unplug", "pio", "mmio"]),
        st.integers(0, 40),
        st.integers(1, 9),
    ),
    max_size=80,
)


@given(_STEPS)
def test_any_sequence_agrees_with_a_dictionary(
    steps: list[tuple[str, int, int]],
) -> None:
    manager = IoManager()
    model: dict[int, tuple[int, int, int]] = {}  # address: base, size, tag
    for tag, (step, base, size) in enumerate(steps):
        span = range(base, base + size)
        place = [PioAddressRange(base, size), MmioAddressRange(base, size)]
        if step == "plug":
            free = not any(at in model for at in span)
            assert _succeeds(manager.register_device_io, Echo(tag), place) == free
            if free:
                model.update(dict.fromkeys(span, (base, size, tag)))
        elif step == "unplug":
            exact = model.get(base, (None, None))[:2] == (base, size)
            assert _succeeds(manager.unregister_device_io, place) == exact
            if exact:
                for at in span:
                    del model[at]
        else:
            hit = model.get(base)
            inside = hit is not None and base + size <= hit[0] + hit[1]
            expected = bytes([hit[2] if hit and inside else 0xFF]) * size
            assert (pio if step == "pio" else mmio)(manager, base, size) == expected


def _succeeds(function: object, *arguments: object) -> bool:
    try:
        function(*arguments)  # type: ignore[operator]
    except (DeviceOverlap, NoDevice):
        return False
    return True
