"""VirtioVsock: connections, credit, and guests that break the rules of both."""

import random

import pytest
from support.vsock_rig import (
    CID,
    EVENT,
    GUEST_PORT,
    HOST_PORT,
    ROOM,
    RX,
    TX,
    FakeEnd,
    VsockRig,
)

from vmm.devices.errors import InvalidState
from vmm.devices.virtio.vsock import (
    CONNECTIONS_MAX,
    REPLIES_MAX,
    VIRTIO_VSOCK_F_STREAM,
    VirtioVsock,
)
from vmm.devices.virtio.vsock_connection import BUF_ALLOC
from vmm.devices.virtio.vsock_packet import (
    HEADER_SIZE,
    SHUTDOWN_BOTH,
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_RST,
    VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_SEQ_EOM,
    VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE,
    VIRTIO_VSOCK_SHUTDOWN_F_SEND,
    VIRTIO_VSOCK_TYPE_SEQPACKET,
    VIRTIO_VSOCK_TYPE_STREAM,
)

UNASKED = 1000  # a port of the host's at which nobody is
SEQPACKET = {"kind": VIRTIO_VSOCK_TYPE_SEQPACKET}


@pytest.fixture
def rig() -> VsockRig:
    return VsockRig()


# Connections


def test_the_guest_finds_its_cid(rig: VsockRig) -> None:
    assert rig.device.config() == CID.to_bytes(8, "little")


@pytest.mark.parametrize("cid", [0, 1, 2, 0xFFFF_FFFF, 1 << 32])
def test_reserved_cids_are_no_guests(cid: int, rig: VsockRig) -> None:
    with pytest.raises(ValueError, match="CID"):
        VirtioVsock(cid, rig)


def test_the_guest_connects_and_both_speak(rig: VsockRig) -> None:
    end = rig.dial()
    assert end.is_established
    assert (end.connection.guest_port, end.connection.host_port) == (
        GUEST_PORT,
        HOST_PORT,
    )
    rig.say(VIRTIO_VSOCK_OP_RW, b"hello")
    assert end.received == b"hello"
    end.send(b"world")
    assert rig.hears() == ["RW"]
    assert rig.data == b"world"
    assert rig.last is not None
    assert (rig.last.src_port, rig.last.dst_port) == (HOST_PORT, GUEST_PORT)
    assert (rig.last.buf_alloc, rig.last.fwd_cnt) == (BUF_ALLOC, 5)


def test_nobody_at_a_port_is_a_reset(rig: VsockRig) -> None:
    rig.say(VIRTIO_VSOCK_OP_REQUEST, dst_port=UNASKED)
    assert rig.hears() == ["RST"]


def test_the_host_connects_and_the_guest_accepts(rig: VsockRig) -> None:
    end = rig.call()
    assert rig.hears() == ["REQUEST"]
    assert not end.is_established
    rig.say(VIRTIO_VSOCK_OP_RESPONSE, dst_port=end.connection.host_port)
    assert end.is_established
    end.send(b"hello")
    assert rig.hears() == ["RW"]


def test_the_host_connects_and_the_guest_refuses(rig: VsockRig) -> None:
    end = rig.call()
    rig.say(VIRTIO_VSOCK_OP_RST, dst_port=end.connection.host_port)
    assert end.is_closed
    assert rig.hears() == ["REQUEST"]  # a RST is never answered by another


def test_each_connection_of_the_hosts_has_a_port_of_its_own(rig: VsockRig) -> None:
    assert len({rig.call().connection.host_port for _ in range(8)}) == 8


def test_without_a_driver_nobody_is_reached() -> None:
    rig = VsockRig()
    rig.device.stop()
    assert rig.device.connect(GUEST_PORT, VIRTIO_VSOCK_TYPE_STREAM) is None


def test_the_end_of_the_host_is_told_once_its_data_is(rig: VsockRig) -> None:
    end = rig.dial()
    end.input.append((b"last words", False))
    end.connection.readable()
    end.connection.shut(VIRTIO_VSOCK_SHUTDOWN_F_SEND)
    assert rig.hears() == ["RW", "SHUTDOWN"]
    assert rig.last is not None
    assert rig.last.flags == VIRTIO_VSOCK_SHUTDOWN_F_SEND
    assert not end.is_closed
    end.connection.shut(SHUTDOWN_BOTH)
    assert rig.hears() == ["SHUTDOWN"]
    assert rig.last.flags == SHUTDOWN_BOTH
    assert end.is_closed
    rig.say(VIRTIO_VSOCK_OP_RST)  # with which Linux answers that
    assert rig.hears() == []


