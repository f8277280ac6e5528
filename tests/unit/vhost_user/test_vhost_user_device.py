"""A virtio device that another process serves, as its driver and its machine see it."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from support.vhost_front_end import PATIENCE_MS, wait_for
from support.virtio_driver import EVENT_IDX, PACKED
from support.virtio_echo import ECHO, LOUD, Echo
from support.virtio_transports import (
    DRIVERS,
    NEEDS_RESET,
    RAM_SIZE,
    VERSION_1,
    PciDriver,
    TransportDriver,
)

from vmm.devices.virtio.features import VIRTIO_F_RING_RESET
from vmm.errors import ConfigError, VmmError
from vmm.event_loop import EventLoop
from vmm.memory import GuestMemory, Range
from vmm.vhost_user import front_end
from vmm.vhost_user.device import VhostUserDevice
from vmm.vhost_user.server import Server

CONFIG_SIZE: Final = 12
WORDS: Final = b"some words"


class PackedEcho(Echo):
    packed = True


class Served:
    """A BackendProgram: an Echo on a thread of its own, anew for each connection."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.servers: list[Server] = []
        self.words = "it was told to"
        self.is_closed = False

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.echo = PackedEcho()
        self.servers.append(Server(self.echo, theirs, self.told.append))
        self.servers[-1].start()
        return ours

    def last_words(self) -> str:
        return self.words

    def die(self) -> None:
        self.servers[-1].close()

    def close(self) -> None:
        self.is_closed = True
        for server in self.servers:
            server.close()


