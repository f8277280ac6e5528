"""A queue's state: the same ring, indices, and chains that the device has."""

import json

import pytest
from support.plain_ram import PlainRam
from support.queue_rig import RINGS, QueueRig, texts
from support.virtio_driver import EVENT_IDX, INDIRECT_DESC, PACKED

from vmm.devices.errors import InvalidState
from vmm.devices.virtio.chain import ChainState
from vmm.devices.virtio.queue import BrokenRing, Virtqueue, VirtqueueState


@pytest.fixture(params=RINGS.values(), ids=list(RINGS))
def rig(request: pytest.FixtureRequest) -> QueueRig:
    return QueueRig(request.param)


def moved(rig: QueueRig) -> Virtqueue:
    """Another queue that goes on from what JSON has of the rig's, in its place."""
    saved = json.loads(json.dumps(rig.queue.state().to_json()))
    rig.queue = Virtqueue(0, rig.queue.max_size)
    rig.queue.restore(VirtqueueState.from_json(saved), rig.ram, rig.features)
    return rig.queue


def test_a_new_queue_is_restored_as_one(rig: QueueRig) -> None:
    rig.queue.reset()
    queue = moved(rig)
    assert not queue.is_enabled
    assert (queue.size, queue.desc, queue.driver, queue.device) == (8, 0, 0, 0)


def test_registers_of_a_queue_that_is_not_enabled_are_kept(rig: QueueRig) -> None:
    rig.queue.reset()
    rig.queue.size, rig.queue.desc = 4, (1 << 64) - 1
    queue = moved(rig)
    assert not queue.is_enabled
    assert (queue.size, queue.desc) == (4, (1 << 64) - 1)


def test_a_conversation_goes_on_wherever_it_was(rig: QueueRig) -> None:
    for at in range(30):
        rig.send(b"message %d" % at)
        assert rig.driver.needs_kick()
        moved(rig)
        assert rig.answer_all() == [b"message %d" % at]
        moved(rig)
        assert rig.queue.needs_interrupt()
        moved(rig)
        assert not rig.queue.needs_interrupt()
        assert len(rig.driver.collect()) == 1
        rig.driver.enable_interrupts()


def test_chains_in_flight_come_again_in_their_order(rig: QueueRig) -> None:
    requests = [rig.send(b"one"), rig.send(b"two"), rig.send(b"three")]
    rig.pop()
    rig.pop()
    moved(rig)
    assert rig.answer_all() == [b"one", b"two", b"three"]
    assert rig.driver.collect() == requests


def test_chains_in_flight_come_again_as_new(rig: QueueRig) -> None:
    rig.driver.send([b"head", b"data"], [4, 4])
    chain = rig.pop()
    chain.read(6)
    chain.write(b"answ")
    moved(rig)
    chain = rig.pop()
    assert texts(chain.readable) == [b"head", b"data"]
    assert (chain.written, chain.writable_size) == (0, 8)


def test_chains_that_were_put_back_come_again_as_they_were(rig: QueueRig) -> None:
    request = rig.driver.send([b"head", b"data"], [4, 4], indirect=True)
    chain = rig.pop()
    chain.read(6)
    chain.write(b"answ")
    rig.queue.put_back(chain)
    moved(rig)
    chain = rig.pop()
    assert texts(chain.readable) == [b"ta"]
    assert chain.readable_size == 2
    assert (chain.written, chain.writable_size) == (4, 4)
    chain.write(b"er")
    rig.queue.push(chain)
    rig.driver.collect()
    assert request.data == b"answer"


def test_chains_that_were_restored_are_saved_again(rig: QueueRig) -> None:
    rig.send(b"one")
    rig.send(b"two")
    rig.pop()
    moved(rig)
    moved(rig)
    rig.pop()
    assert moved(rig).state() == rig.queue.state()
    assert rig.answer_all() == [b"one", b"two"]


def test_chains_in_flight_come_again_whatever_the_ring_has_now(rig: QueueRig) -> None:
    """As of a packed ring, whose entries are used in another order than taken."""
    first, second = rig.send(b"first"), rig.send(b"second")
    rig.pop()
    rig.queue.push(rig.pop())
    moved(rig)
    assert rig.driver.collect() == [second]
    assert rig.answer_all() == [b"first"]
    assert rig.driver.collect() == [first]


def test_state_changes_nothing(rig: QueueRig) -> None:
    rig.send(b"one")
    rig.send(b"two")
    chain = rig.pop()
    before = bytes(rig.ram.view(0, 0x10000))
    assert rig.queue.state() == rig.queue.state()
    assert bytes(rig.ram.view(0, 0x10000)) == before
    assert chain.read(3) == b"one"


