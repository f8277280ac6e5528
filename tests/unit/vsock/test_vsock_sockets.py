"""Vsock: sockets of the host's, with a guest that speaks packets at the other end."""

import os
import resource
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.guests import DEADLINE, wait_until
from support.open_fds import open_fds
from support.vsock_rig import GUEST_PORT, HOST_PORT, RX, VsockRig

from vmm.devices.virtio.vsock import CONNECTIONS_MAX
from vmm.devices.virtio.vsock_connection import BUF_ALLOC
from vmm.devices.virtio.vsock_packet import (
    SHUTDOWN_BOTH,
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
)
from vmm.errors import ConfigError, VmmError
from vmm.event_loop import EventLoop
from vmm.vsock import vsock as module
from vmm.vsock.config import VsockConfig
from vmm.vsock.vsock import Vsock

pytest_plugins = ("support.loop_fixtures",)

OnLoop = Callable[[Callable[[], object]], None]
SEQPACKET = {"kind": VIRTIO_VSOCK_TYPE_SEQPACKET}


@pytest.fixture
def vsock(loop: EventLoop, tmp_path: Path) -> Iterator[Vsock]:
    """One with a path, on a loop that runs."""
    before = open_fds()
    vsock = Vsock(loop, VsockConfig(path=str(tmp_path / "v")))
    loop.start()
    yield vsock
    loop.stop()
    vsock.close()
    assert vsock._ends == set()
    assert open_fds().keys() <= before.keys()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def guest(vsock: Vsock) -> VsockRig:
    return VsockRig(device=vsock.device)


def hear(guest: VsockRig, *ops: str) -> bytes:
    """Wait until the guest got these packets; the data that was in them."""

    def has_come() -> bool:
        guest.collect()
        return len(guest.got) >= len(ops)

    wait_until(has_come, f"{ops}")
    assert guest.hears() == list(ops)
    guest.add_buffers(16 - len(guest.rx))
    return guest.data


def dial(guest: VsockRig, vsock: Vsock, **fields: int) -> socket.socket:
    """Have the guest connect to somebody who accepts."""
    kind = socket.SOCK_SEQPACKET if "kind" in fields else socket.SOCK_STREAM
    with vsock.listen(HOST_PORT, kind) as listener:
        guest.say(VIRTIO_VSOCK_OP_REQUEST, **fields)
        hear(guest, "RESPONSE")
        listener.settimeout(DEADLINE)
        peer, address = listener.accept()
    assert address == (3, GUEST_PORT)
    peer.settimeout(DEADLINE)
    return peer


# From Python


def test_bytes_go_both_ways(guest: VsockRig, vsock: Vsock) -> None:
    with dial(guest, vsock) as peer:
        guest.say(VIRTIO_VSOCK_OP_RW, b"hello")
        assert peer.recv(100) == b"hello"
        peer.sendall(b"world")
        assert hear(guest, "RW") == b"world"
    hear(guest, "SHUTDOWN")


def test_the_host_connects(guest: VsockRig, vsock: Vsock) -> None:
    got: list[socket.socket] = []
    caller = threading.Thread(
        target=lambda: got.append(vsock.connect(5, timeout=DEADLINE))
    )
    caller.start()
    hear(guest, "REQUEST")
    assert guest.last is not None
    ports = {"src_port": 5, "dst_port": guest.last.src_port}
    guest.say(VIRTIO_VSOCK_OP_RST, **ports)  # nobody is there yet
    hear(guest, "REQUEST")
    ports["dst_port"] = guest.last.src_port
    guest.say(VIRTIO_VSOCK_OP_RESPONSE, **ports)
    caller.join(DEADLINE)
    with got[0] as peer:
        peer.sendall(b"hello")
        assert hear(guest, "RW") == b"hello"


def test_a_guest_that_does_not_answer_is_not_waited_for(
    guest: VsockRig, vsock: Vsock
) -> None:
    with pytest.raises(TimeoutError, match=r"within 0.1 s"):
        vsock.connect(5, timeout=0.1)
    hear(guest, "REQUEST", "RST")


