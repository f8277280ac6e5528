"""VirtioNet: which frames come and go, and what becomes of those that can't be.

A case is one of the hostile drivers of issue 20, by its number.
"""

import json
from struct import pack

import pytest
from support.net_rig import (
    ALL,
    CONTROL,
    HEADER,
    MAC,
    MERGES,
    RECEIVE,
    TRANSMIT,
    NetRig,
    a_header,
)

from vmm.devices.errors import InvalidDevice, InvalidState
from vmm.devices.virtio.net import (
    COMMAND_MAX,
    FRAME_MAX,
    OFFLOADS,
    VIRTIO_NET_CTRL_MAC,
    VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_MTU,
    NetState,
    VirtioNet,
)

FRAME = bytes.fromhex("ffffffffffff 020000000001 0800") + bytes(range(46))
OK, ERR = b"\0", b"\1"


# What it is


def test_the_driver_finds_its_address_and_an_mtu() -> None:
    rig = NetRig(mtu=9000)
    assert rig.net.config() == MAC + pack("<HHH", 1, 1, 9000)
    assert rig.net.features >> VIRTIO_NET_F_MTU & 1
    assert not NetRig().net.features >> VIRTIO_NET_F_MTU & 1


@pytest.mark.parametrize("mac", [b"", bytes(6), bytes(5), b"\1" + bytes(5)])
def test_an_address_that_no_card_has_is_refused(mac: bytes) -> None:
    with pytest.raises(InvalidDevice, match="is not that of one card"):
        VirtioNet(mac)


@pytest.mark.parametrize("mtu", [67, 65536])
def test_an_mtu_that_linux_would_ignore_is_refused(mtu: int) -> None:
    with pytest.raises(InvalidDevice, match=r"not within 68\.\.65535"):
        VirtioNet(MAC, mtu=mtu)


@pytest.mark.parametrize(
    ("bit", "needed"),
    [
        (VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM),
        (VIRTIO_NET_F_GUEST_TSO4, 1),
        (VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ),
    ],
)
def test_case_21_a_feature_needs_another(bit: int, needed: int) -> None:
    net = NetRig(has_header=True).net
    assert not net.accepts(1 << bit)
    assert net.accepts(1 << bit | 1 << needed)
    assert net.accepts(0)


def test_a_link_without_headers_has_no_offloads() -> None:
    assert not NetRig().net.features & OFFLOADS
    assert NetRig(has_header=True).net.features & OFFLOADS == OFFLOADS


def test_a_link_is_told_what_the_driver_accepts_until_a_reset() -> None:
    rig = NetRig(1 << VIRTIO_NET_F_CSUM, has_header=True)
    rig.net.stop()
    assert rig.link.offloads[-2:] == [1 << VIRTIO_NET_F_CSUM, 0]


# From the guest


@pytest.mark.parametrize(
    "pieces",
    [
        [HEADER, FRAME],
        [HEADER + FRAME],
        [HEADER[:5], HEADER[5:] + FRAME[:3], FRAME[3:]],
        [bytes([byte]) for byte in HEADER] + [FRAME[:1], FRAME[1:2], FRAME[2:]],
    ],
)
def test_case_13_a_frame_may_be_in_any_pieces(pieces: list[bytes]) -> None:
    rig = NetRig()
    assert rig.transmit(*pieces).length == 0
    assert rig.link.sent == [FRAME]
    assert (rig.net.counters["tx_frames"], rig.net.counters["tx_bytes"]) == (1, 60)


@pytest.mark.parametrize("data", [b"x", HEADER[:11], HEADER, HEADER + FRAME[:13]])
def test_case_39_what_is_shorter_than_a_frame_is_dropped(data: bytes) -> None:
    rig = NetRig()
    assert rig.transmit(data).is_done
    assert rig.transmit(HEADER, FRAME).is_done
    assert rig.link.sent == [FRAME]
    assert rig.net.counters["tx_dropped"] == 1