def test_the_guests_end_is_answered_and_the_port_is_free(rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(VIRTIO_VSOCK_OP_SHUTDOWN, flags=SHUTDOWN_BOTH)
    assert rig.hears() == ["RST"]
    assert end.is_closed
    assert rig.dial() is not end


def test_case_51_one_direction_ends_and_the_other_goes_on(rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(VIRTIO_VSOCK_OP_SHUTDOWN, flags=VIRTIO_VSOCK_SHUTDOWN_F_SEND)
    assert end.guest_shut == VIRTIO_VSOCK_SHUTDOWN_F_SEND
    end.send(b"an answer")
    assert rig.hears() == ["RW"]
    rig.say(VIRTIO_VSOCK_OP_SHUTDOWN, flags=VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE)
    assert rig.hears() == ["RST"]
    assert end.is_closed


def test_a_guest_that_receives_no_more_gets_no_more(rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(VIRTIO_VSOCK_OP_SHUTDOWN, flags=VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE)
    end.send(b"for nobody")
    assert rig.hears() == []
    rig.say(VIRTIO_VSOCK_OP_RW, b"but I say")
    assert end.received == b"but I say"


def test_what_the_host_does_not_receive_any_more_is_dropped(rig: VsockRig) -> None:
    end = rig.dial()
    end.connection.shut(VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE)
    rig.say(VIRTIO_VSOCK_OP_RW, b"under way")
    assert rig.hears() == ["SHUTDOWN"]
    assert end.received == b""
    assert not end.is_closed


def test_a_reset_of_the_hosts_ends_it(rig: VsockRig) -> None:
    end = rig.dial()
    end.connection.reset()
    assert rig.hears() == ["RST"]
    assert end.is_closed
    for late in (end.connection.reset, end.connection.readable):
        late()
    end.connection.shut(SHUTDOWN_BOTH)
    end.connection.passed_on(1)
    assert rig.hears() == []


def test_case_13_packets_come_in_whatever_buffers(rig: VsockRig) -> None:
    rig.begin(rx=0)
    pieces = [1, HEADER_SIZE - 2, 3, 0, 5, 100]
    for _ in range(2):
        rig.rx.append(rig.drivers[RX].send([], pieces))
    rig.kick(RX)
    end = rig.dial()
    end.send(b"hello and goodbye")
    assert rig.hears() == ["RW"]
    assert rig.data == b"hello and goodbye"
    header = rig.packet(VIRTIO_VSOCK_OP_RW, size=5).to_bytes()
    rig.send(TX, header[:7], header[7:] + b"he", b"", b"ll", b"o")
    assert end.received == b"hello"


# Messages


def test_messages_keep_their_ends(rig: VsockRig) -> None:
    end = rig.dial(**SEQPACKET)
    rig.say(VIRTIO_VSOCK_OP_RW, b"one, ", **SEQPACKET)
    rig.say(VIRTIO_VSOCK_OP_RW, b"two", flags=VIRTIO_VSOCK_SEQ_EOM, **SEQPACKET)
    rig.say(VIRTIO_VSOCK_OP_RW, b"three", flags=VIRTIO_VSOCK_SEQ_EOM, **SEQPACKET)
    assert (end.received, end.ends) == (b"one, twothree", [8, 13])


def test_a_message_of_the_hosts_comes_in_pieces_of_which_the_last_says_so(
    rig: VsockRig,
) -> None:
    end = rig.dial(**SEQPACKET)
    end.send(bytes(9000), is_message=True)
    rig.collect()
    flags = [packet.flags for packet, _ in rig.got]
    assert flags == [0, 0, VIRTIO_VSOCK_SEQ_EOM]
    assert rig.hears() == ["RW"] * 3
    assert len(rig.data) == 9000


def test_a_message_that_the_guest_never_has_room_for_ends_the_connection(
    rig: VsockRig,
) -> None:
    end = rig.dial(buf_alloc=1000, **SEQPACKET)
    end.send(bytes(1001), is_message=True)
    assert rig.hears() == ["RW", "RST"]
    assert end.is_closed


def test_messages_need_a_driver_that_knows_them() -> None:
    rig = VsockRig(features=1 << VIRTIO_VSOCK_F_STREAM)
    rig.say(VIRTIO_VSOCK_OP_REQUEST, **SEQPACKET)
    assert rig.hears() == ["RST"]
    assert rig.device.connect(GUEST_PORT, VIRTIO_VSOCK_TYPE_SEQPACKET) is None


# Credit


def test_the_guest_gets_no_more_than_it_has_room_for(rig: VsockRig) -> None:
    end = rig.dial(buf_alloc=100)
    end.send(bytes(250))
    assert rig.hears() == ["RW", "CREDIT_REQUEST"]
    assert (len(rig.data), end.is_held) == (100, True)
    rig.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE, buf_alloc=100, fwd_cnt=100)
    assert rig.hears() == ["RW", "CREDIT_REQUEST"]
    assert len(rig.data) == 100
    rig.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE, buf_alloc=100, fwd_cnt=160)
    assert rig.hears() == ["RW"]
    assert len(rig.data) == 50


def test_a_guest_whose_buffer_shrinks_below_what_it_has_gets_nothing(
    rig: VsockRig,
) -> None:
    end = rig.dial(buf_alloc=100)
    end.send(bytes(100))
    rig.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE, buf_alloc=10, fwd_cnt=50)
    end.send(b"more")
    assert rig.hears() == ["RW", "CREDIT_REQUEST"]
    assert len(rig.data) == 100