def wait_until_true(condition: Callable[[], bool]) -> None:
    """Another thread is at it."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


class Rig:
    def __init__(self, way: str) -> None:
        self.backend = Served()
        self.errors: list[Exception] = []
        self.loop = EventLoop(self.errors.append)
        self.memory = GuestMemory([Range(0, RAM_SIZE), Range(1 << 32, 0x1000)])
        self.device = VhostUserDevice(
            *(ECHO, self.backend),
            queue_sizes=(16, 8),
            config_size=CONFIG_SIZE,
            name="the echo",
        )
        self.driver: TransportDriver = DRIVERS[way](self.device, self.memory)
        self.device.join(self.memory, self.loop)
        self.loop.start()

    def ask(self, queue: int = 0, words: bytes = WORDS) -> bytes:
        """What the driver gets for an answer, once it is interrupted."""
        ring = self.driver.rings[queue]
        request = self.driver.send(queue, [words], [len(words)])
        self.wait_for_interrupt(queue)
        assert ring.collect() == [request]
        return request.data

    def wait_for_interrupt(self, queue: int) -> None:
        if isinstance(self.driver, PciDriver) and self.driver.takes_messages:
            # KVM listens to that.
            wait_for(self.device.call_signal(self.device.queues[queue]).fd)
        else:
            wait_until_true(lambda: "used" in self.driver.events())

    def wait_for_trouble(self) -> None:
        wait_until_true(lambda: "config" in self.driver.events())

    def close(self) -> None:
        self.loop.close()
        self.device.close()
        self.memory.close()
        assert self.backend.is_closed
        assert self.errors == []


@pytest.fixture(params=DRIVERS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(request.param)
    yield rig
    rig.close()


@pytest.fixture
def pci() -> Iterator[Rig]:
    rig = Rig("pci")
    yield rig
    rig.close()


@pytest.mark.parametrize("features", [0, EVENT_IDX, PACKED, PACKED | EVENT_IDX])
def test_driver_has_its_requests_answered(rig: Rig, features: int) -> None:
    rig.driver.start(VERSION_1 | features)
    for queue in (0, 1, 1, 0):
        assert rig.ask(queue) == WORDS
        rig.driver.rings[queue].enable_interrupts()


def test_what_the_backend_offers_is_offered(rig: Rig) -> None:
    rig.driver.negotiate(VERSION_1 | 1 << LOUD)
    rig.driver.start(VERSION_1 | 1 << LOUD)
    assert rig.ask() == WORDS.upper()


def test_what_a_front_end_can_not_pass_on_is_not_offered(rig: Rig) -> None:
    assert not rig.driver.offered() >> VIRTIO_F_RING_RESET & 1


def test_configuration_is_the_backends(rig: Rig) -> None:
    assert rig.driver.read_config(0, CONFIG_SIZE) == rig.backend.echo.config()
    rig.driver.write_config(8, b"tags")
    assert rig.backend.echo.tag == b"tags"
    assert rig.driver.read_config(8, 4) == b"tags"


def test_driver_is_told_when_the_backend_changes_it(rig: Rig) -> None:
    rig.driver.start()
    assert rig.ask() == WORDS
    rig.backend.echo.capacity = 5
    rig.backend.echo.config_changed()
    wait_until_true(lambda: "config" in rig.driver.events())
    assert rig.driver.read_config(0, 8) == (5).to_bytes(8, "little")


def test_reset_goes_to_the_backend_and_the_next_driver_starts_anew(rig: Rig) -> None:
    for _ in range(4):
        rig.driver.start()
        assert rig.ask() == WORDS
        rig.driver.reset_machine()
        assert not rig.backend.echo.is_active
    assert rig.backend.echo.calls.count("activate") == 4


def test_case_23_nothing_is_written_after_a_reset(rig: Rig) -> None:
    rig.backend.echo.holds = True
    rig.driver.start()
    request = rig.driver.send(0, [WORDS], [len(WORDS)])
    rig.driver.reset_machine()
    rig.backend.echo.answer_all()
    assert rig.driver.rings[0].collect() == []
    assert request.data == b""


def test_pause_stops_the_backend_until_it_goes_on(rig: Rig) -> None:
    rig.driver.start()
    assert rig.ask() == WORDS
    rig.device.hold()
    request = rig.driver.send(0, [WORDS], [len(WORDS)])
    assert rig.driver.rings[0].collect() == []
    rig.device.go_on()
    rig.wait_for_interrupt(0)
    assert rig.driver.rings[0].collect() == [request]


def test_pause_and_reset_then(rig: Rig) -> None:
    rig.driver.start()
    rig.device.hold()
    rig.driver.reset_machine()
    rig.device.go_on()
    rig.driver.start()
    assert rig.ask() == WORDS


def test_case_65_backend_that_dies_needs_a_reset_and_says_so_once(rig: Rig) -> None:
    rig.driver.start()
    rig.backend.die()
    rig.wait_for_trouble()
    assert rig.driver.status & NEEDS_RESET
    assert rig.driver.told == ["its backend has gone: it was told to"]
    rig.driver.send(0, [WORDS], [len(WORDS)])  # nobody minds
    rig.driver.write_config(8, b"tags")


def test_driver_that_resets_it_finds_the_next_backend(rig: Rig) -> None:
    rig.driver.start()
    rig.backend.die()
    rig.wait_for_trouble()
    rig.driver.reset_machine()
    rig.driver.start()
    assert not rig.driver.status & NEEDS_RESET
    assert rig.ask() == WORDS
    assert len(rig.backend.servers) == 2


def test_backend_that_does_not_come_again_leaves_it_broken(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.driver.start()
    rig.backend.die()
    rig.wait_for_trouble()

    def refuse() -> socket.socket:
        raise VmmError("it has died too often")

    monkeypatch.setattr(rig.backend, "connect", refuse)
    rig.driver.reset_machine()
    rig.driver.start()
    assert rig.driver.status & NEEDS_RESET
    assert rig.driver.told[1:] == ["its backend has gone: it has died too often"]


def test_driver_that_breaks_the_ring_has_it_stopped_by_the_backend(rig: Rig) -> None:
    rig.driver.start()
    rig.memory.view(rig.device.queues[0].driver + 2, 2).cast("H")[0] = 1000
    rig.driver.kick(0)
    rig.wait_for_trouble()
    assert rig.driver.told == ["its backend has stopped: its driver breaks the rules"]
    rig.driver.reset_machine()
    rig.driver.start()
    assert rig.ask() == WORDS


def test_backend_that_hangs_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.driver.start()
    monkeypatch.setattr(front_end, "REPLY_S", 0.01)
    with rig.backend.echo.lock:  # which its messages are answered with
        rig.driver.reset_machine()
    assert rig.driver.told == ["its backend has gone: request 11 isn't answered"]


# Interrupts without a word to us


def test_message_is_sent_by_the_backends_own_eventfd(pci: Rig) -> None:
    pci.driver.start()
    for queue, line in zip(pci.device.queues, pci.driver.lines[1:], strict=False):
        assert line.heard == {pci.device.call_signal(queue).fd}  # type: ignore[attr-defined]


def test_masked_message_is_pending_and_sent_once_it_is_not(pci: Rig) -> None:
    driver = pci.driver
    assert isinstance(driver, PciDriver)
    driver.start()
    mask_all(driver, masked=True)
    assert [line.heard for line in driver.lines[:3]] == [set()] * 3  # type: ignore[attr-defined]
    driver.send(0, [WORDS], [len(WORDS)])
    messages = driver.pci._msix.messages  # type: ignore[union-attr]
    wait_until_true(lambda: messages.pending[1])
    edges = driver.lines[1].edges
    mask_all(driver, masked=False)
    assert driver.lines[1].edges == edges + 1
    assert driver.lines[1].heard  # type: ignore[attr-defined]


def mask_all(driver: PciDriver, *, masked: bool) -> None:
    at = driver.function.capabilities()[0x11]
    driver.function.set(at + 2, 0x8000 | (0x4000 if masked else 0), 2)


# Those that can't be


def test_nobody_at_the_socket_is_one_line(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "nobody.sock")
    with pytest.raises(ConfigError, match=r"vhost-user: '.*nobody.sock': No such file"):
        VhostUserDevice(ECHO, path)


class Once:
    """A BackendProgram that says something to whoever connects, and leaves."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.send(self._data)
        theirs.shutdown(socket.SHUT_WR)
        self._theirs = theirs
        return ours

    def last_words(self) -> str:
        return ""

    def close(self) -> None:
        self._theirs.close()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "its backend has gone"),
        (b"HTTP/1.1 400 Bad Request", "doesn't work: flags 0x312e312f are of no ver"),
        (
            b"\1\0\0\0\5\0\0\0\7\0\0\0seven..",
            "work: request 1 is answered by 7",
        ),
        (b"\2\0\0\0\5\0\0\0\0\0\0\0", "doesn't work: request 1 is answered by one, 2"),
        (b"\1\0\0\0\5\0\0\0\x08\0\0\0" + bytes(8), "doesn't work: it is too old"),
    ],
)
def test_backend_that_speaks_otherwise_is_one_line(data: bytes, what: str) -> None:
    backend = Once(data)
    with pytest.raises(ConfigError, match=f"^it: .*{what}"):
        VhostUserDevice(ECHO, backend, name="it")
    backend.close()


def test_backend_with_fewer_queues_is_one_line() -> None:
    backend = Served()
    with pytest.raises(ConfigError, match="doesn't work: 3 queues, and it has 2"):
        VhostUserDevice(ECHO, backend, queue_sizes=(8, 8, 8))
    backend.close()
