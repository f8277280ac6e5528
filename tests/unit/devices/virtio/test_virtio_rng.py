"""VirtioRng: what a request gets, and when."""

import pytest
from support.virtio_device_rig import DeviceRig

from vmm.devices.clock import VirtualClock
from vmm.devices.virtio.rng import REQUEST_MAX, VirtioRng

MANY = 1 << 40  # bytes a second


class Source:
    """Bytes that tell one request from another."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, size: int) -> bytes:
        self.asked.append(size)
        return bytes([len(self.asked)]) * size


class RngRig(DeviceRig):
    """A started one."""

    def __init__(self, rate: int = MANY, burst: int | None = None) -> None:
        self.clock, self.source = VirtualClock(), Source()
        super().__init__(VirtioRng(self.clock, rate, burst, self.source))
        self.start()


def test_a_request_is_filled_and_the_driver_is_interrupted() -> None:
    rig = RngRig()
    request = rig.send(0, room=64)
    assert (request.data, rig.interrupts) == (b"\1" * 64, [0])


def test_requests_get_other_bytes_each() -> None:
    rig = RngRig()
    assert [rig.send(0, room=4).data for _ in range(2)] == [b"\1" * 4, b"\2" * 4]


def test_the_default_source_is_the_hosts() -> None:
    rig = DeviceRig(VirtioRng(VirtualClock()))
    rig.start()
    first, second = (rig.send(0, room=32).data for _ in range(2))
    assert len(first) == len(second) == 32
    assert first != second


def test_case_58_a_request_without_room_gets_nothing_and_is_used() -> None:
    rig = RngRig()
    request = rig.send(0, b"to be read")
    assert (request.is_done, request.length) == (True, 0)
    assert rig.send(0, room=1).length == 1


def test_case_58_a_huge_request_is_capped() -> None:
    rig = RngRig()
    driver = rig.drivers[0]
    # The same RAM many times: 12 MiB, as cheap for a guest as 4 GiB.
    request = driver.offer([(0x10000, 0x10000, True)] * 12)
    rig.kick(0)
    assert request.length == REQUEST_MAX
    assert rig.source.asked == [REQUEST_MAX]


def test_case_58_many_requests_come_no_faster_than_the_rate() -> None:
    rig = RngRig(rate=1000, burst=100)
    requests = [rig.drivers[0].send([], [64]) for _ in range(16)]
    rig.kick(0)
    assert [request.length for request in requests[:3]] == [64, 36, 0]
    rig.clock.advance(10**9)
    rig.collect()
    assert sum(request.length for request in requests) <= 1100
    rig.clock.advance(10**9)
    rig.collect()
    assert all(request.length > 0 for request in requests)


def test_kicks_while_it_waits_set_no_more_timers() -> None:
    rig = RngRig(rate=1000, burst=1)
    rig.send(0, room=1)
    waiting = rig.send(0, room=1)
    for _ in range(1000):
        rig.kick(0)
    rig.clock.advance(10**9)
    rig.collect()
    assert waiting.is_done
    assert sum(rig.source.asked) == 2


def test_case_23_what_waits_at_a_reset_is_never_written() -> None:
    rig = RngRig(rate=1000, burst=1)
    rig.send(0, room=1)
    waiting = rig.send(0, room=1)
    rig.device.stop()
    rig.interrupts.clear()
    rig.clock.advance(10**9)
    assert rig.ram.read(waiting.buffers[0][0], 1) == b"\xee"
    assert rig.interrupts == []


def test_it_works_again_after_a_reset_in_the_wait() -> None:
    rig = RngRig(rate=1000, burst=1)
    rig.send(0, room=1)
    rig.send(0, room=1)
    rig.start()
    rig.clock.advance(10**9)
    assert rig.send(0, room=1).is_done


@pytest.mark.parametrize(("rate", "burst"), [(0, None), (1, 0), (-1, 1)])
def test_a_rate_that_can_not_be_is_refused(rate: int, burst: int | None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        VirtioRng(VirtualClock(), rate, burst)
