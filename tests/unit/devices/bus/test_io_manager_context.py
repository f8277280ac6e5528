"""IoManagerContext: transactions, while vCPUs dispatch."""

import threading
from collections.abc import Iterator

import pytest
from support.io_manager_rig import COM1, PAGE, Echo, Quiet, mmio, pio

from vmm.devices.bus.io_manager import IoManager, IoManagerContext
from vmm.devices.errors import (
    DeviceOverlap,
    NoDevice,
    TransactionConflict,
    TransactionError,
)
from vmm.devices.resources import PioAddressRange


@pytest.fixture
def manager() -> IoManager:
    return IoManager()


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