def test_a_guest_without_a_driver_neither(vsock: Vsock) -> None:
    with pytest.raises(TimeoutError, match="CONFIG_VIRTIO_VSOCKETS"):
        vsock.connect(5, timeout=0.1)


def test_what_is_no_port_or_kind_is_refused(vsock: Vsock) -> None:
    for port in (-1, (1 << 32) - 1):
        with pytest.raises(ConfigError, match=rf"^vsock: port {port} is not within"):
            vsock.listen(port)
        with pytest.raises(ConfigError, match=r"^vsock: port"):
            vsock.connect(port)
    with pytest.raises(ConfigError, match=r"^vsock: kind .* is not SOCK_STREAM"):
        vsock.listen(1, socket.SOCK_DGRAM)


def test_a_port_is_listened_at_once_at_a_time(vsock: Vsock) -> None:
    taken = pytest.raises(ConfigError, match=r"^vsock: somebody listens at port 1")
    with vsock.listen(1), vsock.listen(1, socket.SOCK_SEQPACKET), taken:
        vsock.listen(1)
    vsock.listen(1).close()


def test_a_listener_that_was_closed_refuses(guest: VsockRig, vsock: Vsock) -> None:
    vsock.listen(HOST_PORT).close()
    guest.say(VIRTIO_VSOCK_OP_REQUEST)
    hear(guest, "RST")


def test_a_listener_waits_no_longer_than_it_says_and_can_be_polled(
    guest: VsockRig, vsock: Vsock
) -> None:
    with vsock.listen(HOST_PORT) as listener:
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept()
        assert select.select([listener], [], [], 0)[0] == []
        guest.say(VIRTIO_VSOCK_OP_REQUEST)
        assert select.select([listener], [], [], DEADLINE)[0] == [listener]
        listener.accept()[0].close()


def test_connections_that_nobody_accepts_are_bounded_and_end_with_the_listener(
    guest: VsockRig, vsock: Vsock
) -> None:
    with vsock.listen(HOST_PORT):
        for port in range(CONNECTIONS_MAX + 10):
            guest.say(VIRTIO_VSOCK_OP_REQUEST, src_port=port)
            guest.hears()
            guest.add_buffers(16 - len(guest.rx))
        assert len(vsock._ends) <= CONNECTIONS_MAX

    def have_ended() -> bool:
        guest.hears()
        guest.add_buffers(16 - len(guest.rx))
        return not vsock._ends

    wait_until(have_ended, "all have ended")


def test_messages_keep_their_ends(guest: VsockRig, vsock: Vsock) -> None:
    end = {"flags": VIRTIO_VSOCK_SEQ_EOM, **SEQPACKET}
    with dial(guest, vsock, **SEQPACKET) as peer:
        guest.say(VIRTIO_VSOCK_OP_RW, b"one, ", **SEQPACKET)
        guest.say(VIRTIO_VSOCK_OP_RW, b"two", **end)
        guest.say(VIRTIO_VSOCK_OP_RW, b"", **end)  # which no reader could tell from EOF
        guest.say(VIRTIO_VSOCK_OP_RW, b"three", **end)
        assert [peer.recv(100), peer.recv(100)] == [b"one, two", b"three"]
        peer.sendall(bytes(5000))
        peer.sendall(b"short")
        assert hear(guest, "RW", "RW", "RW") == bytes(5000) + b"short"


# Ends


