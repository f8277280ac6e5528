"""StreamLink: frames over a socket, and peers that speak, are silent, or go."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest
from support.guests import wait_until
from support.net_rig import ALL, HEADER, MAC, RECEIVE, TRANSMIT
from support.virtio_device_rig import DeviceRig

from vmm import ConfigError
from vmm.devices.virtio.net import FRAME_MAX, VirtioNet
from vmm.event_loop import EventLoop, GuestClock
from vmm.net.stream import StreamLink, UnixLink

FRAME = bytes(60)


def fail(error: Exception) -> None:
    raise error


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop(fail)
    yield loop
    loop.close()


class Rig(DeviceRig):
    """A card on a stream, with its loop, whose turns the test waits for."""

    def __init__(self, link: StreamLink, loop: EventLoop) -> None:
        self.loop, self.link = loop, link
        self.net = VirtioNet(MAC, link)
        super().__init__(self.net)
        self.start(ALL & self.net.features)
        loop.start()

    def settle(self) -> None:
        for _ in range(3):
            self.loop.settle(lambda: None)
        with self.net.lock:
            self.collect()


class Pair(Rig):
    def __init__(self, loop: EventLoop) -> None:
        self.clock = GuestClock(loop)
        self.gone = 0
        self.peer, ours = socket.socketpair()
        self.peer.settimeout(60)
        link = StreamLink(loop, self.clock, self._on_gone)
        link.connect(ours)
        super().__init__(link, loop)

    def _on_gone(self) -> None:
        self.gone += 1


@pytest.fixture
def pair(loop: EventLoop) -> Iterator[Pair]:
    pair = Pair(loop)
    yield pair
    pair.link.close()
    pair.peer.close()


def test_frames_go_behind_their_length(pair: Pair) -> None:
    pair.send(TRANSMIT, HEADER + FRAME[:20], FRAME[20:])
    assert pair.peer.recv(100) == pack(">I", 60) + FRAME


def test_frames_come_in_any_pieces(pair: Pair) -> None:
    requests = [pair.drivers[RECEIVE].send([], [100]) for _ in range(3)]
    stream = b"".join(pack(">I", len(f)) + f for f in (FRAME, b"1" * 14, b"2" * 80))
    for at in range(0, len(stream), 7):
        pair.peer.send(stream[at : at + 7])
        pair.settle()
    assert [request.data[12:] for request in requests] == [FRAME, b"1" * 14, b"2" * 80]


def test_what_is_too_short_for_a_frame_is_skipped(pair: Pair) -> None:
    request = pair.drivers[RECEIVE].send([], [100])
    pair.peer.send(pack(">I", 3) + b"abc" + pack(">I", 0) + pack(">I", 60) + FRAME)
    pair.settle()
    assert request.data[12:] == FRAME


def test_case_44_a_peer_that_goes_is_told_once(pair: Pair) -> None:
    assert pair.net.config()[6] == 1
    pair.drivers[RECEIVE].send([], [100])
    pair.peer.close()
    wait_until(lambda: pair.gone > 0, "it is seen")
    pair.settle()
    assert (pair.net.config()[6], pair.gone, pair.interrupts) == (0, 1, ["config"])
    assert pair.send(TRANSMIT, HEADER + FRAME).is_done


def test_case_44_so_is_one_that_is_gone_when_something_is_sent(pair: Pair) -> None:
    pair.clock.stop()  # nobody reads
    pair.peer.close()
    pair.send(TRANSMIT, HEADER + FRAME)
    assert (pair.gone, pair.link.is_up) == (1, False)


def test_one_who_speaks_something_else_is_let_go(pair: Pair) -> None:
    pair.drivers[RECEIVE].send([], [100])
    pair.peer.send(b"GET / HTTP/1.0\r\n")
    wait_until(lambda: pair.gone > 0, "it is let go")
    assert pair.peer.recv(1) == b""


def test_the_longest_frame_comes_and_none_longer(pair: Pair) -> None:
    pair.peer.sendall(pack(">I", FRAME_MAX) + bytes(FRAME_MAX) + pack(">I", 1 << 17))
    pair.drivers[RECEIVE].send([], [70000])
    pair.loop.call_soon(lambda: pair.device.serve(pair.device.queues[RECEIVE]))
    wait_until(lambda: pair.gone > 0, "it is let go")
    assert pair.net.counters["rx_bytes"] == FRAME_MAX


def test_case_42_without_buffers_nothing_more_is_read(pair: Pair) -> None:
    for _ in range(20):
        pair.peer.send(pack(">I", 60) + FRAME)
        pair.settle()
    assert not pair.loop._watched.keys() & {pair.link._peer.fileno()}  # type: ignore[union-attr]
    requests = [pair.drivers[RECEIVE].send([], [100]) for _ in range(16)]
    pair.loop.call_soon(lambda: pair.device.serve(pair.device.queues[RECEIVE]))
    pair.settle()
    assert all(request.data[12:] == FRAME for request in requests)


def test_a_peer_that_does_not_read_holds_frames_in_the_guest(pair: Pair) -> None:
    big, sent = HEADER + bytes(30000), 0
    while True:
        request = pair.send(TRANSMIT, big)
        sent += 1
        if not request.is_done:
            break
    wanted = sent * (4 + 30000)
    while wanted:
        wanted -= len(pair.peer.recv(1 << 20))
    wait_until(lambda: pair.drivers[TRANSMIT].collect() != [], "it goes on")


def test_a_paused_guest_gets_nothing(pair: Pair) -> None:
    request = pair.drivers[RECEIVE].send([], [100])
    pair.clock.stop()
    pair.peer.send(pack(">I", 60) + FRAME)
    pair.settle()
    assert not request.is_done
    pair.clock.start()
    pair.settle()
    assert request.is_done


# On a socket's file


def dial(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(60)
    peer.connect(str(path))
    return peer


def test_peers_come_and_go_one_at_a_time(loop: EventLoop, tmp_path: Path) -> None:
    path = tmp_path / "it"
    link = UnixLink(loop, GuestClock(loop), str(path))
    rig = Rig(link, loop)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rig.net.config()[6] == 0
    rig.drivers[RECEIVE].send([], [100])
    with dial(path) as first:
        wait_until(lambda: link.is_up, "it is there")
        with dial(path) as second:
            assert second.recv(1) == b""
        rig.send(TRANSMIT, HEADER + FRAME)
        assert first.recv(100) == pack(">I", 60) + FRAME
    with dial(path) as third:
        wait_until(
            lambda: rig.net.config()[6] == 1 and link._peer is not None, "the next is"
        )
        rig.settle()
        rig.send(TRANSMIT, HEADER + FRAME)
        assert third.recv(100) == pack(">I", 60) + FRAME
    link.close()
    link.close()
    rig.settle()
    assert not path.exists()


@pytest.mark.parametrize("name", ["taken", "no/where", "x" * 200])
def test_a_path_that_can_not_be_is_said(
    loop: EventLoop, tmp_path: Path, name: str
) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match=r"^unix: "):
        UnixLink(loop, GuestClock(loop), str(tmp_path / name))
