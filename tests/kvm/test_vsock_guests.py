"""Programs of a Linux guest's and of the host's, that speak by AF_VSOCK."""

import hashlib
import os
import random
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.guests import (
    DEADLINE,
    built,
    kernel,
    process_status,
    wait_until,
    with_script,
)
from support.pci_example import build_program

from vmm import ExitReason, Machine, MachineConfig, Snapshot
from vmm.errors import VmmError
from vmm.guest import cpio
from vmm.vsock.config import VsockConfig

pytestmark = pytest.mark.linux

SOURCE = Path(__file__).parents[1] / "support/vsock_guest.c"
VMM = (sys.executable, "-m", "vmm")
MIB = 1 << 20
BOTH = [
    pytest.param(socket.SOCK_STREAM, id="stream"),
    pytest.param(socket.SOCK_SEQPACKET, id="seqpacket"),
]
ECHO, ECHO_MESSAGES = 7, 8
# Of Debian's kernel, in an order in which insmod takes them.
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev"),
    *("virtio_pci", "vsock", "vmw_vsock_virtio_transport_common"),
    "vmw_vsock_virtio_transport",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's."""
    folder = tmp_path_factory.mktemp("program")
    build_program(SOURCE, folder)
    return folder / SOURCE.stem


def config(**settings: Any) -> MachineConfig:  # noqa: ANN401
    image = settings.pop("kernel", None) or kernel("full")
    return MachineConfig(kernel=image, append="quiet", timeout=8 * DEADLINE, **settings)


def prepare(machine: Machine, program: Path) -> None:
    """Have somebody there who echoes."""
    machine.guest.put(program, "/bin/vsock_guest")
    for arguments in (f"{ECHO}", f"{ECHO_MESSAGES} seqpacket"):
        in_background(machine, f"vsock_guest echo {arguments}")


def in_background(machine: Machine, command: str) -> None:
    machine.guest.run(f"({command}) </dev/null >/dev/null 2>&1 &", check=True)


@pytest.fixture(scope="module", params=["pci", "mmio"])
def machine(
    request: pytest.FixtureRequest,
    program: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    """One whose guest echoes, and that programs meet at a path."""
    path = tmp_path_factory.mktemp("vsock") / "v"
    settings = {"agent": True, "vsock": path, "transport": request.param}
    with Machine(config(**settings)) as machine:
        machine.start()
        prepare(machine, program)
        yield machine
        assert machine.warnings == []


@pytest.fixture
def path(machine: Machine) -> str:
    assert machine.config.vsock is not None
    assert machine.config.vsock.path is not None
    return machine.config.vsock.path


def ask(machine: Machine, command: str, **how: Any) -> str:  # noqa: ANN401
    """What a command of the guest's prints."""
    done = machine.guest.run(command, text=True, timeout=DEADLINE, **how)
    assert done.stderr == ""
    return str(done.stdout)


def all_of(peer: socket.socket) -> bytes:
    """All that comes until the end."""
    peer.settimeout(DEADLINE)
    data = bytearray()
    while part := peer.recv(1 << 16):
        data += part
    return bytes(data)


def echoed(peer: socket.socket, data: bytes) -> bytes:
    """Send it, and say that this was all; what comes back."""

    def send() -> None:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    back = all_of(peer)
    sender.join()
    return back


def test_the_guest_has_its_address(machine: Machine) -> None:
    assert ask(machine, "vsock_guest cid") == "3\n"
    assert machine.vsock.cid == 3


def test_a_guest_calls_and_each_side_ends_what_it_says(machine: Machine) -> None:
    with machine.vsock.listen(80) as listener:
        listener.settimeout(DEADLINE)

        def serve() -> tuple[int, int]:
            peer, address = listener.accept()
            with peer:
                peer.sendall(all_of(peer).upper())
            return address

        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve)
            assert ask(machine, "echo hello | vsock_guest call 80") == "HELLO\n"
            cid, port = served.result(DEADLINE)
    assert cid == 3
    assert port > 0


