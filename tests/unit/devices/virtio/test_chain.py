"""Chain: scatter lists, and the cursors of who doesn't care where buffers end."""

import os
import tempfile

import pytest
from support.queue_rig import RINGS, QueueRig, texts


@pytest.fixture(params=RINGS.values(), ids=list(RINGS))
def rig(request: pytest.FixtureRequest) -> QueueRig:
    return QueueRig(request.param)


def test_buffers_are_views_of_guest_memory_in_their_order(rig: QueueRig) -> None:
    rig.driver.send([b"one", b"three"], [2, 4])
    chain = rig.pop()
    assert texts(chain.readable) == [b"one", b"three"]
    assert texts(chain.writable) == [b"\xee" * 2, b"\xee" * 4]
    assert (chain.readable_size, chain.writable_size) == (8, 6)


def test_an_indirect_table_makes_the_same_chain(rig: QueueRig) -> None:
    rig.driver.send([b"one", b"three"], [2, 4], indirect=True)
    chain = rig.pop()
    assert texts(chain.readable) == [b"one", b"three"]
    assert (chain.readable_size, chain.writable_size) == (8, 6)


def test_an_indirect_table_may_be_longer_than_the_queue(rig: QueueRig) -> None:
    parts = [bytes((at,)) for at in range(100)]
    rig.driver.send(parts, [1], indirect=True)
    assert rig.pop().read(200) == b"".join(parts)


def test_read_takes_from_the_front_and_leaves_the_rest(rig: QueueRig) -> None:
    rig.driver.send([b"header", b"data"])
    chain = rig.pop()
    assert chain.read(3) == b"hea"
    assert texts(chain.readable) == [b"der", b"data"]
    assert chain.read(4) == b"derd"
    assert chain.readable_size == 3
    assert chain.read(100) == b"ata"
    assert chain.read(1) == b""
    assert chain.readable == []


def test_read_of_a_whole_buffer_leaves_nothing_of_it(rig: QueueRig) -> None:
    rig.driver.send([b"header", b"data"])
    chain = rig.pop()
    assert chain.read(6) == b"header"
    assert texts(chain.readable) == [b"data"]


def test_read_of_nothing_reads_nothing(rig: QueueRig) -> None:
    rig.driver.send([b"data"])
    chain = rig.pop()
    assert chain.read(0) == b""
    assert texts(chain.readable) == [b"data"]


def test_write_goes_on_where_the_last_one_ended(rig: QueueRig) -> None:
    request = rig.driver.send([], [3, 4])
    chain = rig.pop()
    assert chain.write(b"ab") == 2
    assert chain.write(bytearray(b"cde")) == 3
    assert (chain.written, chain.writable_size) == (5, 2)
    rig.queue.push(chain)
    rig.driver.collect()
    assert request.data == b"abcde"


def test_write_tells_how_much_there_was_room_for(rig: QueueRig) -> None:
    request = rig.driver.send([], [3, 4])
    chain = rig.pop()
    assert chain.write(b"0123456789") == 7
    assert chain.write(b"more") == 0
    rig.queue.push(chain)
    rig.driver.collect()
    assert request.data == b"0123456"


def test_write_takes_views_of_any_items(rig: QueueRig) -> None:
    request = rig.driver.send([], [8])
    chain = rig.pop()
    assert chain.write(memoryview(b"\1\0\0\0\2\0\0\0").cast("I")) == 8
    rig.queue.push(chain)
    rig.driver.collect()
    assert request.data == b"\1\0\0\0\2\0\0\0"


def test_lists_are_what_preadv_and_pwritev_take(rig: QueueRig) -> None:
    request = rig.driver.send([b"head", b"to ", b"the disk"], [4, 100])
    chain = rig.pop()
    chain.read(4)
    with tempfile.TemporaryFile() as file:
        assert os.pwritev(file.fileno(), chain.readable, 0) == 11
        done = os.preadv(file.fileno(), chain.writable, 0)
    chain.wrote(done)
    chain.write(b"!")
    rig.queue.push(chain)
    rig.driver.collect()
    assert request.data == b"to the disk!"


def test_wrote_counts_no_more_than_there_was_room_for(rig: QueueRig) -> None:
    rig.driver.send([], [4])
    chain = rig.pop()
    chain.wrote(100)
    assert (chain.written, chain.writable_size) == (4, 0)


def test_a_chain_that_is_pushed_has_nothing_any_more(rig: QueueRig) -> None:
    rig.driver.send([b"data"], [4])
    chain = rig.pop()
    rig.queue.push(chain)
    assert (chain.readable, chain.writable) == ([], [])
    assert (chain.read(4), chain.write(b"data")) == (b"", 0)
