"""The host's side of virtio devices: hvc0 behind ttyS0, and who waits for a balloon."""

import threading
from typing import TYPE_CHECKING

import pytest
from support.guests import DEADLINE
from support.plain_ram import PlainRam
from support.serial_rig import StallSink
from support.virtio_device_rig import DeviceRig

from vmm.devices.virtio.balloon import VirtioBalloon
from vmm.errors import ConfigError, VmmError
from vmm.event_loop import EventLoop
from vmm.machine.balloon import Balloon
from vmm.machine.virtio_extras import AfterSerial

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ("support.loop_fixtures",)

STATS_VQ = 2


class FakeSerial:
    """Of which KVM may have some bytes to itself."""

    def __init__(self, sink: StallSink) -> None:
        self.is_collecting = False
        self._sink = sink

    def flush(self) -> None:
        self._sink.write(b"early, ")


class Order:
    """Both ways into one sink, and whom KVM is to be asked for by."""

    def __init__(self, loop: EventLoop, room: int = 100) -> None:
        self.sink = StallSink(room)
        self.serial = FakeSerial(self.sink)
        self.asked: list[Callable[[], None]] = []
        self.went_on = threading.Event()
        self.hvc0 = AfterSerial(self.sink, self.serial, loop, self.asked.append)  # type: ignore[arg-type]
        self.hvc0.on_room = self.went_on.set


def test_without_anything_of_ttys0s_hvc0_goes_straight_on(loop: EventLoop) -> None:
    order = Order(loop)
    assert order.hvc0.write(b"late") == 4
    assert order.asked == []


def test_hvc0_waits_for_what_kvm_has_collected(loop: EventLoop) -> None:
    order = Order(loop)
    order.serial.is_collecting = True
    assert order.hvc0.write(b"late") == 0
    assert order.hvc0.write(b"late") == 0
    assert len(order.asked) == 1
    loop.start()
    order.asked[0]()
    assert order.went_on.wait(DEADLINE)
    assert order.hvc0.write(b"late") == 4
    assert order.sink.data == b"early, late"
    assert order.hvc0.write(b"later") == 0  # there may be more of it again
    assert len(order.asked) == 2


def test_room_in_the_sink_is_told(loop: EventLoop) -> None:
    order = Order(loop, room=2)
    assert order.hvc0.write(b"late") == 2
    order.sink.make_room(2)
    assert order.went_on.is_set()


class BalloonRig(DeviceRig):
    device: VirtioBalloon

    def __init__(self) -> None:
        ram = PlainRam(1 << 20)
        super().__init__(VirtioBalloon(ram, 1 << 20), ram)
        self.balloon = Balloon(self.device)


def test_a_balloon_is_waited_for_until_the_guest_says_that_it_has_it() -> None:
    rig = BalloonRig()
    rig.start(STATS_VQ)
    rig.balloon.target = 8192
    told = bytes([2, 0, 0, 0])
    threading.Timer(0.05, rig.device.write_config, (4, told)).start()
    rig.balloon.wait(DEADLINE)
    assert rig.balloon.actual == 8192


def test_nobody_waits_longer_than_he_says() -> None:
    rig = BalloonRig()
    rig.balloon.target = 8192
    with pytest.raises(TimeoutError, match=r"it has 0 of 8192 bytes after 0.01 s"):
        rig.balloon.wait(0.01)
    rig.start(STATS_VQ)
    with pytest.raises(TimeoutError, match=r"no statistics within 0.01 s"):
        rig.balloon.statistics(0.01)
    assert rig.device._on_statistics == []  # who asks on and on is nowhere kept


def test_without_a_driver_there_are_no_statistics() -> None:
    with pytest.raises(VmmError, match=r"^balloon: no driver of the guest's"):
        BalloonRig().balloon.statistics(0.01)


def test_a_target_beyond_ram_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^balloon: target is 1048577, not within"):
        BalloonRig().balloon.target = (1 << 20) + 1
