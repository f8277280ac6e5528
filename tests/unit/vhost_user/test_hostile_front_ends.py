"""A front end that breaks the rules loses its connection, with a line that says why."""

import gc
import os
import select
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.open_fds import open_fds
from support.vhost_front_end import BIT_30, USER_ADDR, VERSION_1, FrontEnd
from support.virtio_driver import EVENT_IDX

from vmm.devices.virtio.device import VirtioDevice
from vmm.devices.virtio.queue import Virtqueue
from vmm.vhost_user import protocol
from vmm.vhost_user.server import Server

U64 = protocol.U64.pack
STATE = protocol.VRING_STATE.pack
ADDR = protocol.VRING_ADDR.pack


class Quiet(VirtioDevice):
    """One that gives all back as it is, and can't do without bit 0."""

    device_type = 42
    queue_sizes = (64, 64)
    features = 0b11

    def accepts(self, features: int) -> bool:
        return features & 0b11 != 0b10

    def config(self) -> bytes:
        return bytes(8)

    def handle(self, queue: Virtqueue) -> None:
        for chain in queue:
            queue.push(chain)


class Rig:
    """A server that takes one front end after another, and what it has told."""

    def __init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("")
        self.listener.listen()
        self.told: list[str] = []
        self.server = Server(Quiet(), self.listener.dup(), self.told.append)
        self.server.start()
        self.front_end = self.connect()

    def connect(self) -> FrontEnd:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.listener.getsockname())
        return FrontEnd(client)

    def close(self) -> None:
        self.front_end.close()
        self.server.close()
        self.listener.close()

    def refused(self) -> str:
        """Why the connection has ended; and that another one works."""
        assert self.front_end.is_over()
        self.front_end.close()
        self.front_end = self.connect()
        self.front_end.begin()
        (told,) = self.told
        why = told.removeprefix("the front end breaks the rules of vhost-user: ")
        assert why != told
        assert "\n" not in why
        return why


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def front_end(rig: Rig) -> FrontEnd:
    rig.front_end.begin()
    rig.front_end.set_up()
    return rig.front_end


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pack("=III", 1, 0, 0), "flags 0x0 are of no version that we know"),
        (pack("=III", 1, 2, 0), "flags 0x2 are of no version that we know"),
        (pack("=III", 1, 1, 4096), "request 1 has 4096 bytes: too many"),
        (pack("=III", 1, 1, 0xFFFFFFFF), "request 1 has 4294967295 bytes: too many"),
        (pack("=III", 0, 1, 0), "request 0: we don't offer that"),
        (pack("=III", 36, 1, 0), "request 36: we don't offer that"),
        (pack("=III", 0xFFFFFFFF, 1, 0), "request 4294967295: we don't offer that"),
        (pack("=III", 2, 1, 4) + bytes(4), "SET_FEATURES: 4 bytes, not 8"),
        (pack("=III", 2, 1, 0), "SET_FEATURES: 0 bytes, not 8"),
        (pack("=III", 9, 1, 8) + bytes(8), "SET_VRING_ADDR: 8 bytes, not 40"),
    ],
)
def test_messages_that_are_none(rig: Rig, data: bytes, why: str) -> None:
    rig.front_end.send_raw(data)
    assert rig.refused() == why


def test_a_connection_that_ends_within_a_message(rig: Rig) -> None:
    rig.front_end.send_raw(pack("=III", 2, 1, 8) + b"some")
    rig.front_end.socket.shutdown(socket.SHUT_WR)
    assert rig.refused() == "the connection ends within a message"


def test_a_message_in_single_bytes_is_one(rig: Rig) -> None:
    for byte in pack("=III", protocol.GET_QUEUE_NUM, 1, 0):
        rig.front_end.send_raw(bytes((byte,)))
    assert rig.front_end.receive()[2] == U64(2)


