"""What a driver may not do to a ring, and what is odd but allowed.

The numbers are of the cases in which other VMMs have gone wrong: loops, index errors,
writes out of bounds, and rings that were taken for broken and weren't.
"""

from contextlib import suppress
from struct import pack

import pytest
from support.plain_ram import PlainRam
from support.queue_rig import RAM_SIZE, RINGS, QueueRig, RamOfPieces, each_ring, texts
from support.virtio_driver import (
    EVENT_IDX,
    INDIRECT,
    INDIRECT_DESC,
    NEXT,
    PACKED,
    WRITE,
    PackedDriver,
    SplitDriver,
)

from vmm.devices.virtio.queue import TURN_MAX, BrokenRing, Virtqueue
from vmm.devices.virtio.ring import MOST_INDIRECT


@pytest.fixture(params=RINGS.values(), ids=list(RINGS))
def rig(request: pytest.FixtureRequest) -> QueueRig:
    return QueueRig(request.param)


@pytest.fixture
def split() -> tuple[QueueRig, SplitDriver]:
    rig = QueueRig(INDIRECT_DESC)
    assert isinstance(rig.driver, SplitDriver)
    return rig, rig.driver


@pytest.fixture
def packed() -> tuple[QueueRig, PackedDriver]:
    rig = QueueRig(INDIRECT_DESC | PACKED)
    assert isinstance(rig.driver, PackedDriver)
    return rig, rig.driver


# 1: the available index


@pytest.mark.parametrize("ahead", [9, 0x7FFF, 0x8000, 0xFFFF])
def test_case_1_available_index_beyond_the_ring(
    split: tuple[QueueRig, SplitDriver], ahead: int
) -> None:
    rig, driver = split
    driver.put_avail_idx(ahead)
    assert f"{ahead} ahead in a ring of 8" in rig.broken()


def test_case_1_available_index_that_goes_back(
    split: tuple[QueueRig, SplitDriver],
) -> None:
    rig, driver = split
    rig.converse(b"hello")
    driver.put_avail_idx(0)
    assert "65535 ahead" in rig.broken()


def test_case_1_a_full_ring_is_none(rig: QueueRig) -> None:
    requests = [rig.driver.send([b"%d" % at]) for at in range(8)]
    assert len(rig.answer_all()) == 8
    assert rig.driver.collect() == requests


# 2, 3: descriptors that lead nowhere


@pytest.mark.parametrize("head", [8, 0xFFFF])
def test_case_2_head_beyond_the_table(
    split: tuple[QueueRig, SplitDriver], head: int
) -> None:
    rig, driver = split
    driver.put_available(head)
    assert f"descriptor {head} in a table of 8" in rig.broken()


def test_case_2_next_beyond_the_table(split: tuple[QueueRig, SplitDriver]) -> None:
    rig, driver = split
    driver.put_descriptor(0, 0x1000, 1, NEXT, 8)
    driver.put_available(0)
    assert "descriptor 8 in a table of 8" in rig.broken()