def test_the_guest_is_told_of_room_before_it_has_none(rig: VsockRig) -> None:
    rig.dial()
    for _ in range(2 * BUF_ALLOC // 4096):
        rig.say(VIRTIO_VSOCK_OP_RW, bytes(4096))
        rig.add_buffers(16 - len(rig.rx))
    heard = rig.hears()
    assert set(heard) == {"CREDIT_UPDATE"}
    assert len(heard) == 8
    assert rig.last is not None
    assert rig.last.fwd_cnt == 2 * BUF_ALLOC


def test_a_guest_in_the_middle_of_a_message_is_told_of_little_room(
    rig: VsockRig,
) -> None:
    """That takes all there is, and isn't passed on before it is whole."""
    end = rig.dial(**SEQPACKET)
    rig.say(VIRTIO_VSOCK_OP_RW, bytes(1000), flags=VIRTIO_VSOCK_SEQ_EOM, **SEQPACKET)
    end.passes_on = False
    left = BUF_ALLOC - 1000  # of its credit
    while left:
        size = min(left, 32 << 10)
        rig.say(VIRTIO_VSOCK_OP_RW, bytes(size), **SEQPACKET)
        left -= size
    assert rig.hears() == ["CREDIT_UPDATE"]
    assert rig.last is not None
    assert rig.last.fwd_cnt == 1000
    rig.say(VIRTIO_VSOCK_OP_RW, bytes(1000), flags=VIRTIO_VSOCK_SEQ_EOM, **SEQPACKET)
    assert (end.ends, end.is_closed) == ([1000, 1000 + BUF_ALLOC], False)


def test_room_that_is_asked_for_is_told_of(rig: VsockRig) -> None:
    end = rig.dial()
    end.passes_on = False
    rig.say(VIRTIO_VSOCK_OP_RW, bytes(100))
    end.connection.passed_on(40)
    rig.say(VIRTIO_VSOCK_OP_CREDIT_REQUEST)
    assert rig.hears() == ["CREDIT_UPDATE"]
    assert rig.last is not None
    assert rig.last.fwd_cnt == 40


def test_counts_wrap(rig: VsockRig) -> None:
    """After 4 GiB each way, which take too long: as if they had been."""
    end = rig.dial()
    connection = end.connection
    near = (1 << 32) - 10
    connection._tx_cnt = connection._peer_fwd_cnt = near
    connection._rx_cnt = connection._fwd_cnt = connection._told_fwd_cnt = near
    end.send(bytes(20))
    rig.say(VIRTIO_VSOCK_OP_RW, bytes(20), fwd_cnt=10)
    rig.say(VIRTIO_VSOCK_OP_CREDIT_REQUEST, fwd_cnt=10)
    assert rig.hears() == ["RW", "CREDIT_UPDATE"]
    assert rig.last is not None
    assert rig.last.fwd_cnt == 10
    assert not end.is_closed


def test_case_49_a_guest_that_has_no_credit_is_not_sent_to(rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE, buf_alloc=0)
    for _ in range(100):
        end.connection.readable()
        end.send(b"x")
    assert rig.hears() == ["CREDIT_REQUEST"]
    assert end.is_held


def test_case_49_credit_for_what_was_never_sent_ends_the_connection(
    rig: VsockRig,
) -> None:
    end = rig.dial()
    end.send(bytes(10))
    rig.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE, fwd_cnt=11)
    assert rig.hears() == ["RW", "RST"]
    assert end.is_closed