@pytest.mark.parametrize(
    ("request_id", "payload", "why"),
    [
        (protocol.SET_FEATURES, U64(VERSION_1 | 4), "SET_FEATURES: 0x4 isn't offered"),
        (protocol.SET_FEATURES, U64(BIT_30), "SET_FEATURES: without VERSION_1"),
        (protocol.SET_FEATURES, U64(VERSION_1 | 2), "can't work with 0x100000002"),
        (protocol.SET_PROTOCOL_FEATURES, U64(2), "0x2 isn't offered"),
        (protocol.SET_VRING_NUM, STATE(2, 8), "SET_VRING_NUM: ring 2 of 2"),
        (protocol.SET_VRING_BASE, STATE(0xFFFFFFFF, 8), "ring 4294967295 of 2"),
        (protocol.SET_VRING_ADDR, ADDR(2, 0, 0, 0, 0, 0), "ring 2 of 2"),
        (protocol.GET_VRING_BASE, STATE(2, 8), "ring 2 of 2"),
        (protocol.SET_VRING_ENABLE, STATE(2, 1), "ring 2 of 2"),
        (protocol.SET_VRING_KICK, U64(2), "ring 2 of 2"),
        (protocol.SET_VRING_KICK, U64(0), "SET_VRING_KICK: 0 descriptors, not 1"),
        (protocol.SET_VRING_CALL, U64(0), "SET_VRING_CALL: 0 descriptors, not 1"),
        (protocol.SET_VRING_ERR, U64(0), "SET_VRING_ERR: 0 descriptors, not 1"),
        (protocol.SET_VRING_KICK, U64(256), "without a descriptor: we don't poll"),
        (protocol.SET_BACKEND_REQ_FD, b"", "0 descriptors, not 1"),
        (protocol.GET_CONFIG, b"", "GET_CONFIG: 0 bytes"),
        (protocol.GET_CONFIG, pack("=III", 0, 8, 0), "8 bytes in a message of 12"),
        (protocol.GET_CONFIG, pack("=III8x", 250, 8, 0), "beyond any end"),
        (protocol.GET_CONFIG, pack("=III8x", 0xFFFFFFFF, 8, 0), "beyond any end"),
        (protocol.SET_CONFIG, pack("=III8x", 1, 8, 0), "8 bytes at 1 are beyond its"),
        (protocol.SET_MEM_TABLE, b"", "SET_MEM_TABLE: 0 regions, 0 descriptors"),
        (protocol.SET_MEM_TABLE, pack("=II", 9, 0), "9 regions, 0 descriptors"),
        (protocol.SET_MEM_TABLE, pack("=II", 1, 0), "1 regions, 0 descriptors"),
    ],
)
def test_requests_that_no_front_end_may_make(
    rig: Rig, request_id: int, payload: bytes, why: str
) -> None:
    rig.front_end.begin()
    rig.front_end.send(request_id, payload)
    assert why in rig.refused()


@pytest.mark.parametrize(
    ("region", "why"),
    [
        ((0, 1 << 21, USER_ADDR, 0), "0x200000 bytes at offset 0x0 can't be mapped"),
        ((0, 1 << 20, USER_ADDR, 1), "0x100000 bytes at offset 0x1 can't be mapped"),
        ((0, 1 << 63, USER_ADDR, 0), "can't be mapped"),
        ((0, (1 << 64) - 1, USER_ADDR, 0), "can't be mapped"),
        ((0, 4096, USER_ADDR, (1 << 64) - 4096), "can't be mapped"),
        ((0, 0, USER_ADDR, 0), "SET_MEM_TABLE: a region of 0 bytes"),
    ],
)
def test_regions_that_are_not_there(
    rig: Rig, front_end: FrontEnd, region: tuple[int, int, int, int], why: str
) -> None:
    payload = pack("=II", 1, 0) + protocol.REGION.pack(*region)
    front_end.send(protocol.SET_MEM_TABLE, payload, [front_end.ram.fd])
    assert why in rig.refused()


def test_a_region_of_something_that_is_no_memory(rig: Rig, front_end: FrontEnd) -> None:
    reader, writer = os.pipe()
    payload = pack("=II", 1, 0) + front_end.ram.region()
    front_end.send(protocol.SET_MEM_TABLE, payload, [reader])
    assert "can't be mapped" in rig.refused()
    os.close(reader)
    os.close(writer)


def test_more_regions_than_its_message_has(rig: Rig, front_end: FrontEnd) -> None:
    front_end.send(protocol.SET_MEM_TABLE, pack("=II", 1, 0), [front_end.ram.fd])
    assert "1 regions in 8 bytes" in rig.refused()