def test_messages_come_as_they_are_sent(machine: Machine) -> None:
    sizes = [1, 5, 4000, 5000, 70_000, 256 << 10]
    listener = machine.vsock.listen(81, socket.SOCK_SEQPACKET)
    with listener, ThreadPoolExecutor(1) as pool:
        call = "echo hi | vsock_guest call 81 seqpacket"
        called = pool.submit(ask, machine, call)
        listener.settimeout(DEADLINE)
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(100) == b"hi\n"
            for size in sizes:
                peer.sendall(bytes(size))
        told = called.result(DEADLINE)
    assert [int(line) for line in told.split()] == sizes
    chance = random.Random(1)
    with machine.vsock.connect(ECHO_MESSAGES, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(DEADLINE)
        for size in sizes:
            message = chance.randbytes(size)
            peer.sendall(message)
            assert peer.recv(MIB) == message


def test_many_megabytes_go_both_ways_at_once(machine: Machine) -> None:
    data = random.Random(2).randbytes(16 * MIB)
    with machine.vsock.connect(ECHO, timeout=DEADLINE) as peer:
        assert echoed(peer, data) == data


def test_many_connections_at_once(machine: Machine) -> None:
    chance = random.Random(3)
    texts = [chance.randbytes(chance.randrange(1, 50_000)) for _ in range(100)]

    def one(text: bytes) -> bytes:
        with machine.vsock.connect(ECHO, timeout=DEADLINE) as peer:
            return echoed(peer, text)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, texts)) == texts
    gone = machine.vsock._ends
    wait_until(lambda: not gone, "all connections are gone")
    assert machine.vsock.device._connections == {}


@pytest.mark.parametrize("kind", BOTH)
def test_nobody_at_a_port_refuses(machine: Machine, kind: int) -> None:
    with pytest.raises(ConnectionRefusedError, match="port 99"):
        machine.vsock.connect(99, kind, timeout=0.5)
    name = "" if kind == socket.SOCK_STREAM else "seqpacket"
    done = machine.guest.run(f"vsock_guest call 99 {name} </dev/null", text=True)
    assert "Connection reset by peer" in done.stderr


def test_a_slow_reader_holds_the_guest_and_loses_nothing(machine: Machine) -> None:
    size = 8 * MIB
    in_background(machine, f"head -c {size} /dev/zero | vsock_guest push 82")
    before = process_status("VmRSS")
    with machine.vsock.connect(82, timeout=DEADLINE) as peer:
        ends = machine.vsock._ends
        (end,) = (end for end in ends if end._connection.guest_port == 82)
        wait_until(lambda: len(end._kept) > 200_000, "the guest waits for us")
        assert len(end._kept) <= 256 << 10
        assert process_status("VmRSS") - before < 4 << 10  # KiB
        assert len(all_of(peer)) == size


def test_a_slow_reader_of_the_guests_holds_us_and_loses_nothing(
    machine: Machine,
) -> None:
    size = 2 * MIB
    in_background(machine, "vsock_guest pull 83 | (sleep 1; sha256sum >/tmp/sum)")
    data = random.Random(4).randbytes(size)
    with machine.vsock.connect(83, timeout=DEADLINE) as peer:
        peer.sendall(data)
    seen = hashlib.sha256(data).hexdigest()
    loop = f"until grep -q {seen} /tmp/sum; do sleep 0.1; done; echo same"
    assert ask(machine, f"touch /tmp/sum; {loop}") == "same\n"


def test_a_program_that_is_killed_ends_its_connection(machine: Machine) -> None:
    in_background(machine, "vsock_guest pull 84 & echo $! >/tmp/pid; wait")
    with machine.vsock.connect(84, timeout=DEADLINE) as peer:
        ask(machine, "kill -9 $(cat /tmp/pid)")
        assert all_of(peer) == b""


def test_a_host_that_hangs_up_ends_it_in_the_guest(machine: Machine) -> None:
    with machine.vsock.listen(85) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(DEADLINE)
        told = pool.submit(ask, machine, "vsock_guest drop 85")
        listener.accept()[0].close()
        assert told.result(DEADLINE) == "Success\n"


# By paths


def client_of(path: str, order: bytes, kind: int = socket.SOCK_STREAM) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, kind)
    peer.settimeout(DEADLINE)
    peer.connect(path if kind == socket.SOCK_STREAM else f"{path}_seqpacket")
    peer.sendall(order)
    return peer


def test_a_client_says_which_port_it_wants(machine: Machine, path: str) -> None:
    with client_of(path, b"CONNECT %d\n" % ECHO) as peer:
        assert re.fullmatch(rb"OK \d+\n", peer.recv(100))
        assert echoed(peer, b"hello") == b"hello"