def test_case_51_the_hosts_half_ends_and_the_guests_goes_on(
    guest: VsockRig, vsock: Vsock
) -> None:
    with dial(guest, vsock) as peer:
        peer.sendall(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert hear(guest, "RW", "SHUTDOWN") == b"last"
        assert guest.last is not None
        assert guest.last.flags == VIRTIO_VSOCK_SHUTDOWN_F_SEND
        guest.say(VIRTIO_VSOCK_OP_RW, b"goes on")
        assert peer.recv(100) == b"goes on"
    hear(guest, "SHUTDOWN")  # it has hung up, which nobody had to find out by sending
    assert guest.last.flags == SHUTDOWN_BOTH


def test_case_51_the_guests_half_ends_and_the_hosts_goes_on(
    guest: VsockRig, vsock: Vsock
) -> None:
    with dial(guest, vsock) as peer:
        guest.say(VIRTIO_VSOCK_OP_RW, b"last")
        guest.say(VIRTIO_VSOCK_OP_SHUTDOWN, flags=VIRTIO_VSOCK_SHUTDOWN_F_SEND)
        assert (peer.recv(100), peer.recv(100)) == (b"last", b"")
        peer.sendall(b"goes on")
        assert hear(guest, "RW") == b"goes on"


def test_a_guest_that_does_not_receive_breaks_the_hosts_pipe(
    guest: VsockRig, vsock: Vsock
) -> None:
    with dial(guest, vsock) as peer:
        guest.say(VIRTIO_VSOCK_OP_SHUTDOWN, flags=VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE)
        with pytest.raises(BrokenPipeError):
            peer.sendall(b"to nobody")
        guest.say(VIRTIO_VSOCK_OP_RW, b"but I say")
        assert peer.recv(100) == b"but I say"


def test_a_host_that_does_not_receive_has_the_guest_told(
    guest: VsockRig, vsock: Vsock
) -> None:
    with dial(guest, vsock) as peer:
        peer.shutdown(socket.SHUT_RD)
        guest.say(VIRTIO_VSOCK_OP_RW, b"to nobody")
        hear(guest, "SHUTDOWN")
        assert guest.last is not None
        assert guest.last.flags == VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE
        peer.sendall(b"but I say")
        assert hear(guest, "RW") == b"but I say"


@pytest.mark.parametrize("fields", [{}, SEQPACKET], ids=["stream", "seqpacket"])
def test_what_a_guest_said_last_comes_though_it_is_gone(
    fields: dict[str, int], guest: VsockRig, vsock: Vsock
) -> None:
    """And is no more than it had credit for; meanwhile its port is free."""
    eom = {"flags": VIRTIO_VSOCK_SEQ_EOM, **fields}
    with dial(guest, vsock, **fields) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(BUF_ALLOC // 4096):
            guest.say(VIRTIO_VSOCK_OP_RW, bytes(4096), **eom)
        (end,) = vsock._ends
        guest.hears()
        guest.say(VIRTIO_VSOCK_OP_RST, **fields)
        assert guest.device._connections == {}
        size = 0
        while data := peer.recv(1 << 16):
            size += len(data)
        assert size == BUF_ALLOC
    wait_until(lambda: end not in vsock._ends, "it is gone, too")


# What waits


def test_a_slow_host_holds_the_guest(guest: VsockRig, vsock: Vsock) -> None:
    with dial(guest, vsock) as peer:
        sent, told = 0, 0
        while sent - told <= BUF_ALLOC - 4096:
            guest.say(VIRTIO_VSOCK_OP_RW, bytes(4096))
            sent += 4096
            guest.hears()
            guest.add_buffers(16 - len(guest.rx))
            told = told if guest.last is None else guest.last.fwd_cnt
        (end,) = vsock._ends
        assert len(end._kept) == sent - end._connection._fwd_cnt <= BUF_ALLOC
        got = 0
        while got < sent:
            got += len(peer.recv(1 << 16))
        wait_until(lambda: not end._kept, "all is passed on")
        wait_until(lambda: "CREDIT_UPDATE" in guest.hears(), "and the guest told")


def test_case_52_a_host_that_is_held_or_gone_makes_nobody_spin(
    guest: VsockRig, vsock: Vsock, loop: EventLoop, on_loop: OnLoop
) -> None:
    turns = 0
    turn = loop._turn

    def counted() -> None:
        nonlocal turns
        turns += 1
        turn()

    loop._turn = counted  # type: ignore[method-assign]
    peer = dial(guest, vsock)
    guest.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE, buf_alloc=0)
    peer.sendall(b"x" * 1000)
    hear(guest, "CREDIT_REQUEST")
    peer.close()
    on_loop(lambda: None)
    before = turns
    assert not threading.Event().wait(0.1)
    assert turns <= before + 2
    guest.say(VIRTIO_VSOCK_OP_CREDIT_UPDATE)
    assert hear(guest, "RW", "SHUTDOWN") == b"x" * 1000


def test_case_52_a_host_whose_half_has_ended_makes_nobody_spin(
    guest: VsockRig, vsock: Vsock, loop: EventLoop, on_loop: OnLoop
) -> None:
    with dial(guest, vsock) as peer:
        peer.shutdown(socket.SHUT_WR)
        hear(guest, "SHUTDOWN")
        calls = 0
        (end,) = vsock._ends
        ready = end._on_ready

        def counted() -> None:
            nonlocal calls
            calls += 1
            ready()

        on_loop(lambda: loop.watch(end._fd, end._watched, counted))
        assert not threading.Event().wait(0.1)
        assert calls == 0


def test_without_buffers_the_host_waits(guest: VsockRig, vsock: Vsock) -> None:
    with dial(guest, vsock) as peer:
        peer.sendall(bytes(1 << 16))
        hear(guest, *["RW"] * 16)
        guest.device.serve(guest.device.queues[RX])
        guest.hears()


# The machine's life


def test_a_guest_that_is_gone_has_hung_up(guest: VsockRig, vsock: Vsock) -> None:
    with dial(guest, vsock) as peer, vsock.listen(1) as listener:
        guest.say(VIRTIO_VSOCK_OP_RW, b"last")
        vsock.power_off()
        assert (peer.recv(100), peer.recv(100)) == (b"last", b"")
        vsock.end(None)
        vsock.power_on()
        guest.begin()
        with vsock.listen(2):
            guest.say(VIRTIO_VSOCK_OP_REQUEST, dst_port=1)
            hear(guest, "RESPONSE")
        listener.accept()[0].close()


def test_while_it_is_held_nothing_reaches_it(guest: VsockRig, vsock: Vsock) -> None:
    with dial(guest, vsock) as peer:
        vsock.hold()
        peer.sendall(b"hello")
        (end,) = vsock._ends
        wait_until(lambda: not end._reads, "it was looked at")
        assert guest.hears() == []
        vsock.go_on()
        assert hear(guest, "RW") == b"hello"


def test_closed_it_refuses(loop: EventLoop) -> None:
    vsock = Vsock(loop, VsockConfig())
    with vsock.listen(1) as listener:
        vsock.close()
        vsock.close()
        with pytest.raises(OSError, match="the machine is closed"):
            listener.accept()
    with pytest.raises(VmmError, match="ended"):
        vsock.connect(1)
    with pytest.raises(ConfigError, match="ended"):
        vsock.listen(1)


@pytest.fixture
def no_descriptors() -> Iterator[Callable[[], None]]:
    """Has this process get no further ones."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit() -> None:
        used = open_fds()
        first = next(fd for fd in range(len(used) + 1) if fd not in used)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_where_there_is_no_descriptor_left_the_guest_is_refused(
    guest: VsockRig, vsock: Vsock, tmp_path: Path, no_descriptors: Callable[[], None]
) -> None:
    with vsock.listen(1), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "v_2"))
        listener.listen()
        no_descriptors()
        for port in (1, 2):
            guest.say(VIRTIO_VSOCK_OP_REQUEST, dst_port=port)
        assert guest.hears() == ["RST", "RST"]
        with pytest.raises(VmmError, match=r"^vsock: Too many open files"):
            vsock.connect(3)
    (tmp_path / "v_2").unlink()


# By paths


def test_files_are_their_users_alone(vsock: Vsock, tmp_path: Path) -> None:
    files = sorted(os.listdir(tmp_path))
    assert files == ["v", "v_seqpacket"]
    for file in files:
        assert stat.S_IMODE(os.stat(tmp_path / file).st_mode) == 0o600


def test_a_path_that_is_taken_is_refused(
    vsock: Vsock, loop: EventLoop, tmp_path: Path
) -> None:
    before = open_fds()
    with pytest.raises(ConfigError, match=r"^vsock: unix socket .*v' is served"):
        Vsock(loop, VsockConfig(path=str(tmp_path / "v")))
    with pytest.raises(ConfigError, match=r"^vsock: .* exists and is not a socket"):
        Vsock(loop, VsockConfig(path=str(tmp_path)))
    assert open_fds().keys() == before.keys()


def client(tmp_path: Path, *orders: bytes) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(DEADLINE)
    peer.connect(str(tmp_path / "v"))
    for order in orders:
        peer.sendall(order)
    return peer


def test_a_client_may_stammer(guest: VsockRig, vsock: Vsock, tmp_path: Path) -> None:
    with client(tmp_path) as peer:
        for byte in b"connect 5\n":
            peer.sendall(bytes((byte,)))
            threading.Event().wait(0.001)
        peer.sendall(b"and more")
        hear(guest, "REQUEST")
        assert guest.last is not None
        port = guest.last.src_port
        guest.say(VIRTIO_VSOCK_OP_RESPONSE, src_port=5, dst_port=port)
        assert peer.recv(100) == b"OK %d\n" % port
        assert hear(guest, "RW") == b"and more"


def test_a_client_whom_the_guest_refuses_is_hung_up_on(
    guest: VsockRig, vsock: Vsock, tmp_path: Path
) -> None:
    with client(tmp_path, b"CONNECT 5\n") as peer:
        hear(guest, "REQUEST")
        assert guest.last is not None
        port = guest.last.src_port
        guest.say(VIRTIO_VSOCK_OP_RST, src_port=5, dst_port=port)
        assert peer.recv(100) == b""


def test_a_client_whom_the_guest_does_not_answer_is_hung_up_on(
    guest: VsockRig, vsock: Vsock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_NS", 10_000_000)
    with client(tmp_path, b"CONNECT 5\n") as peer:
        assert peer.recv(100) == b""
    hear(guest, "REQUEST", "RST")


@pytest.mark.parametrize(
    "order",
    [
        *(b"\n", b"CONNECT\n", b"CONNECT -1\n", b"CONNECT 4294967295\n", b"GET 5\n"),
        *(b"x" * 32, b"CONNECT 5 6\n", b"CONNECT \xff\n", b"CONNECT \xb2\n"),
    ],
)
def test_a_client_that_says_something_else_is_hung_up_on(
    order: bytes, guest: VsockRig, vsock: Vsock, tmp_path: Path
) -> None:
    with client(tmp_path, order) as peer:
        assert peer.recv(100) == b""
    assert guest.hears() == []


def test_clients_that_say_nothing_are_bounded(vsock: Vsock, tmp_path: Path) -> None:
    silent = [client(tmp_path) for _ in range(64)]
    with client(tmp_path) as one_more:
        assert one_more.recv(100) == b""
    silent[0].close()
    hybrid = vsock._hybrid
    assert hybrid is not None
    wait_until(lambda: len(hybrid._clients) == 63, "one has gone")
    for peer in silent:
        peer.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_the_guest_reaches_who_listens_beside_the_path_with_its_type(
    kind: int, guest: VsockRig, vsock: Vsock, tmp_path: Path
) -> None:
    beside = tmp_path / f"v_{HOST_PORT}"
    fields = {} if kind == socket.SOCK_STREAM else SEQPACKET
    others = SEQPACKET if kind == socket.SOCK_STREAM else {}
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(str(beside))
        listener.listen()
        guest.say(VIRTIO_VSOCK_OP_REQUEST, **others)
        hear(guest, "RST")
        guest.say(VIRTIO_VSOCK_OP_REQUEST, **fields)
        hear(guest, "RESPONSE")
        listener.accept()[0].close()
        hear(guest, "SHUTDOWN")
    guest.say(VIRTIO_VSOCK_OP_REQUEST, src_port=9)  # whom nobody serves any more
    hear(guest, "RST")
    beside.unlink()