@pytest.mark.parametrize("cycle", [[0], [0, 1], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_case_3_next_makes_a_cycle(
    split: tuple[QueueRig, SplitDriver], cycle: list[int]
) -> None:
    rig, driver = split
    for at, following in zip(cycle, [*cycle[1:], *cycle], strict=False):
        driver.put_descriptor(at, 0x1000, 1, NEXT, following)
    driver.put_available(0)
    assert "a chain of more than 8 descriptors" in rig.broken()


def test_case_3_cycle_in_an_indirect_table(
    split: tuple[QueueRig, SplitDriver],
) -> None:
    rig, driver = split
    table = driver.allocate(pack("<QIHHQIHH", 0x1000, 1, NEXT, 1, 0x1000, 1, NEXT, 0))
    driver.put_descriptor(0, table, 32, INDIRECT, 0)
    driver.put_available(0)
    assert "a chain of more than 1024 descriptors" in rig.broken()


def test_case_3_a_packed_chain_without_an_end(
    packed: tuple[QueueRig, PackedDriver],
) -> None:
    rig, driver = packed
    driver.put_chain([(0x1000, 1, 0, NEXT)] * 8)
    assert "a chain of more than 8 descriptors" in rig.broken()


def test_case_3_next_in_a_packed_indirect_table(
    packed: tuple[QueueRig, PackedDriver],
) -> None:
    rig, driver = packed
    table = driver.allocate(bytes(14) + b"\1\0")
    driver.put_chain([(table, 16, 0, INDIRECT)])
    assert "entries refer to others" in rig.broken()


def test_case_3_a_chain_of_the_whole_ring_is_none(rig: QueueRig) -> None:
    request = rig.driver.send([b"x"] * 8)
    assert rig.answer_all() == [b"x" * 8]
    assert rig.driver.collect() == [request]


# 4 to 7: where buffers are


@each_ring
@pytest.mark.parametrize("last", [1 << 24, (1 << 24) + 1])
def test_case_4_chain_of_4_gib(features: int, last: int) -> None:
    rig = QueueRig(features, 256, PlainRam((1 << 24) + 1))
    rig.driver.offer([(0, 1 << 24, False)] * 255 + [(0, last, True)])
    assert "a chain has 0x10000000" in rig.broken()


@each_ring
def test_case_4_chain_just_short_of_4_gib(features: int) -> None:
    rig = QueueRig(features, 256, PlainRam(1 << 24))
    rig.driver.offer([(0, 1 << 24, False)] * 255 + [(0, (1 << 24) - 1, True)])
    assert rig.pop().readable_size == 255 << 24


@pytest.mark.parametrize(
    ("addr", "size"),
    [
        (RAM_SIZE, 1),
        (RAM_SIZE - 1, 2),
        (0, 0xFFFFFFFF),
        (1 << 63, 16),
        ((1 << 64) - 1, 1),
        ((1 << 64) - 8, 16),
        ((1 << 64) - 8, 0xFFFFFFFF),
    ],
)
@pytest.mark.parametrize("is_writable", [False, True])
def test_case_5_buffer_that_is_not_in_ram(
    rig: QueueRig, addr: int, size: int, is_writable: bool
) -> None:
    rig.driver.offer([(addr, size, is_writable)])
    assert "is not in RAM" in rig.broken()


@each_ring
def test_case_5_buffer_over_a_hole(features: int) -> None:
    ram = RamOfPieces(range(0x8000), range(0x9000, RAM_SIZE))
    rig = QueueRig(features, ram=ram)
    rig.driver.offer([(0x7000, 0x3000, False)])
    assert "is not in RAM" in rig.broken()


def test_case_6_buffer_that_ends_with_ram(rig: QueueRig) -> None:
    rig.ram.write(RAM_SIZE - 4, b"last")
    rig.driver.offer([(RAM_SIZE - 4, 4, False)])
    assert rig.pop().read(10) == b"last"


@each_ring
def test_case_6_buffer_over_several_slots(features: int) -> None:
    ram = RamOfPieces(
        range(0x4000),
        range(0x4000, 0x5000),
        range(0x5000, 0x6000),
        range(0x6000, RAM_SIZE),
    )
    ram.write(0x3FFE, b"ab")
    ram.write(0x4000, b"c" * 0x1000)
    ram.write(0x5000, b"de")
    rig = QueueRig(features, ram=ram)
    rig.driver.offer([(0x3FFE, 0x1004, False), (0x5FFF, 2, True)])
    chain = rig.pop()
    assert texts(chain.readable) == [b"ab", b"c" * 0x1000, b"de"]
    assert chain.readable_size == 0x1004
    assert chain.write(b"xyz") == 2
    assert (ram.read(0x5FFF, 1), ram.read(0x6000, 1)) == (b"x", b"y")


def test_case_7_buffers_without_a_byte(rig: QueueRig) -> None:
    buffers = [(0, 0, False), (1 << 63, 0, False), (0, 0, True), (1 << 63, 0, True)]
    request = rig.driver.offer(buffers)
    chain = rig.pop()
    assert (chain.readable, chain.writable) == ([], [])
    rig.queue.push(chain)
    assert rig.driver.collect() == [request]


# 8, 9: indirect tables


def offer_table(rig: QueueRig, addr: int, size: int, flags: int = 0) -> None:
    if isinstance(rig.driver, SplitDriver):
        rig.driver.put_descriptor(0, addr, size, INDIRECT | flags, 1)
        rig.driver.put_descriptor(1, addr, 1, 0, 0)
        rig.driver.put_available(0)
    elif isinstance(rig.driver, PackedDriver):
        chain = [(addr, size, 0, INDIRECT | flags), (addr, 1, 0, 0)]
        rig.driver.put_chain(chain if flags & NEXT else chain[:1])


@pytest.mark.parametrize("size", [0, 1, 15, 24, 16 * 1025, 0xFFFFFFF0, 0xFFFFFFFF])
def test_case_8_indirect_table_of_a_size_that_none_has(
    rig: QueueRig, size: int
) -> None:
    offer_table(rig, 0x1000, size)
    assert f"an indirect table has {size} bytes" in rig.broken()


@pytest.mark.parametrize("addr", [RAM_SIZE, RAM_SIZE - 16, (1 << 64) - 16])
def test_case_8_indirect_table_that_is_not_in_ram(rig: QueueRig, addr: int) -> None:
    offer_table(rig, addr, 32)
    assert f"an indirect table at {addr:#x} isn't in RAM" in rig.broken()


def test_case_8_indirect_table_in_an_indirect_table(rig: QueueRig) -> None:
    inner = rig.driver.allocate(bytes(16))
    fields = (0, INDIRECT) if isinstance(rig.driver, PackedDriver) else (INDIRECT, 0)
    outer = rig.driver.allocate(pack("<QIHH", inner, 16, *fields))
    offer_table(rig, outer, 16)
    why = rig.broken()
    assert "in an indirect table" in why or "entries refer to others" in why


def test_case_8_indirect_descriptor_with_a_next_one(rig: QueueRig) -> None:
    offer_table(rig, rig.driver.allocate(bytes(16)), 16, NEXT)
    assert "an indirect descriptor that" in rig.broken()


def test_case_8_packed_indirect_descriptor_at_the_end_of_a_chain(
    packed: tuple[QueueRig, PackedDriver],
) -> None:
    rig, driver = packed
    driver.put_chain([(0x1000, 1, 0, NEXT), (0x1000, 16, 0, INDIRECT)])
    assert "one of several" in rig.broken()


def test_case_8_next_out_of_an_indirect_table(
    split: tuple[QueueRig, SplitDriver],
) -> None:
    rig, driver = split
    table = driver.allocate(bytes(8) + b"\1\0\0\0" + b"\1\0" + b"\1\0")
    offer_table(rig, table, 16)
    assert "descriptor 1 in a table of 1" in rig.broken()


def test_case_8_ordinary_descriptors_may_come_before_an_indirect_one(
    split: tuple[QueueRig, SplitDriver],
) -> None:
    rig, driver = split
    data = driver.allocate(b"direct, and indirect")
    entry = data.to_bytes(8, "little")
    table = driver.allocate(entry + b"\x08\0\0\0" + bytes(4))
    driver.put_descriptor(3, data + 12, 8, NEXT, 5)
    # Of an indirect descriptor's flags, WRITE is ignored.
    driver.put_descriptor(5, table, 16, INDIRECT | WRITE, 0)
    driver.put_available(3)
    assert rig.pop().read(100) == b"indirectdirect, "


def test_case_8_more_before_and_in_an_indirect_table_than_a_chain_may_have(
    split: tuple[QueueRig, SplitDriver],
) -> None:
    rig, driver = split
    flags = [NEXT] * 1023 + [0]
    entries = (pack("<QIHH", 0, 1, flags[at], at + 1) for at in range(1024))
    table = driver.allocate(b"".join(entries))
    driver.put_descriptor(0, 0x1000, 1, NEXT, 1)
    driver.put_descriptor(1, table, 16 * 1024, INDIRECT, 0)
    driver.put_available(0)
    assert "a chain of more than 1024 descriptors" in rig.broken()


def test_case_8_an_indirect_table_needs_no_alignment(rig: QueueRig) -> None:
    driver = rig.driver
    data = driver.allocate(b"data")
    driver.allocate(b"x")
    table = driver.allocate(data.to_bytes(8, "little") + b"\4\0\0\0" + bytes(4))
    assert table % 16
    offer_table(rig, table, 16)
    assert rig.pop().read(4) == b"data"


@pytest.mark.parametrize("features", [0, PACKED, EVENT_IDX, EVENT_IDX | PACKED])
def test_case_9_indirect_that_was_not_negotiated(features: int) -> None:
    rig = QueueRig(features)
    rig.send(b"hello", indirect=True)
    assert "wasn't negotiated" in rig.broken()


# 10 to 13: what chains are like


@pytest.mark.parametrize("indirect", [False, True])
def test_case_10_readable_after_writable(rig: QueueRig, indirect: bool) -> None:
    at = rig.driver.allocate(b"precious")
    buffers = [(at, 4, True), (at + 4, 4, False)]
    rig.driver.offer(buffers, indirect)
    assert "a buffer to read comes after one to write" in rig.broken()
    assert rig.ram.read(at, 8) == b"precious"


def test_case_10_an_empty_readable_after_writable_is_no_better(rig: QueueRig) -> None:
    rig.driver.offer([(0x1000, 4, True), (0x1000, 0, False)])
    assert "a buffer to read" in rig.broken()


def test_case_11_head_that_is_in_flight_already(
    split: tuple[QueueRig, SplitDriver],
) -> None:
    rig, driver = split
    driver.put_descriptor(0, 0x1000, 4, WRITE, 0)
    driver.put_available(0)
    driver.put_available(0)
    chain = rig.pop()
    assert "chain 0 is made available twice" in rig.broken()
    rig.queue.push(chain)
    assert driver.used_word(1) == 0


def test_case_11_buffer_id_that_is_in_flight_already(
    packed: tuple[QueueRig, PackedDriver],
) -> None:
    rig, driver = packed
    driver.put_chain([(0x1000, 4, 7, WRITE)])
    driver.put_chain([(0x1000, 4, 7, WRITE)])
    rig.pop()
    assert "chain 7 is made available twice" in rig.broken()


def test_case_11_a_head_may_come_back_at_once_when_it_is_used(
    split: tuple[QueueRig, SplitDriver],
) -> None:
    rig, driver = split
    driver.put_descriptor(0, 0x1000, 4, WRITE, 0)
    for _ in range(100):
        driver.put_available(0)
        rig.queue.push(rig.pop())


def test_case_12_no_room_for_an_answer(rig: QueueRig) -> None:
    request = rig.driver.send([b"data"])
    before = rig.ram.read(*request.buffers[0][:2])
    chain = rig.pop()
    assert chain.write(b"status") == 0
    rig.queue.push(chain, 1)
    assert rig.driver.collect() == [request]
    assert request.length == 0
    assert rig.ram.read(*request.buffers[0][:2]) == before


def test_case_12_a_device_that_claims_too_much_is_corrected(rig: QueueRig) -> None:
    request = rig.driver.send([], [4])
    rig.queue.push(rig.pop(), 1000)
    rig.driver.collect()
    assert request.length == 4


@pytest.mark.parametrize("indirect", [False, True])
def test_case_13_header_in_sixteen_pieces(indirect: bool) -> None:
    for features in RINGS.values():
        rig = QueueRig(features, 32)
        header = bytes(range(16))
        pieces = [header[at : at + 1] for at in range(16)]
        rig.driver.send([*pieces, b"data"], [1] * 4, indirect=indirect)
        chain = rig.pop()
        assert chain.read(16) == header
        assert chain.read(4) == b"data"
        assert chain.write(b"ok") == 2


def test_case_13_header_in_one_with_the_data(rig: QueueRig) -> None:
    rig.driver.send([bytes(range(16)) + b"data"], [4])
    chain = rig.pop()
    assert chain.read(16) == bytes(range(16))
    assert texts(chain.readable) == [b"data"]


# 14 to 16: how a queue is set up


def refused(queue: Virtqueue, features: int = 0) -> str:
    with pytest.raises(BrokenRing) as caught:
        queue.enable(PlainRam(RAM_SIZE), features)
    assert not queue.is_enabled
    assert queue.pop() is None
    return str(caught.value)


def new_queue(size: int, *areas: int, most: int = 8) -> Virtqueue:
    queue = Virtqueue(3, most)
    queue.size = size
    queue.desc, queue.driver, queue.device = areas
    return queue


@pytest.mark.parametrize(
    ("features", "areas", "what"),
    [
        (0, (0x1008, 0x2000, 0x3000), "descriptor table at 0x1008 isn't aligned to 16"),
        (0, (0x1000, 0x2001, 0x3000), "available ring at 0x2001 isn't aligned to 2"),
        (0, (0x1000, 0x2000, 0x3002), "used ring at 0x3002 isn't aligned to 4"),
        (PACKED, (0x1008, 0x2000, 0x3000), "descriptor ring at 0x1008 isn't aligned"),
        (PACKED, (0x1000, 0x2002, 0x3000), "driver area at 0x2002 isn't aligned to 4"),
        (PACKED, (0x1000, 0x2000, 0x3002), "device area at 0x3002 isn't aligned to 4"),
        (0, (RAM_SIZE - 112, 0x2000, 0x3000), "descriptor table, 128 bytes at 0xff90"),
        (0, (0x1000, RAM_SIZE - 20, 0x3000), "available ring, 22 bytes at 0xffec"),
        (0, (0x1000, 0x2000, RAM_SIZE - 68), "used ring, 70 bytes at 0xffbc"),
        (0, ((1 << 64) - 128, 0x2000, 0x3000), "isn't in one piece of RAM"),
        (PACKED, (RAM_SIZE, 0x2000, 0x3000), "isn't in one piece of RAM"),
        (PACKED, (0x1000, RAM_SIZE, 0x3000), "isn't in one piece of RAM"),
        (PACKED, (0x1000, 0x2000, (1 << 64) - 4), "isn't in one piece of RAM"),
    ],
)
def test_case_14_rings_that_cannot_be(
    features: int, areas: tuple[int, int, int], what: str
) -> None:
    why = refused(new_queue(8, *areas), features)
    assert why.startswith("queue 3: ")
    assert what in why


def test_case_14_a_ring_over_two_slots() -> None:
    queue = new_queue(8, 0x7FC0, 0x2000, 0x3000)
    with pytest.raises(BrokenRing, match="isn't in one piece of RAM"):
        queue.enable(RamOfPieces(range(0x8000), range(0x8000, RAM_SIZE)), 0)


@each_ring
def test_case_15_rings_over_each_other(features: int) -> None:
    queue = new_queue(8, 0, 0, 0)
    ram = PlainRam(RAM_SIZE)
    queue.enable(ram, features)
    for at in range(256):
        ram.write(2, bytes((at & 7, 0)))
        try:
            for chain in queue:
                chain.write(b"garbage")
                queue.push(chain)
        except BrokenRing:
            queue.reset()
            queue.enable(ram, features)
        queue.needs_interrupt()


def test_case_15_buffers_over_the_ring(rig: QueueRig) -> None:
    for area in rig.driver.areas:
        rig.driver.offer([(area, 16, True)])
    with suppress(BrokenRing):
        for chain in rig.queue:
            chain.write(b"\xff" * 16)
            rig.queue.push(chain)
    assert rig.queue.is_enabled


@pytest.mark.parametrize("size", [0, 3, 6, 7, 16, 65535])
def test_case_16_size_that_a_split_ring_cannot_have(size: int) -> None:
    assert f"a {'split ' * (size in (3, 6, 7))}ring of {size} entries" in refused(
        new_queue(size, 0x1000, 0x2000, 0x3000)
    )


@pytest.mark.parametrize("size", [0, 9, 65535])
def test_case_16_size_that_a_packed_ring_cannot_have(size: int) -> None:
    queue = new_queue(size, 0x1000, 0x2000, 0x3000)
    assert f"a ring of {size} entries" in refused(queue, PACKED)


@each_ring
def test_case_16_the_largest_ring(features: int) -> None:
    rig = QueueRig(features, 32768, PlainRam(1 << 20), range(1 << 20))
    for _ in range(2):
        requests = [rig.driver.offer([(0, 1, False)]) for _ in range(32768)]
        assert len(rig.answer_all()) == 32768
        assert rig.driver.collect() == requests


# 20, 24, 66, and what a reset leaves


def test_case_20_kicks_without_buffers(rig: QueueRig) -> None:
    for _ in range(100):
        assert list(rig.queue) == []
        assert not rig.queue.more
        assert not rig.queue.needs_interrupt()


def test_case_20_a_driver_that_refills_for_ever_gets_its_share(rig: QueueRig) -> None:
    rig.send()
    for served, chain in enumerate(rig.queue):
        assert served < 8
        rig.queue.push(chain)
        rig.driver.collect()
        rig.send()
    assert rig.queue.more
    assert rig.answer_all() == [b""]
    assert not rig.queue.more


@each_ring
def test_case_20_chains_of_very_many_buffers_leave_others_their_turn(
    features: int,
) -> None:
    rig = QueueRig(features, size=16, ram=PlainRam(1 << 20), region=range(1 << 20))
    chains = [[(0, 1, False)] * MOST_INDIRECT] * 16
    requests = [rig.driver.offer(chain, indirect=True) for chain in chains]
    turns = 0
    while not all(request.is_done for request in requests):
        taken = rig.answer_all()
        assert sum(map(len, taken)) == TURN_MAX
        rig.driver.collect()
        turns += 1
    assert turns == 16 * MOST_INDIRECT // TURN_MAX
    assert rig.queue.more


def test_case_24_a_reset_queue_is_new(rig: QueueRig) -> None:
    rig.converse(b"one", b"two", b"three")
    rig.send(b"unseen")
    rig.queue.reset()
    assert not rig.queue.is_enabled
    assert rig.queue.pop() is None
    assert (rig.queue.size, rig.queue.desc, rig.queue.driver) == (8, 0, 0)
    rig.start(4)
    rig.converse(*(b"message %d" % at for at in range(20)))


def test_case_24_a_broken_queue_is_new_after_a_reset(rig: QueueRig) -> None:
    rig.driver.offer([(1 << 63, 1, False)])
    rig.broken()
    rig.queue.reset()
    assert not rig.queue.broken
    rig.start(8)
    rig.converse(b"hello")


def test_case_23_a_chain_of_a_former_life_is_cut_off(rig: QueueRig) -> None:
    rig.driver.send([b"data"], [8])
    old = rig.pop()
    rig.queue.reset()
    rig.start(8)
    request = rig.driver.send([b"more"], [8])
    new = rig.pop()
    before = bytes(rig.ram.view(0, RAM_SIZE))
    assert old.read(4) == b""
    assert old.write(b"late") == 0
    rig.queue.push(old)
    rig.queue.put_back(old)
    assert bytes(rig.ram.view(0, RAM_SIZE)) == before
    assert rig.queue.pop() is None
    rig.queue.push(new)
    assert rig.driver.collect() == [request]


def test_a_broken_queue_touches_no_ring(rig: QueueRig) -> None:
    rig.send(b"first")
    rig.driver.offer([(1 << 63, 1, False)])
    chain = rig.pop()
    with pytest.raises(BrokenRing):
        rig.queue.pop()
    before = bytes(rig.ram.view(0, RAM_SIZE))
    chain.write(b"late")
    rig.queue.push(chain)
    assert list(rig.queue) == []
    assert bytes(rig.ram.view(0, RAM_SIZE)) == before


def test_a_ring_that_breaks_while_it_is_drained_is_not_touched_again(
    rig: QueueRig,
) -> None:
    rig.send(b"first")
    rig.driver.offer([(1 << 63, 1, False)])
    chains = iter(rig.queue)
    assert next(chains).read(5) == b"first"
    before = bytes(rig.ram.view(0, RAM_SIZE))
    with pytest.raises(BrokenRing):
        next(chains)
    assert bytes(rig.ram.view(0, RAM_SIZE)) == before
    assert not rig.queue.more


def test_case_66_more_in_flight_than_a_packed_ring_has(
    packed: tuple[QueueRig, PackedDriver],
) -> None:
    rig, driver = packed
    for head in range(8):
        driver.put_chain([(0x1000, 1, head, 0)])
        rig.pop()
    driver.put_chain([(0x1000, 1, 8, 0)])
    assert "more is in flight than the ring has" in rig.broken()


def test_case_66_more_in_flight_than_a_split_ring_has(
    split: tuple[QueueRig, SplitDriver],
) -> None:
    rig, driver = split
    for at in range(8):
        driver.put_descriptor(at, 0x1000, 1, 0, 0)
        driver.put_available(at)
        rig.pop()
    driver.put_available(0)
    assert "twice" in rig.broken()


def test_used_event_that_no_driver_sets_raises_nothing(rig: QueueRig) -> None:
    for event in range(0, 1 << 16, 257):
        for flags in range(4):
            if isinstance(rig.driver, SplitDriver):
                rig.driver.put_avail_word(0, flags)
                rig.driver.put_avail_word(2 + rig.driver.size, event)
            else:
                rig.ram.write(rig.driver.areas[1], event.to_bytes(2, "little"))
                rig.ram.write(rig.driver.areas[1] + 2, bytes((flags, 0)))
            rig.converse(b"hello")
            rig.queue.needs_interrupt()