def test_a_client_may_go_on_at_once(machine: Machine, path: str) -> None:
    with client_of(path, b"CONNECT %d\nhello" % ECHO) as peer:
        peer.shutdown(socket.SHUT_WR)
        assert re.fullmatch(rb"OK \d+\nhello", all_of(peer))


def test_a_client_of_messages(machine: Machine, path: str) -> None:
    kind = socket.SOCK_SEQPACKET
    with client_of(path, b"CONNECT %d\n" % ECHO_MESSAGES, kind) as peer:
        assert peer.recv(100).startswith(b"OK ")
        for message in (b"one", b"and another"):
            peer.sendall(message)
            assert peer.recv(100) == message


@pytest.mark.parametrize("order", [b"CONNECT 99\n", b"CONNECT x\n", b"x" * 100, b"\n"])
def test_who_asks_for_nobody_is_hung_up_on(
    machine: Machine, path: str, order: bytes
) -> None:
    with client_of(path, order) as peer:
        try:
            answer = peer.recv(100)
        except ConnectionResetError:  # it was told more than it has read
            answer = b""
    assert answer == b""


@pytest.mark.parametrize("kind", BOTH)
def test_the_guest_reaches_who_listens_beside_the_path(
    machine: Machine, path: str, kind: int
) -> None:
    name = "" if kind == socket.SOCK_STREAM else "seqpacket"
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(f"{path}_90")
        listener.listen()
        listener.settimeout(DEADLINE)
        with ThreadPoolExecutor(1) as pool:
            called = pool.submit(ask, machine, f"echo hi | vsock_guest call 90 {name}")
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(100) == b"hi\n"
                peer.sendall(b"7 bytes")
            assert called.result(DEADLINE) == ("7 bytes" if not name else "7\n")
    os.unlink(f"{path}_90")


def test_the_files_are_their_users_alone(machine: Machine, path: str) -> None:
    for file in (path, f"{path}_seqpacket"):
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


# In a machine's life


def test_case_54_clones_lose_their_connections_and_listen_on(
    machine: Machine, tmp_path: Path
) -> None:
    with machine.vsock.listen(86) as listener:
        listener.settimeout(DEADLINE)
        in_background(machine, "vsock_guest drop 86 >/tmp/dropped")
        kept, _ = listener.accept()
    kept.sendall(b"there\n")
    ask(machine, "until grep there /tmp/dropped; do sleep 0.05; done")
    with kept, machine.vsock.connect(ECHO) as peer, machine.snapshot() as snapshot:
        for clone in (snapshot.clone(), *saved_clones(snapshot, tmp_path)):
            with clone:
                with clone.vsock.connect(ECHO, timeout=DEADLINE) as other:
                    assert echoed(other, b"hello") == b"hello"
                wait = "until grep peer /tmp/dropped; do sleep 0.05; done"
                assert ask(clone, wait) == "Connection reset by peer\n"
        assert echoed(peer, b"hello") == b"hello"  # of the machine's, which went on
        assert ask(machine, "cat /tmp/dropped") == "there\n"
        machine.reset()
        assert all_of(kept) == b""
        with machine.vsock.connect(ECHO, timeout=DEADLINE) as other:
            assert echoed(other, b"again") == b"again"


def saved_clones(snapshot: Snapshot, folder: Path) -> Iterator[Machine]:
    """One from a file, which is met at a path of its own."""
    snapshot.save(folder / "saved")
    with Snapshot.load(folder / "saved") as loaded:
        path = str(folder / "v")
        yield loaded.clone(vsock=VsockConfig(path=path, cid=3))


def test_a_paused_guest_hears_nothing_before_it_goes_on(machine: Machine) -> None:
    with machine.vsock.connect(ECHO) as peer:
        machine.pause()
        try:
            peer.sendall(b"hello")
            peer.settimeout(0.3)
            with pytest.raises(TimeoutError):
                peer.recv(100)
        finally:
            machine.resume()
        peer.settimeout(DEADLINE)
        assert peer.recv(100) == b"hello"


def test_its_driver_leaves_and_comes_back(machine: Machine) -> None:
    name = ask(machine, "ls /sys/bus/virtio/drivers/*vsock* -d").strip()
    device = ask(machine, f"cd {name}; ls -d virtio*").strip()
    with machine.vsock.connect(ECHO) as peer:
        ask(machine, f"cd {name} && echo {device} >unbind")
        assert all_of(peer) == b""
    with pytest.raises(TimeoutError, match="CONFIG_VIRTIO_VSOCKETS"):
        machine.vsock.connect(ECHO, timeout=0.2)
    ask(machine, f"cd {name} && echo {device} >bind")
    with machine.vsock.connect(ECHO, timeout=DEADLINE) as peer:
        assert echoed(peer, b"hello") == b"hello"