def test_more_descriptors_than_a_message_may_have(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.send(protocol.GET_FEATURES, b"", [front_end.ram.fd] * 9)
    assert rig.refused() == "more than 8 descriptors"


def test_more_descriptors_than_a_message_may_have_in_pieces(
    rig: Rig, front_end: FrontEnd
) -> None:
    data = pack("=III", protocol.GET_FEATURES, 1, 0)
    front_end.send_raw(data[:6], [front_end.ram.fd] * 8)
    front_end.send_raw(data[6:], [front_end.ram.fd])
    assert rig.refused() == "more than 8 descriptors"


def test_descriptors_that_nobody_asked_for_are_closed(front_end: FrontEnd) -> None:
    front_end.ask_u64(protocol.GET_FEATURES)  # what came before it is done with
    before = open_fds()
    for _ in range(20):
        front_end.send(protocol.GET_FEATURES, b"", [front_end.ram.fd] * 8)
        front_end.receive()
    front_end.ask_u64(protocol.GET_FEATURES)
    assert open_fds() == before


@pytest.mark.parametrize("what", ["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"])
def test_a_file_for_an_eventfd(rig: Rig, front_end: FrontEnd, what: str) -> None:
    with tempfile.TemporaryFile() as file:
        front_end.send(getattr(protocol, what), U64(0), [file.fileno()])
        assert rig.refused() == f"{what}: a file instead of an eventfd"


@pytest.mark.parametrize("what", ["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"])
def test_a_descriptor_that_can_do_nothing_for_an_eventfd(
    rig: Rig, front_end: FrontEnd, tmp_path: Path, what: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_PATH)
    front_end.send(getattr(protocol, what), U64(0), [fd])
    os.close(fd)
    assert rig.refused() == f"{what}: no eventfd: Bad file descriptor"


def test_a_device_that_is_always_ready_for_an_eventfd(
    rig: Rig, front_end: FrontEnd
) -> None:
    with Path("/dev/zero").open("rb") as zero:
        front_end.send(protocol.SET_VRING_KICK, U64(0), [zero.fileno()])
        assert rig.refused() == "SET_VRING_KICK: a file instead of an eventfd"


def test_epolls_within_epolls_for_a_kick(rig: Rig, front_end: FrontEnd) -> None:
    with ExitStack() as stack:
        epolls = [stack.enter_context(select.epoll()) for _ in range(5)]
        for inner, outer in pairwise(epolls):
            outer.register(inner.fileno())
        front_end.send(protocol.SET_VRING_KICK, U64(0), [epolls[-1].fileno()])
        assert "SET_VRING_KICK: it can't be waited for: " in rig.refused()


def test_two_eventfds_for_one(rig: Rig, front_end: FrontEnd) -> None:
    fd = os.eventfd(0)
    front_end.send(protocol.SET_VRING_CALL, U64(0), [fd, fd])
    assert "2 descriptors, not 1" in rig.refused()
    os.close(fd)


def test_a_channel_for_our_requests_that_is_no_socket(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.send(protocol.SET_BACKEND_REQ_FD, b"", [front_end.ram.fd])
    assert "SET_BACKEND_REQ_FD: no socket" in rig.refused()


def kick(front_end: FrontEnd) -> None:
    """Start ring 0."""
    fd = os.eventfd(0)
    front_end.send(protocol.SET_VRING_KICK, U64(0), [fd])
    os.close(fd)


def test_a_ring_without_addresses(rig: Rig, front_end: FrontEnd) -> None:
    kick(front_end)
    assert rig.refused() == "SET_VRING_KICK: ring 0 has no addresses"


Change = Callable[[FrontEnd], None]


def tell_ring(request_id: int, payload: bytes) -> Change:
    def change(front_end: FrontEnd) -> None:
        front_end.send(request_id, payload)

    return change


@pytest.mark.parametrize(
    ("num", "areas", "why"),
    [
        (0, (0, 0x1000, 0x2000), "a ring of 0 entries, of 1..1024"),
        (2048, (0, 0x1000, 0x2000), "a ring of 2048 entries, of 1..1024"),
        (6, (0, 0x1000, 0x2000), "a split ring of 6 entries: no power of two"),
        (8, (8, 0x1000, 0x2000), "isn't aligned to 16 bytes"),
        (8, (0, 0x1000, (1 << 20) - 4), "isn't in one piece of RAM"),
        (8, (0, 0x1000, 1 << 20), "user address 0x7f0000100000 is in no region"),
        (8, (1 << 40, 0x1000, 0x2000), "is in no region"),
    ],
)
def test_rings_that_cannot_be(
    rig: Rig, front_end: FrontEnd, num: int, areas: tuple[int, int, int], why: str
) -> None:
    desc, available, used = (USER_ADDR + area for area in areas)
    front_end.send(protocol.SET_VRING_NUM, STATE(0, num))
    front_end.send(protocol.SET_VRING_ADDR, ADDR(0, 0, desc, used, available, 0))
    kick(front_end)
    assert why in rig.refused()


@pytest.mark.parametrize(
    "change",
    [
        tell_ring(protocol.SET_VRING_NUM, STATE(0, 4)),
        tell_ring(protocol.SET_VRING_BASE, STATE(0, 4)),
        tell_ring(protocol.SET_VRING_ADDR, ADDR(0, 0, 0, 0, 0, 0)),
    ],
)
def test_a_ring_that_is_started_stays_as_it_is(
    rig: Rig, front_end: FrontEnd, change: Change
) -> None:
    front_end.start(0, front_end.new_driver())
    change(front_end)
    assert "ring 0 is started" in rig.refused()


def test_a_used_ring_at_the_end_of_ram(rig: Rig, front_end: FrontEnd) -> None:
    used = USER_ADDR + (1 << 20) - 1
    front_end.send(
        protocol.SET_VRING_ADDR, ADDR(0, 0, USER_ADDR, used, USER_ADDR + 0x1000, 0)
    )
    front_end.send(protocol.SET_VRING_BASE, STATE(0, 0))
    kick(front_end)
    assert "used ring at 0xfffff isn't aligned" in rig.refused()


def test_memory_that_leaves_a_started_ring_outside(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.start(0, front_end.new_driver())
    payload = pack("=II", 1, 0) + protocol.REGION.pack(1 << 30, 4096, USER_ADDR, 0)
    front_end.send(protocol.SET_MEM_TABLE, payload, [front_end.ram.fd])
    assert "isn't in one piece of RAM" in rig.refused()


def test_a_front_end_that_reads_no_replies(rig: Rig) -> None:
    question = pack("=III", protocol.GET_FEATURES, 1, 0) * 100
    with suppress(BrokenPipeError, ConnectionResetError):
        while True:
            rig.front_end.send_raw(question)
    rig.front_end.close()
    rig.front_end = rig.connect()
    rig.front_end.begin()
    assert rig.told == [
        "the front end breaks the rules of vhost-user: it doesn't read what we send"
    ]


def test_a_front_end_that_leaves_takes_all_with_it(rig: Rig) -> None:
    rig.front_end.begin()
    rig.front_end.ask_u64(protocol.GET_FEATURES)
    gc.collect()
    before = len(open_fds())
    for _ in range(3):
        rig.front_end.close()
        rig.front_end = rig.connect()
        rig.front_end.begin()
        rig.front_end.set_up(EVENT_IDX)
        driver = rig.front_end.new_driver()
        driver.send([b"hello"], [16])
        rig.front_end.start(0, driver)
        rig.front_end.wait_for_call()
    rig.front_end.close()
    rig.front_end = rig.connect()
    rig.front_end.begin()
    rig.front_end.ask_u64(protocol.GET_FEATURES)
    del driver
    gc.collect()
    assert len(open_fds()) == before
    assert rig.told == []


_PAYLOADS = st.one_of(
    st.binary(max_size=48),
    st.tuples(st.integers(0, 3), st.integers(0, 1 << 16)).map(lambda it: STATE(*it)),
    st.integers(0, 1 << 9).map(U64),
)


@given(st.lists(st.tuples(st.integers(0, 45), _PAYLOADS, st.integers(0, 2))))
@settings(max_examples=50)
def test_any_messages_end_no_more_than_their_connection(
    messages: list[tuple[int, bytes, int]],
) -> None:
    rig = Rig()
    try:
        rig.front_end.begin()
        rig.front_end.set_up()
        fd = rig.front_end.ram.fd
        for request_id, payload, fds in messages:
            rig.front_end.send(request_id, payload, [fd] * fds)
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        rig.front_end.close()
        rig.front_end = rig.connect()
        rig.front_end.begin()
        rig.close()