def test_case_39_what_is_longer_than_any_frame_is_dropped() -> None:
    rig = NetRig()
    assert rig.transmit(HEADER, bytes(FRAME_MAX + 1)).is_done
    assert rig.transmit(HEADER, bytes(FRAME_MAX)).is_done
    assert [len(frame) for frame in rig.link.sent] == [FRAME_MAX]


def test_case_39_a_chain_with_nothing_to_read_is_dropped() -> None:
    rig = NetRig()
    request = rig.send(TRANSMIT, room=100)
    assert (request.is_done, request.length) == (True, 0)
    assert rig.net.counters["tx_dropped"] == 1


BAD_HEADERS = {
    "sum beyond the frame": a_header(1, csum_start=50, csum_offset=9),
    "sum far beyond it": a_header(1, csum_start=0xFFFF, csum_offset=0xFFFF),
    "segments without a sum": a_header(0, 1, 54, 1000),
    "segments of no size": a_header(1, 1, 54, 0, 34, 16),
    "header longer than the frame": a_header(1, 1, 61, 1000, 34, 16),
    "segments of UDP": a_header(1, 3, 42, 1000, 34, 6),
    "segments with ECN": a_header(1, 0x81, 54, 1000, 34, 16),
    "segments of nothing known": a_header(1, 0x7F, 54, 1000, 34, 16),
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_case_40_a_header_that_can_not_be_drops_its_frame(header: bytes) -> None:
    rig = NetRig(has_header=True)
    assert rig.transmit(header, FRAME).is_done
    assert (rig.link.sent, rig.net.counters["tx_dropped"]) == ([], 1)


@pytest.mark.parametrize(
    "header", [a_header(1, 0, 0, 0, 34, 16), a_header(1, 1, 54, 1000, 34, 16)]
)
def test_case_40_what_was_not_negotiated_drops_its_frame(header: bytes) -> None:
    rig = NetRig(ALL & ~OFFLOADS, has_header=True)
    assert rig.transmit(header, FRAME).is_done
    assert rig.link.sent == []
    rig = NetRig(has_header=True)
    rig.transmit(header, FRAME)
    assert rig.link.sent == [header + FRAME]


def test_a_link_without_room_keeps_frames_in_the_guest() -> None:
    rig = NetRig()
    rig.link.full = True
    waiting = [rig.transmit(HEADER, FRAME), rig.transmit(HEADER + FRAME)]
    assert not any(request.is_done for request in waiting)
    rig.link.full = False
    rig.net.on_room()
    rig.collect()
    assert all(request.is_done for request in waiting)
    assert rig.link.sent == [FRAME, FRAME]


def test_case_45_many_frames_of_one_kick_leave_others_their_turn() -> None:
    rig = NetRig()
    driver = rig.drivers[TRANSMIT]
    real = rig.link.send

    def send(frame: list[memoryview]) -> None:
        """One more comes for each that goes."""
        real(frame)
        if len(rig.link.sent) < 1000:
            driver.collect()
            if driver.free_slots:
                driver.send([HEADER + FRAME])

    rig.link.send = send  # type: ignore[method-assign]
    rig.transmit(HEADER + FRAME)
    assert 0 < len(rig.link.sent) <= 16
    assert rig.again == [rig.net.queues[TRANSMIT]]


# To the guest


def test_a_frame_comes_behind_a_header() -> None:
    rig = NetRig()
    (request,) = rig.give(1526)
    rig.arrive(FRAME)
    assert request.data == a_header()[:10] + b"\1\0" + FRAME
    assert rig.interrupts == [RECEIVE]
    assert rig.net.counters["rx_frames"] == 1


def test_a_header_of_the_links_comes_along() -> None:
    rig = NetRig(has_header=True)
    (request,) = rig.give(1526)
    header = a_header(1, 1, 54, 1000, 34, 16)
    rig.arrive(header + FRAME)
    assert request.data == header[:10] + b"\1\0" + FRAME


@pytest.mark.parametrize("rooms", [[12, 60], [5, 7, 60], [20, 20, 20, 20], [71, 1]])
def test_case_41_a_frame_is_spread_over_buffers(rooms: list[int]) -> None:
    rig = NetRig()
    requests = rig.give(*rooms)
    rig.arrive(FRAME)
    data = b"".join(request.data for request in requests)
    assert data == a_header()[:10] + pack("<H", len(rooms)) + FRAME
    assert rig.interrupts == [RECEIVE]


def test_case_41_one_too_long_for_its_buffer_is_dropped_and_the_next_comes() -> None:
    rig = NetRig(ALL & ~MERGES)
    first, second = rig.give(12 + 59, 12 + 60)
    rig.arrive(FRAME, FRAME[:14], FRAME)
    assert (first.data[12:], second.data[12:]) == (FRAME[:14], FRAME)
    assert rig.net.counters["rx_dropped"] == 1


def test_case_41_one_too_long_for_the_whole_ring_is_dropped() -> None:
    rig = NetRig(size=4)
    requests = rig.give(16, 16, 16, 16)
    rig.arrive(FRAME)
    assert rig.net.counters["rx_dropped"] == 1
    rig.arrive(FRAME[:14])
    assert [request.is_done for request in requests] == [True, True, False, False]


def test_case_41_one_that_may_still_fit_waits_for_buffers() -> None:
    rig = NetRig()
    first = rig.give(16)
    rig.arrive(FRAME)
    assert not first[0].is_done
    more = rig.give(100)
    rig.kick(RECEIVE)
    assert first[0].data + more[0].data == HEADER[:10] + b"\2\0" + FRAME


def test_case_41_a_chain_without_room_is_given_back() -> None:
    rig = NetRig()
    request = rig.drivers[RECEIVE].send([b"to be read"])
    good = rig.give(100)
    rig.arrive(FRAME)
    assert (request.is_done, request.length) == (True, 0)
    assert good[0].data[12:] == FRAME


def test_case_42_without_buffers_one_frame_waits_and_the_link_is_not_asked() -> None:
    rig = NetRig()
    rig.arrive(*[FRAME] * 10)
    for _ in range(100):
        rig.net.on_frames()
    assert (rig.link.asked, len(rig.link.frames)) == (1, 9)
    requests = rig.give(*[100] * 10)
    rig.kick(RECEIVE)
    assert all(request.data[12:] == FRAME for request in requests)


def test_case_45_many_frames_at_once_leave_others_their_turn() -> None:
    rig = NetRig(size=4)
    rig.give(100, 100, 100, 100)
    rig.arrive(*[FRAME] * 10)
    assert len(rig.link.frames) <= 6
    assert rig.again == [rig.net.queues[RECEIVE]]


# The link


def test_case_44_a_peer_that_goes_is_told() -> None:
    rig = NetRig()
    rig.link.is_up = False
    rig.net.link_changed()
    assert rig.interrupts == ["config"]
    assert rig.net.config()[6] == 0


def test_a_card_without_a_link_is_down_and_takes_what_is_sent() -> None:
    from support.virtio_device_rig import DeviceRig

    rig = DeviceRig(VirtioNet(MAC))
    rig.start()
    assert rig.send(TRANSMIT, HEADER + FRAME).is_done
    assert rig.device.config()[6] == 0


# Control commands


@pytest.mark.parametrize("data", [b"\0", b"\1"])
@pytest.mark.parametrize("mode", [0, 1])
def test_modes_are_acknowledged(mode: int, data: bytes) -> None:
    request = NetRig().command(VIRTIO_NET_CTRL_RX, mode, data)
    assert (request.data, request.length) == (OK, 1)


def test_an_address_is_taken_until_a_reset() -> None:
    rig, other = NetRig(), bytes.fromhex("02abcdef0123")
    assert rig.command(VIRTIO_NET_CTRL_MAC, 1, other).data == OK
    assert rig.net.config()[:6] == other
    rig.start(ALL & rig.net.features)
    assert rig.net.config()[:6] == MAC


def test_tables_of_addresses_are_taken() -> None:
    table = pack("<I", 1) + MAC + pack("<I", 2) + MAC * 2
    assert NetRig().command(VIRTIO_NET_CTRL_MAC, 0, table).data == OK


BAD_COMMANDS = {
    "unknown class": (99, 0, b"\0"),
    "vlans, which aren't offered": (2, 0, b"\0\0"),
    "queue pairs: none": (4, 0, b"\0\0"),
    "queue pairs: too many": (4, 0, b"\xff\xff"),
    "unknown mode": (VIRTIO_NET_CTRL_RX, 9, b"\0"),
    "mode without a value": (VIRTIO_NET_CTRL_RX, 0, b""),
    "2^32 addresses": (VIRTIO_NET_CTRL_MAC, 0, b"\xff" * 4 + MAC),
    "one table": (VIRTIO_NET_CTRL_MAC, 0, bytes(4)),
    "more than tables": (VIRTIO_NET_CTRL_MAC, 0, bytes(9)),
    "short address": (VIRTIO_NET_CTRL_MAC, 1, MAC[:5]),
    "address of many": (VIRTIO_NET_CTRL_MAC, 1, b"\xff" * 6),
    "more than is looked at": (VIRTIO_NET_CTRL_MAC, 0, bytes(COMMAND_MAX)),
}


@pytest.mark.parametrize("command", BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_case_43_what_can_not_be_done_is_an_error(
    command: tuple[int, int, bytes],
) -> None:
    rig = NetRig()
    request = rig.command(*command)
    assert (request.is_done, request.data) == (True, ERR)
    assert rig.net.mac == MAC


@pytest.mark.parametrize("data", [b"x", b"\0\0\1"])
def test_case_43_without_room_for_an_answer_it_is_given_back(data: bytes) -> None:
    request = NetRig().send(CONTROL, data)
    assert (request.is_done, request.length) == (True, 0)


def test_case_43_a_command_of_one_byte_or_none_is_an_error() -> None:
    rig = NetRig()
    assert rig.send(CONTROL, b"\0", room=1).data == ERR
    assert rig.send(CONTROL, room=1).data == ERR


# Its life


def test_case_23_a_frame_that_waits_is_gone_after_a_reset() -> None:
    rig = NetRig()
    rig.arrive(FRAME)
    rig.start(ALL & rig.net.features)
    (request,) = rig.give(100)
    rig.kick(RECEIVE)
    assert not request.is_done


def test_case_25_so_it_is_when_the_queue_is_reset() -> None:
    rig = NetRig()
    rig.arrive(FRAME)
    rig.net.reset_queue(rig.net.queues[RECEIVE])
    (request,) = rig.give(100)
    rig.kick(RECEIVE)
    assert not request.is_done


def test_another_goes_on_with_the_address_and_tells_of_another_link() -> None:
    rig, other = NetRig(), bytes.fromhex("02abcdef0123")
    rig.command(VIRTIO_NET_CTRL_MAC, 1, other)
    state = NetState.from_json(json.loads(json.dumps(rig.net.state().to_json())))
    clone = NetRig()
    clone.net.restore(state)
    assert (clone.net.state(), clone.interrupts) == (state, [])
    clone.link.is_up = False
    clone.net.restore(state)
    assert clone.interrupts == []
    for _ in range(2):
        clone.kick(RECEIVE)
    assert clone.interrupts == ["config"]


def test_a_state_that_can_not_be_changes_nothing() -> None:
    rig = NetRig()
    with pytest.raises(InvalidState):
        rig.net.restore(NetState(mac=b"\xff" * 6, is_up=True))
    with pytest.raises(InvalidState):
        rig.net.restore(None)
    assert rig.net.mac == MAC