def image_of(folder: Path, program: Path, script: str) -> Path:
    """An initramfs with both."""
    image = with_script(folder, script)
    binary = cpio.file("bin/vsock_guest", program.read_bytes(), 0o755)
    image.write_bytes(image.read_bytes() + cpio.write([binary]))
    return image


def accept_all(listener: socket.socket) -> None:
    while True:
        listener.accept()[0].close()


def test_connections_end_with_each_boot_and_listeners_with_the_last(
    program: Path, tmp_path: Path
) -> None:
    script = "echo there | vsock_guest call 80; echo through"
    initrd, path = image_of(tmp_path, program, script), tmp_path / "v"
    settings = config(initrd=initrd, vsock=path, on_reset="restart")
    with Machine(settings) as machine, machine.vsock.listen(80) as listener:
        listener.settimeout(DEADLINE)
        machine.start()
        for _ in range(2):
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(100) == b"there\n"
        peer, _ = listener.accept()
        machine.stop()
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
        with peer:
            assert all_of(peer) in (b"", b"there\n")
        with pytest.raises(OSError, match="the machine is closed"):
            accept_all(listener)
        with pytest.raises(VmmError, match="the guest has ended"):
            machine.vsock.connect(ECHO)
    assert not path.exists()


def test_what_a_guest_says_last_is_heard(program: Path, tmp_path: Path) -> None:
    """Though it resets at once."""
    script = "head -c 100000 /dev/zero | vsock_guest call 80"
    settings = config(initrd=image_of(tmp_path, program, script), vsock=True)
    with Machine(settings) as machine, machine.vsock.listen(80) as listener:
        listener.settimeout(DEADLINE)
        machine.start()
        peer, _ = listener.accept()
        with peer:
            peer.shutdown(socket.SHUT_WR)
            assert machine.wait(DEADLINE).reason is ExitReason.RESET
            assert len(all_of(peer)) == 100_000


def test_the_command_has_it_and_leaves_no_file(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "v"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}_90")
        listener.listen()
        listener.settimeout(DEADLINE)
        command = [*VMM, "run", "--kernel", str(kernel("full")), "--vsock", str(path)]
        command += ["--add", f"{program}:/bin/vsock_guest", "--capture", "--quiet"]
        command += ["--exec", "vsock_guest call 90", "--timeout", str(DEADLINE)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        with process, listener.accept()[0] as peer:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            peer.sendall(b"from the host\n")
            peer.shutdown(socket.SHUT_WR)
            assert all_of(peer) == b""
            output, _ = process.communicate(timeout=DEADLINE)
    assert (process.returncode, output) == (0, b"from the host\n")
    assert os.listdir(tmp_path) == ["v_90"]


@pytest.mark.hardware
def test_debians_kernel_speaks_by_it_and_has_no_complaint(program: Path) -> None:
    settings = config(kernel=built("vmlinux-debian"), agent=True, vsock=True)
    with Machine(settings) as machine, machine.vsock.listen(80) as listener:
        machine.start()
        for name in MODULES:
            machine.guest.put(built(f"modules-debian/{name}.ko"), "/module.ko")
            assert ask(machine, "insmod /module.ko") == ""
        prepare(machine, program)
        data = random.Random(5).randbytes(MIB)
        with machine.vsock.connect(ECHO, timeout=DEADLINE) as peer:
            assert echoed(peer, data) == data
        kind = socket.SOCK_SEQPACKET
        with machine.vsock.connect(ECHO_MESSAGES, kind, timeout=DEADLINE) as peer:
            peer.settimeout(DEADLINE)
            peer.sendall(data[:70_000])
            assert peer.recv(MIB) == data[:70_000]
        in_background(machine, "echo hello | vsock_guest call 80")
        listener.settimeout(DEADLINE)
        peer, _ = listener.accept()
        with peer:
            assert all_of(peer) == b"hello\n"
        complaints = "dmesg -r | grep '^<[0-4]>' | grep -i vsock"
        assert ask(machine, complaints) == ""