def test_case_49_nor_does_it_begin_one(rig: VsockRig) -> None:
    rig.say(VIRTIO_VSOCK_OP_REQUEST, fwd_cnt=1)
    assert rig.hears() == ["RST"]


def test_a_guest_that_sends_more_than_there_is_room_for_is_cut_off(
    rig: VsockRig,
) -> None:
    end = rig.dial()
    end.passes_on = False
    for _ in range(BUF_ALLOC // 4096):
        rig.say(VIRTIO_VSOCK_OP_RW, bytes(4096))
    assert rig.hears() == []
    rig.say(VIRTIO_VSOCK_OP_RW, b"x")
    assert rig.hears() == ["RST"]
    assert len(end.received) == BUF_ALLOC


# Guests that break the rules


def test_case_46_a_header_is_read_once(rig: VsockRig) -> None:
    """Its length says less by the time that the data is taken: as if it didn't."""
    end = rig.dial()
    request = rig.drivers[TX].send([rig.packet(VIRTIO_VSOCK_OP_RW, size=5).to_bytes()])
    header = request.buffers[0][0]
    take = rig.device._take

    def changed(*args: object) -> None:
        rig.ram.write(header, rig.packet(VIRTIO_VSOCK_OP_RW, size=1 << 20).to_bytes())
        take(*args)  # type: ignore[arg-type]

    rig.device._take = changed  # type: ignore[method-assign,assignment]
    rig.kick(TX)
    assert request.is_done
    assert end.is_closed  # of five bytes that it says it has, it has none


@pytest.mark.parametrize("size", [6, 65537, 1 << 31, (1 << 32) - 1])
def test_case_47_more_than_the_buffer_has_is_a_reset(size: int, rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(VIRTIO_VSOCK_OP_RW, b"12345", size=size)
    assert rig.hears() == ["RST"]
    assert end.received == b""


def test_case_47_no_packet_has_more_than_64_kib(rig: VsockRig) -> None:
    end = rig.dial()
    data = bytes(1 << 16)
    rig.say(VIRTIO_VSOCK_OP_RW, data)
    assert rig.hears() == ["CREDIT_UPDATE"]
    assert end.received == data
    driver = rig.drivers[TX]
    header = rig.packet(VIRTIO_VSOCK_OP_RW, size=len(data) + 1).to_bytes()
    at = driver.allocate(data)
    headers = driver.allocate(header), HEADER_SIZE, False
    driver.offer([headers, (at, len(data), False), (at, 1, False)])
    rig.kick(TX)
    assert rig.hears() == ["RST"]
    assert len(end.received) == len(data)


def test_what_is_behind_the_data_is_none(rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(VIRTIO_VSOCK_OP_RW, b"12345", size=3)
    assert end.received == b"123"


@pytest.mark.parametrize("cid", [0, 1, 2, CID + 1, CID | 1 << 32, (1 << 64) - 1])
def test_case_48_a_forged_source_is_not_heard(cid: int, rig: VsockRig) -> None:
    end = rig.dial()
    for op in range(9):
        rig.say(op, src_cid=cid)
    assert rig.hears() == []
    assert not end.is_closed
    assert len(rig.ends) == 1


def test_case_48_another_host_is_not_here(rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(VIRTIO_VSOCK_OP_REQUEST, dst_cid=CID)
    assert rig.hears() == ["RST"]
    assert not end.is_closed
    assert len(rig.ends) == 1


@pytest.mark.parametrize("kind", [0, 3, 0xFFFF])
@pytest.mark.parametrize("op", [VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RW])
def test_case_48_an_unknown_type_is_refused(op: int, kind: int, rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(op, kind=kind)
    assert rig.hears() == ["RST"]
    assert rig.last is not None
    assert rig.last.kind == kind
    assert not end.is_closed


@pytest.mark.parametrize(
    "op",
    [
        VIRTIO_VSOCK_OP_RESPONSE,
        VIRTIO_VSOCK_OP_SHUTDOWN,
        VIRTIO_VSOCK_OP_RW,
        VIRTIO_VSOCK_OP_CREDIT_UPDATE,
        VIRTIO_VSOCK_OP_CREDIT_REQUEST,
        0,
        8,
        0xFFFF,
    ],
)
def test_case_48_what_belongs_to_no_connection_is_refused(
    op: int, rig: VsockRig
) -> None:
    rig.say(op, b"data")
    assert rig.hears() == ["RST"]
    assert rig.ends == []


@pytest.mark.parametrize(
    "op", [VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, 0, 8, 0xFFFF]
)
def test_case_48_what_a_connection_can_not_have_ends_it(op: int, rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(op)
    assert rig.hears() == ["RST"]
    assert end.is_closed


def test_case_48_data_before_the_guest_has_accepted_ends_it(rig: VsockRig) -> None:
    end = rig.call()
    rig.say(VIRTIO_VSOCK_OP_RW, b"data", dst_port=end.connection.host_port)
    assert rig.hears() == ["REQUEST", "RST"]
    assert end.is_closed


def test_case_48_data_after_its_end_ends_it(rig: VsockRig) -> None:
    end = rig.dial()
    rig.say(VIRTIO_VSOCK_OP_SHUTDOWN, flags=VIRTIO_VSOCK_SHUTDOWN_F_SEND)
    rig.say(VIRTIO_VSOCK_OP_RW, b"data")
    assert rig.hears() == ["RST"]
    assert (end.is_closed, end.received) == (True, b"")


@pytest.mark.parametrize("size", [1, HEADER_SIZE - 1])
def test_a_packet_shorter_than_its_header_is_none(size: int, rig: VsockRig) -> None:
    request = rig.send(TX, bytes(size))
    assert request.is_done
    assert rig.hears() == []


def test_a_buffer_too_small_for_a_header_gets_nothing(rig: VsockRig) -> None:
    rig.begin(rx=0)
    rig.add_buffers(1, HEADER_SIZE - 1)
    rig.add_buffers(1, HEADER_SIZE)
    end = rig.dial()
    rig.add_buffers(1, HEADER_SIZE)  # which has no room for data
    end.send(b"hello")
    assert rig.hears() == ["CREDIT_REQUEST"]
    assert end.is_held
    assert rig.rx == []


def test_case_50_requests_without_end_are_bounded(rig: VsockRig) -> None:
    for port in range(2000):
        rig.say(VIRTIO_VSOCK_OP_REQUEST, src_port=port)
        rig.add_buffers(16 - len(rig.rx))
    heard = rig.hears()
    assert heard == ["RESPONSE"] * CONNECTIONS_MAX + ["RST"] * (2000 - CONNECTIONS_MAX)
    assert len(rig.ends) == CONNECTIONS_MAX
    assert rig.device.connect(1, VIRTIO_VSOCK_TYPE_STREAM) is None


def test_case_53_without_buffers_the_guest_is_heard_no_more_until_it_has_some() -> None:
    rig = VsockRig(rx=0)
    sent = 0
    for _ in range(2 * REPLIES_MAX):
        if rig.drivers[TX].free_slots:
            header = rig.packet(VIRTIO_VSOCK_OP_RW, src_port=sent)
            rig.drivers[TX].send([header.to_bytes()])
            sent += 1
            rig.kick(TX)
    assert sent == REPLIES_MAX + 16  # whose ring is full of what isn't heard
    assert len(rig.device._replies) == REPLIES_MAX
    heard = 0
    while heard < sent:
        rig.add_buffers(16)
        again, rig.again = rig.again, []
        for queue in again:
            rig.device.serve(queue)
        some = rig.hears()
        assert set(some) == {"RST"}
        heard += len(some)
    assert rig.drivers[TX].free_slots == 16


def test_case_53_a_connection_waits_for_buffers_without_being_asked() -> None:
    rig = VsockRig(rx=1)
    end = rig.dial()
    end.send(b"hello")
    assert end.is_held
    assert rig.hears() == []
    rig.add_buffers(1)
    assert rig.hears() == ["RW"]


def test_connections_take_turns(rig: VsockRig) -> None:
    rig.begin(rx=2)
    ends = [rig.dial(src_port=port) for port in (1, 2)]
    for end in ends:
        end.send(bytes(8000))
    rig.add_buffers(4)
    rig.collect()
    one, other, *more = [packet.dst_port for packet, _ in rig.got]
    assert {one, other} == {1, 2}
    assert more == [one, other]


# Resets and snapshots


def test_case_54_a_reset_ends_all_connections(rig: VsockRig) -> None:
    ends = [rig.dial(), rig.call()]
    rig.device.stop()
    assert all(end.is_closed for end in ends)
    rig.begin()
    rig.say(VIRTIO_VSOCK_OP_RW, b"late")
    assert rig.hears()[-1:] == ["RST"]
    assert rig.dial() is rig.ends[-1]


def test_case_54_who_is_held_is_told_nothing(rig: VsockRig) -> None:
    end = rig.dial()
    rig.device.hold()
    end.send(b"hello")
    assert (rig.hears(), end.is_held) == ([], True)
    rig.device.release()
    assert rig.hears() == ["RW"]


def restored(rig: VsockRig, events: int = 1) -> FakeEnd:
    """A new driver's device that comes from a snapshot; the end of before."""
    end = rig.dial()
    rig.device.stop()
    rig.begin()
    rig.device.restore(None)
    for _ in range(events):
        rig.drivers[EVENT].send([], [4])
    rig.kick(EVENT)
    return end


def test_case_54_after_a_restore_the_guest_is_told_to_drop_its_connections(
    rig: VsockRig,
) -> None:
    end = restored(rig, events=0)
    assert end.is_closed
    request = rig.send(EVENT, room=4)
    assert (request.is_done, request.data) == (True, bytes(4))
    assert rig.interrupts[-1] == EVENT
    assert not rig.send(EVENT, room=4).is_done  # once
    assert rig.dial().is_established


def test_case_54_the_hosts_new_connections_come_after_that(rig: VsockRig) -> None:
    restored(rig, events=2)
    rig.call()
    assert rig.hears() == []
    rig.send(EVENT, room=4)  # the buffer is back: the guest has seen it
    assert rig.hears() == ["REQUEST"]


def test_nothing_else_is_restored(rig: VsockRig) -> None:
    assert rig.device.state() is None
    with pytest.raises(InvalidState):
        rig.device.restore(rig.device.queues[0].state())


def test_buffers_for_events_are_let_go_of(rig: VsockRig) -> None:
    rig.send(EVENT, room=4)
    rig.device.reset_queue(rig.device.queues[EVENT])
    rig.device.reset_queue(rig.device.queues[RX])
    rig.device.restore(None)
    assert rig.send(EVENT, room=4).is_done


def act(end: FakeEnd, chance: random.Random) -> None:
    """Something that a host's program may do, or nothing."""
    end.passes_on = bool(chance.randrange(2))
    match chance.randrange(6):
        case 0:
            end.connection.reset()
        case 1:
            end.connection.readable()
        case 2:
            end.send(bytes(100), bool(chance.randrange(2)))
        case 3:
            end.connection.shut(chance.randrange(4))


def test_whatever_a_guest_says_nothing_raises_and_all_is_answered() -> None:
    """Random packets with ports that meet, from a guest whose buffers come and go."""
    chance = random.Random(46)
    rig = VsockRig(rx=0)
    for _ in range(20_000):
        if rig.drivers[TX].free_slots >= 2:
            fields = {
                "src_port": chance.randrange(3),
                "dst_port": chance.choice([1, 2, UNASKED]),
                "kind": chance.choice([1, 1, 1, 2, 2, 0]),
                "flags": chance.randrange(4),
                "buf_alloc": chance.choice([ROOM, ROOM, 0, 10]),
                "fwd_cnt": chance.choice([0, 0, 0, 5, 1 << 31]),
            }
            data = bytes(chance.choice([0, 5, 5, 4000]))
            size = chance.choice([len(data)] * 8 + [70000])
            packet = rig.packet(chance.randrange(9), **fields, size=size)
            rig.drivers[TX].send([packet.to_bytes(), data][: 1 + bool(data)])
            rig.kick(TX)
        for end in rig.ends[-3:]:
            act(end, chance)
        if chance.randrange(3) == 0:
            rig.add_buffers(min(4, rig.drivers[RX].free_slots))
        again, rig.again = rig.again, []
        for queue in again:
            rig.device.serve(queue)
        rig.hears()
        assert len(rig.device._connections) <= 6
    assert rig.device.trouble == ""