def test_a_broken_queue_stays_broken(rig: QueueRig) -> None:
    rig.driver.offer([(1 << 63, 1, False)])
    why = rig.broken()
    queue = moved(rig)
    assert queue.is_enabled
    assert queue.broken == why
    rig.send(b"hello")
    assert queue.pop() is None
    assert moved(rig).broken == why


def test_a_broken_queue_stands_behind_what_broke_it(rig: QueueRig) -> None:
    rig.converse(b"one", b"two")
    rig.driver.offer([(1 << 63, 1, False)])
    rig.broken()
    position = rig.queue.position()
    assert position[0] & 0x7FFF == (5 if rig.features & PACKED else 3)
    assert moved(rig).position() == position


def test_a_reason_of_any_length_can_be_saved() -> None:
    rig = QueueRig()
    rig.driver.offer([((1 << 64) - 1, 0xFFFFFFFF, True)])
    assert len(rig.broken()) <= 200
    moved(rig)


CHAIN = ChainState(head=0, slots=1, buffers=((0x1000, 4, False), (0x2000, 4, True)))


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": 16},
        {"size": 3},
        {"desc": 8},
        {"driver": 1 << 60},
        {"in_flight": (CHAIN, CHAIN)},
        {"in_flight": (CHAIN.replace(buffers=((1 << 60, 1, True),)),)},
        {"in_flight": (CHAIN.replace(buffers=((0, 1, True), (0, 1, False))),)},
        {"in_flight": (CHAIN.replace(was_read=5),)},
        {"in_flight": (CHAIN.replace(was_written=5),)},
    ],
)
def test_a_state_that_cannot_be_changes_nothing(change: dict[str, object]) -> None:
    rig = QueueRig()
    rig.send(b"here")
    chain = rig.pop()
    before = rig.queue.state()
    with pytest.raises(InvalidState):
        rig.queue.restore(before.replace(**change), PlainRam(0x10000), INDIRECT_DESC)
    assert rig.queue.state() == before
    assert chain.read(4) == b"here"


@pytest.mark.parametrize("slots", [0, 9, 32768])
def test_a_chain_in_flight_takes_no_more_than_the_ring_has(slots: int) -> None:
    state = QueueRig(PACKED).queue.state()
    with pytest.raises(InvalidState, match=r"slots|in flight"):
        state.replace(in_flight=(CHAIN.replace(slots=slots),))


@pytest.mark.parametrize(
    ("next_avail", "next_used"),
    [
        (8, 0),  # there is no such entry
        (0x8007, 8),
        (0, 1),  # used before it was available
        (0x8001, 0),  # more than a round ahead
        (0x7FFF, 0x7FFF),
    ],
)
def test_a_packed_ring_that_is_nowhere(next_avail: int, next_used: int) -> None:
    queue = QueueRig(PACKED | EVENT_IDX).queue
    start = next_avail, next_used
    with pytest.raises(BrokenRing, match="8 entries"):
        queue.enable(PlainRam(0x10000), PACKED, start)
    with pytest.raises(InvalidState):
        queue.restore(
            queue.state().replace(next_avail=next_avail, next_used=next_used),
            PlainRam(0x10000),
            PACKED,
        )


# Position: for who goes on without a state


def restarted(rig: QueueRig) -> None:
    start = rig.queue.position()
    rig.queue.reset()
    rig.queue.size = rig.driver.size
    rig.queue.desc, rig.queue.driver, rig.queue.device = rig.driver.areas
    rig.queue.enable(rig.ram, rig.features, start)


def test_a_queue_that_is_not_enabled_has_no_position() -> None:
    assert Virtqueue(0, 8).position() == (0, 0)


def test_a_queue_goes_on_from_its_position(rig: QueueRig) -> None:
    for at in range(20):
        rig.converse(b"message %d" % at)
        restarted(rig)


def test_chains_in_flight_are_taken_again_from_its_position(rig: QueueRig) -> None:
    for _ in range(5):
        requests = [rig.send(b"one"), rig.send(b"two"), rig.send(b"three")]
        rig.queue.push(rig.pop())
        rig.pop()
        rig.pop()
        restarted(rig)
        assert rig.answer_all() == [b"two", b"three"]
        assert rig.driver.collect() == requests


def test_chains_that_the_ring_may_have_lost_are_not_taken_again(
    rig: QueueRig,
) -> None:
    rig.send(b"one")
    rig.send(b"two")
    rig.pop()
    rig.queue.push(rig.pop())
    restarted(rig)
    assert rig.queue.pop() is None


def test_chains_that_the_driver_has_written_over_are_not_taken_again(
    rig: QueueRig,
) -> None:
    rig.send(b"one")
    rig.pop()
    ring = rig.driver.areas[0 if rig.features & PACKED else 1]
    state = rig.queue.state()
    for garbage in (bytes(range(100, 116)), b"\0" * 14 + b"\5\0"):
        rig.ram.write(ring, garbage)
        assert rig.queue.position() == (state.next_avail, state.next_used)
