"""Virtqueue: what a driver that plays by the rules sees of it."""

from collections.abc import Iterator

import pytest
from support.queue_rig import RINGS, QueueRig
from support.virtio_driver import EVENT_IDX, INDIRECT_DESC, PACKED, SplitDriver

from vmm.devices.errors import InvalidRange
from vmm.devices.virtio import packed_ring, split_ring
from vmm.devices.virtio.chain import Chain
from vmm.devices.virtio.queue import Virtqueue


@pytest.fixture(params=RINGS.values(), ids=list(RINGS))
def rig(request: pytest.FixtureRequest) -> QueueRig:
    return QueueRig(request.param)


@pytest.mark.parametrize("features", [0, EVENT_IDX, PACKED, EVENT_IDX | PACKED])
def test_a_conversation_goes_round_the_ring_many_times(features: int) -> None:
    QueueRig(features).converse(*(b"message %d" % at for at in range(50)))


def test_chains_lie_across_the_end_of_the_ring(rig: QueueRig) -> None:
    for at in range(20):
        request = rig.driver.send([b"%d" % at, b"two"], [1])
        assert rig.answer_all() == [b"%dtwo" % at]
        assert rig.driver.collect() == [request]


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_a_packed_ring_may_have_any_size(size: int) -> None:
    rig = QueueRig(PACKED | EVENT_IDX | INDIRECT_DESC, size)
    for at in range(50):
        request = rig.send(b"message %d" % at, indirect=True)
        assert rig.driver.needs_kick()
        assert rig.answer_all() == [b"message %d" % at]
        assert rig.queue.needs_interrupt()
        assert rig.driver.collect() == [request]
        rig.driver.enable_interrupts()


def test_an_empty_queue_has_nothing(rig: QueueRig) -> None:
    assert rig.queue.pop() is None
    assert list(rig.queue) == []
    assert not rig.queue.more


def test_a_queue_that_is_not_enabled_has_nothing() -> None:
    queue = Virtqueue(0, 8)
    assert not queue.is_enabled
    assert queue.pop() is None
    assert list(queue) == []
    assert not queue.needs_interrupt()
    queue.push_all([])


@pytest.mark.parametrize("size", [0, -1, 32769])
def test_a_queue_of_a_size_that_none_can_have_is_refused(size: int) -> None:
    with pytest.raises(InvalidRange, match=r"1\.\.32768"):
        Virtqueue(0, size)


def test_chains_may_be_given_back_in_any_order(rig: QueueRig) -> None:
    first, second, third = (rig.driver.send([], [8]) for _ in range(3))
    chains = [rig.pop() for _ in range(3)]
    for at in (2, 0, 1):
        chains[at].write(b"%d" % at)
        rig.queue.push(chains[at])
    assert rig.driver.collect() == [third, first, second]
    assert [first.data, second.data, third.data] == [b"0", b"1", b"2"]


def test_a_chain_is_given_back_once(rig: QueueRig) -> None:
    request = rig.send()
    chain = rig.pop()
    rig.queue.push(chain)
    rig.queue.push(chain)
    assert rig.driver.collect() == [request]
    assert rig.driver.collect() == []


def test_push_tells_what_was_written(rig: QueueRig) -> None:
    counted, named = rig.send(), rig.send()
    chain = rig.pop()
    chain.write(b"counted")
    rig.queue.push(chain)
    rig.queue.push(rig.pop(), 3)
    rig.driver.collect()
    assert (counted.length, named.length) == (7, 3)


def test_push_all_shows_all_at_once(rig: QueueRig) -> None:
    requests = [rig.send() for _ in range(3)]
    chains = [rig.pop() for _ in requests]

    def unseen() -> Iterator[tuple[Chain, int | None]]:
        for chain in chains:
            yield chain, None
            assert rig.driver.collect() == []

    rig.queue.push_all(unseen())
    assert rig.driver.collect() == requests


def test_a_chain_that_is_put_back_comes_first(rig: QueueRig) -> None:
    rig.send(b"one")
    rig.send(b"two")
    chain = rig.pop()
    assert chain.read(1) == b"o"
    rig.queue.put_back(chain)
    assert rig.answer_all() == [b"ne", b"two"]


def test_a_chain_that_is_not_in_flight_cannot_be_put_back(rig: QueueRig) -> None:
    rig.send(b"one")
    chain = rig.pop()
    rig.queue.push(chain)
    rig.queue.put_back(chain)
    assert rig.queue.pop() is None


# Interrupts


def test_an_interrupt_is_needed_once_for_all_that_was_pushed(rig: QueueRig) -> None:
    assert not rig.queue.needs_interrupt()
    rig.send()
    rig.send()
    rig.answer_all()
    assert rig.queue.needs_interrupt()
    assert not rig.queue.needs_interrupt()


