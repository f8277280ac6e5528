"""A device behind a vhost-user socket, as its front end sees it."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from support.guests import DEADLINE
from support.vhost_front_end import VERSION_1, FrontEnd
from support.virtio_driver import EVENT_IDX, INDIRECT_DESC, PACKED

from vmm.devices.virtio.device import VirtioDevice
from vmm.devices.virtio.queue import Virtqueue
from vmm.vhost_user import protocol
from vmm.vhost_user.server import Server


class Shouter(VirtioDevice):
    """Answers in capitals. Queue 1 holds on to what it is asked until it is told to."""

    device_type = 42
    queue_sizes = (64, 64)
    features = 0b101
    packed = True

    def __init__(self) -> None:
        super().__init__()
        self.space = bytearray(b"configuration")
        self.lives = self.resets = 0
        self.reset_queues: list[int] = []
        self.is_asked = threading.Event()

    def config(self) -> bytes:
        return bytes(self.space)

    def write_config(self, offset: int, data: bytes) -> None:
        self.space[offset : offset + len(data)] = data

    def accepts(self, features: int) -> bool:
        return features & 0b101 != 0b100

    def activate(self) -> None:
        self.lives += 1

    def reset(self) -> None:
        self.resets += 1

    def reset_queue(self, queue: Virtqueue) -> None:
        self.reset_queues.append(queue.index)

    def handle(self, queue: Virtqueue) -> None:
        self.is_asked.set()
        for chain in queue:
            asked = chain.read(chain.readable_size)
            if asked == b"raise":
                raise RuntimeError("as it was asked to")
            if asked != b"wait":
                chain.write(asked.upper())
                queue.push(chain)


class Rig:
    def __init__(self) -> None:
        self.device = Shouter()
        self.told: list[str] = []
        ours, theirs = socket.socketpair()
        self.front_end = FrontEnd(ours)
        self.server = Server(self.device, theirs, self.told.append)
        self.server.start()

    def close(self) -> None:
        self.front_end.close()
        self.server.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def front_end(rig: Rig) -> FrontEnd:
    rig.front_end.begin()
    return rig.front_end


ALL = [
    packed | event_idx | INDIRECT_DESC
    for packed in (0, PACKED)
    for event_idx in (0, EVENT_IDX)
]


@pytest.mark.parametrize("features", ALL)
def test_requests_are_answered(front_end: FrontEnd, features: int) -> None:
    front_end.set_up(features)
    for index in (0, 1):
        driver = front_end.new_driver(index)
        front_end.start(index, driver)
        for at in range(30):
            request = driver.send([b"message %d" % at], [16], indirect=at % 2 == 1)
            assert driver.needs_kick()
            front_end.kick(index)
            front_end.wait_for_call(index)
            assert driver.collect() == [request]
            driver.enable_interrupts()
            assert request.data == b"MESSAGE %d" % at


def test_what_was_there_before_it_was_enabled_is_answered(front_end: FrontEnd) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    request = driver.send([b"early"], [16])
    front_end.start(0, driver)
    front_end.wait_for_call()
    assert driver.collect() == [request]


def test_a_disabled_ring_is_left_alone(rig: Rig, front_end: FrontEnd) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    front_end.start(0, driver)
    front_end.tell(protocol.SET_VRING_ENABLE, protocol.VRING_STATE, 0, 0)
    driver.send([b"hello"], [16])
    front_end.kick()
    front_end.ask_u64(protocol.GET_FEATURES)  # the kick has been seen by then
    front_end.ask_u64(protocol.GET_FEATURES)
    assert driver.collect() == []
    front_end.tell(protocol.SET_VRING_ENABLE, protocol.VRING_STATE, 0, 1)
    front_end.wait_for_call()
    assert len(driver.collect()) == 1


def test_a_ring_may_be_larger_than_the_devices_own(front_end: FrontEnd) -> None:
    front_end.set_up()
    driver = front_end.new_driver(size=1024)
    request = driver.send([b"x"] * 500)
    front_end.start(0, driver)
    front_end.wait_for_call()
    assert driver.collect() == [request]


def test_without_protocol_features_rings_start_enabled(rig: Rig) -> None:
    front_end = rig.front_end
    front_end.begin()  # or there would be no way to wait
    front_end.tell(protocol.SET_FEATURES, protocol.U64, VERSION_1)
    front_end.send_memory()
    driver = front_end.new_driver()
    driver.send([b"hello"], [16])
    front_end.start(0, driver, enable=False)
    front_end.wait_for_call()


def test_with_protocol_features_rings_start_disabled(front_end: FrontEnd) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    driver.send([b"hello"], [16])
    front_end.start(0, driver, enable=False)
    front_end.kick()
    front_end.ask_u64(protocol.GET_FEATURES)
    front_end.ask_u64(protocol.GET_FEATURES)
    assert driver.collect() == []


def test_features_are_the_devices_and_bit_30(front_end: FrontEnd) -> None:
    offered = front_end.ask_u64(protocol.GET_FEATURES)
    assert offered == Shouter().offered | 1 << 30


def test_queue_num_is_that_of_the_device(front_end: FrontEnd) -> None:
    assert front_end.ask_u64(protocol.GET_QUEUE_NUM) == 2


def test_the_device_gets_the_features_of_its_driver(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.set_up(EVENT_IDX | 0b001)
    driver = front_end.new_driver()
    driver.send([b"hello"], [16])
    front_end.start(0, driver)
    front_end.wait_for_call()
    assert rig.device.negotiated == VERSION_1 | EVENT_IDX | 0b001
    assert rig.device.lives == 1


# Configuration


def config(offset: int, data: bytes, flags: int = 0) -> bytes:
    return protocol.CONFIG.pack(offset, len(data), flags) + data


def test_configuration_is_read(front_end: FrontEnd) -> None:
    for offset, size, there in (
        (0, 13, b"configuration"),
        (6, 3, b"ura"),
        (9, 8, b"tion\0\0\0\0"),
        (200, 2, b"\0\0"),
        (3, 0, b""),
    ):
        reply = front_end.ask(protocol.GET_CONFIG, config(offset, bytes(size)))
        assert reply == config(offset, there)


def test_configuration_is_written(rig: Rig, front_end: FrontEnd) -> None:
    front_end.send(protocol.SET_CONFIG, config(6, b"ECTIONS"))
    reply = front_end.ask(protocol.GET_CONFIG, config(0, bytes(13)))
    assert reply == config(0, b"configECTIONS")


def test_a_change_of_the_configuration_is_told(rig: Rig, front_end: FrontEnd) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        front_end.send(
            protocol.SET_BACKEND_REQ_FD, b"", [theirs.fileno()], protocol.NEED_REPLY
        )
        assert front_end.receive()[2] == bytes(8)
        front_end.set_up()
        driver = front_end.new_driver()
        driver.send([b"hello"], [16])
        front_end.start(0, driver)
        front_end.wait_for_call()
        rig.device.config_changed()
        message = ours.recv(100)
        assert protocol.HEADER.unpack(message) == (2, protocol.VERSION, 0)
        for _ in range(10_000):  # and if nobody reads, nobody waits
            rig.device.config_changed()


# Stop, pause, reset


@pytest.mark.parametrize("features", ALL)
def test_a_ring_goes_on_from_its_base(
    rig: Rig, front_end: FrontEnd, features: int
) -> None:
    front_end.set_up(features)
    driver = front_end.new_driver()
    base = None
    for at in range(20):
        front_end.start(0, driver, base)
        request = driver.send([b"message %d" % at], [16])
        front_end.kick()
        front_end.wait_for_call()
        assert driver.collect() == [request]
        driver.enable_interrupts()
        base = front_end.stop(0)
    assert rig.device.lives == 1
    assert rig.device.is_active is False


@pytest.mark.parametrize("features", ALL)
def test_what_the_device_has_at_a_pause_it_gets_again(
    front_end: FrontEnd, features: int
) -> None:
    front_end.set_up(features)
    driver = front_end.new_driver()
    front_end.start(0, driver)
    answered = driver.send([b"hello"], [16])
    held = driver.send([b"wait"], [16])
    front_end.kick()
    front_end.wait_for_call()
    assert driver.collect() == [answered]
    driver.enable_interrupts()
    base = front_end.stop(0)
    front_end.ram.write(held.buffers[0][0], b"more")
    front_end.start(0, driver, base)
    front_end.wait_for_call()
    assert driver.collect() == [held]
    assert held.data == b"MORE"


def test_a_stopped_ring_is_left_alone(front_end: FrontEnd) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    front_end.start(0, driver)
    front_end.stop(0)
    driver.send([b"hello"], [16])
    front_end.kick()
    front_end.tell(protocol.SET_VRING_ENABLE, protocol.VRING_STATE, 0, 1)
    front_end.ask_u64(protocol.GET_FEATURES)
    assert driver.collect() == []
    assert os.eventfd_read(front_end.kicks[0]) == 1  # nobody has taken it


def test_rings_that_begin_anew_are_a_new_life(rig: Rig, front_end: FrontEnd) -> None:
    front_end.set_up()
    for life in range(1, 4):
        driver = front_end.new_driver()
        driver.send([b"hello"], [16])
        front_end.start(0, driver)
        front_end.wait_for_call()
        assert rig.device.lives == rig.device.resets == life
        front_end.stop(0)


def test_a_pause_before_the_first_request_is_none_of_a_life(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    front_end.start(0, driver, enable=False)
    assert front_end.stop(0) == 0
    driver.send([b"hello"], [16])
    front_end.start(0, driver, base=0)
    front_end.wait_for_call()
    assert rig.device.lives == 1


def test_a_new_driver_is_known_by_its_last_ring(rig: Rig, front_end: FrontEnd) -> None:
    front_end.set_up()
    for life in (1, 2):
        idle, busy = (front_end.new_driver(index) for index in (0, 1))
        idle.send([b"wait"], [16])
        rig.device.is_asked.clear()
        front_end.start(0, idle)
        assert rig.device.is_asked.wait(DEADLINE)  # before it knows of ring 1
        front_end.start(1, busy)
        busy.send([b"hello"], [16])
        front_end.kick(1)
        front_end.wait_for_call(1)
        assert rig.device.lives == life
        assert [front_end.stop(0), front_end.stop(1)] == [0, 1]


def test_a_ring_that_first_starts_after_a_pause_is_no_new_driver(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.set_up()
    driver, base = front_end.new_driver(), 0
    for _ in range(2):
        front_end.start(0, driver, base)
        driver.send([b"hello"], [16])
        front_end.kick()
        front_end.wait_for_call()
        driver.collect()
        base = front_end.stop(0)
    front_end.start(0, driver, base)
    other = front_end.new_driver(1)
    other.send([b"hello"], [16])
    front_end.start(1, other)
    front_end.wait_for_call(1)
    assert rig.device.lives == 1


def test_a_ring_that_is_reset_alone_is_no_new_driver(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.set_up()
    drivers = [front_end.new_driver(index) for index in (0, 1)]
    bases = [0, 0]
    for _ in range(2):
        for index in (0, 1):
            front_end.start(index, drivers[index], bases[index])
            drivers[index].send([b"hello"], [16])
            front_end.kick(index)
            front_end.wait_for_call(index)
            drivers[index].collect()
        bases = [front_end.stop(index) for index in (0, 1)]
    for index in (0, 1):
        front_end.start(index, drivers[index], bases[index])
    front_end.stop(1)
    front_end.calls.clear()
    front_end.start(1, front_end.new_driver(1))
    assert rig.device.lives == 1


def test_other_features_are_another_life(rig: Rig, front_end: FrontEnd) -> None:
    front_end.set_up()
    driver, base = front_end.new_driver(), 0
    for life, features in enumerate((0, 0b1), 1):
        front_end.set_up(features)
        driver.send([b"hello"], [16])
        front_end.start(0, driver, base)
        front_end.wait_for_call()
        assert (rig.device.lives, rig.device.negotiated) == (life, VERSION_1 | features)
        driver.collect()
        base = front_end.stop(0)


def test_reset_device_resets_it(rig: Rig, front_end: FrontEnd) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    driver.send([b"hello"], [16])
    front_end.start(0, driver)
    front_end.wait_for_call()
    resets = rig.device.resets
    front_end.send(protocol.RESET_DEVICE, b"", (), protocol.NEED_REPLY)
    assert front_end.receive()[2] == bytes(8)
    assert rig.device.resets == resets + 1
    assert not rig.device.queues[0].is_enabled
    front_end.set_up()
    driver = front_end.new_driver()
    driver.send([b"again"], [16])
    front_end.start(0, driver)
    front_end.wait_for_call()


def test_memory_that_is_mapped_anew(rig: Rig, front_end: FrontEnd) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    front_end.start(0, driver)
    held = driver.send([b"wait"], [16])
    answered = driver.send([b"hello"], [16])
    front_end.kick()
    front_end.wait_for_call()
    assert driver.collect() == [answered]
    front_end.ram.write(held.buffers[0][0], b"more")
    front_end.send_memory()
    assert rig.device.reset_queues == [0]
    front_end.wait_for_call()
    assert driver.collect() == [held]
    assert held.data == b"MORE"


def test_a_region_that_begins_in_the_middle_of_a_page(front_end: FrontEnd) -> None:
    front_end.ram.mmap_offset = 0x1230
    front_end.set_up()
    driver = front_end.new_driver()
    request = driver.send([b"hello"], [16])
    front_end.start(0, driver)
    front_end.wait_for_call()
    assert driver.collect() == [request]


# The end


def test_a_broken_ring_is_told_and_stops_only_the_device(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    front_end.start(0, driver)
    driver.offer([(1 << 40, 16, False)])
    front_end.kick()
    front_end.wait_for_err()
    front_end.ask_u64(protocol.GET_FEATURES)
    assert rig.told == [
        "Shouter: queue 0: a buffer at 0x10000000000 is not in RAM",
    ]
    front_end.stop(0)
    driver = front_end.new_driver()
    driver.send([b"hello"], [16])
    front_end.start(0, driver)
    front_end.wait_for_call()


def test_a_device_that_raises_ends_the_server_with_its_name(
    rig: Rig, front_end: FrontEnd
) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    driver.send([b"raise"], [16])
    front_end.start(0, driver)
    with pytest.raises(Exception, match="Shouter: RuntimeError: as it was asked to"):
        rig.server.wait()


def test_the_end_of_the_only_front_end_ends_the_server(rig: Rig) -> None:
    rig.front_end.begin()
    rig.front_end.socket.close()
    rig.server.wait()
    assert rig.told == []


def test_a_listening_server_takes_one_front_end_after_another() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("")
        listener.listen()
        told: list[str] = []
        server = Server(Shouter(), listener.dup(), told.append)
        server.start()
        try:
            clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
            for client in clients:
                client.connect(listener.getsockname())
            for client in clients:
                front_end = FrontEnd(client)
                front_end.begin()
                front_end.set_up()
                driver = front_end.new_driver()
                driver.send([b"hello"], [16])
                front_end.start(0, driver)
                front_end.wait_for_call()
                front_end.close()
        finally:
            server.close()
    assert told == []


def test_a_kick_that_ends_is_not_waited_for(rig: Rig, front_end: FrontEnd) -> None:
    front_end.set_up()
    driver = front_end.new_driver()
    front_end.start(0, driver)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            fd = theirs.fileno()
            front_end.tell(protocol.SET_VRING_KICK, protocol.U64, 0, fd=fd)
        driver.send([b"hello"], [16])
        ours.send(bytes(8))
        front_end.wait_for_call()
        ours.shutdown(socket.SHUT_WR)
        ours.settimeout(60)
        assert ours.recv(1) == b""  # closed, or it would be readable for ever
    front_end.tell(protocol.SET_VRING_KICK, protocol.U64, 0, fd=front_end.kicks[0])
    driver.collect()
    driver.send([b"hello"], [16])
    front_end.kick()
    front_end.wait_for_call()