def test_a_driver_that_wants_no_interrupt_gets_none(rig: QueueRig) -> None:
    rig.driver.disable_interrupts()
    rig.send()
    rig.answer_all()
    assert not rig.queue.needs_interrupt()
    rig.driver.collect()
    rig.driver.enable_interrupts()
    assert not rig.queue.needs_interrupt()
    rig.converse(b"again")
    assert rig.queue.needs_interrupt()


@pytest.mark.parametrize("features", [EVENT_IDX, EVENT_IDX | PACKED])
def test_event_idx_delays_an_interrupt_until_so_many(features: int) -> None:
    rig = QueueRig(features)
    for _ in range(20):  # that is several times round the ring
        rig.driver.enable_interrupts(after=3)
        needed = []
        for _ in range(3):
            rig.driver.send([], [1])
            rig.answer_all()
            needed.append(rig.queue.needs_interrupt())
        assert needed == [False, False, True]
        assert len(rig.driver.collect()) == 3


@pytest.mark.parametrize("features", [EVENT_IDX, EVENT_IDX | PACKED])
def test_event_idx_is_passed_by_several_at_once(features: int) -> None:
    rig = QueueRig(features)
    for _ in range(20):
        rig.driver.enable_interrupts(after=2)
        for _ in range(3):
            rig.driver.send([], [1])
        rig.answer_all()
        assert rig.queue.needs_interrupt()
        assert len(rig.driver.collect()) == 3


@pytest.mark.parametrize("features", [EVENT_IDX, EVENT_IDX | PACKED])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_event_idx_is_passed_whole_rounds_ago(features: int, rounds: int) -> None:
    rig = QueueRig(features)
    rig.driver.enable_interrupts()
    for _ in range(8 * rounds):
        rig.driver.send([], [1])
        rig.answer_all()
        rig.driver.collect()
    assert rig.queue.needs_interrupt()


def test_without_event_idx_used_event_is_ignored() -> None:
    rig = QueueRig(0)
    assert isinstance(rig.driver, SplitDriver)
    rig.driver.put_avail_word(2 + rig.driver.size, 0x7FFF)
    rig.converse(b"hello")
    assert rig.queue.needs_interrupt()


def test_a_driver_that_begins_to_wait_while_we_push_is_interrupted(
    rig: QueueRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.driver.disable_interrupts()
    rig.driver.send([], [1])
    rig.answer_all()

    def meanwhile() -> None:  # published, but what the driver wants isn't read yet
        rig.driver.enable_interrupts()
        assert len(rig.driver.in_flight) == 1
        assert len(rig.driver.collect()) == 1

    for ring in (split_ring, packed_ring):
        monkeypatch.setattr(ring, "barrier", meanwhile)
    assert rig.queue.needs_interrupt()


# Kicks


def test_a_kick_is_wanted_by_who_waits(rig: QueueRig) -> None:
    for _ in range(30):
        rig.send()
        assert rig.driver.needs_kick()
        rig.answer_all()
        rig.driver.collect()


def test_no_kick_is_wanted_while_chains_are_taken(rig: QueueRig) -> None:
    rig.send()
    assert rig.driver.needs_kick()
    for at, chain in enumerate(rig.queue):
        rig.queue.push(chain)
        if at < 3:
            rig.driver.collect()
            rig.send()
            assert not rig.driver.needs_kick()
    assert len(rig.driver.collect()) == 1
    rig.send()
    assert rig.driver.needs_kick()


def test_a_kick_is_wanted_by_who_has_stopped_halfway(rig: QueueRig) -> None:
    rig.send()
    for chain in rig.queue:
        rig.queue.push(chain)
        break
    rig.send()
    assert rig.driver.needs_kick()
    assert not rig.queue.more


def test_what_comes_while_kicks_are_asked_for_is_taken(
    rig: QueueRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = iter([b"late", b"later"])

    def meanwhile() -> None:  # kicks are enabled, but the ring isn't looked at again
        for message in late:
            rig.driver.send([message])
            return

    for ring in (split_ring, packed_ring):
        monkeypatch.setattr(ring, "barrier", meanwhile)
    rig.driver.send([b"first"])
    assert rig.answer_all() == [b"first", b"late", b"later"]


def test_16_bit_indices_wrap() -> None:
    rig = QueueRig(EVENT_IDX)
    assert isinstance(rig.driver, SplitDriver)
    rig.queue.enable(rig.ram, rig.features, (0xFFFD, 0xFFFD))
    rig.driver.used_idx = rig.driver.kicked_idx = 0xFFFD
    rig.driver.put_avail_idx(0xFFFD)
    rig.ram.write(rig.driver.areas[2] + 2, b"\xfd\xff")
    rig.driver.enable_interrupts()
    rig.answer_all()
    for _ in range(8):
        rig.send()
        assert rig.driver.needs_kick()
        rig.answer_all()
        assert rig.queue.needs_interrupt()
        assert len(rig.driver.collect()) == 1
        rig.driver.enable_interrupts()
    assert rig.driver.used_idx == 5
