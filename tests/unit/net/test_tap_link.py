"""TapLink: a tap device, where the host lets us make one for the test."""

import os
import socket
import subprocess
from collections.abc import Iterator
from shutil import which

import pytest
from support.guests import wait_until
from support.net_rig import ALL, RECEIVE, TRANSMIT, a_header
from support.virtio_device_rig import DeviceRig

from vmm import ConfigError
from vmm.devices.virtio.net import VirtioNet
from vmm.event_loop import EventLoop, GuestClock
from vmm.net.tap import TapLink

NAME = f"vmm{os.getpid()}"[:15]
MAC = bytes.fromhex("020000000001")
FRAME = b"\xff" * 6 + MAC + b"\x88\xb5" + bytes(46)


def fail(error: Exception) -> None:
    raise error


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop(fail)
    yield loop
    loop.close()


def ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True, timeout=60).returncode


@pytest.fixture
def tap() -> Iterator[str]:
    if which("ip") is None or ip("tuntap", "add", NAME, "mode", "tap"):
        pytest.skip("no tap device can be made here")
    ip("link", "set", NAME, "up")
    yield NAME
    ip("link", "del", NAME)


def test_one_that_is_not_there_is_said(loop: EventLoop) -> None:
    with pytest.raises(ConfigError, match=r"^tap: there is no 'nosuchtap': make it"):
        TapLink(loop, GuestClock(loop), "nosuchtap")


def test_what_is_no_tap_device_is_said(loop: EventLoop) -> None:
    with pytest.raises(ConfigError, match=r"^tap: "):
        TapLink(loop, GuestClock(loop), "lo")


def test_one_in_use_is_said(loop: EventLoop, tap: str) -> None:
    link = TapLink(loop, GuestClock(loop), tap)
    with pytest.raises(ConfigError, match=r"it is in use$"):
        TapLink(loop, GuestClock(loop), tap)
    link.close()
    link.close()
    TapLink(loop, GuestClock(loop), tap).close()


def test_frames_come_and_go_and_the_hosts_errors_are_nobodys(
    loop: EventLoop, tap: str
) -> None:
    link = TapLink(loop, GuestClock(loop), tap)
    rig = DeviceRig(VirtioNet(MAC, link))
    rig.start(ALL & rig.device.features)
    counter = f"/sys/class/net/{tap}/statistics/rx_packets"

    def received() -> int:
        with open(counter) as file:
            return int(file.read())

    before = received()
    assert rig.send(TRANSMIT, a_header() + FRAME).is_done
    assert received() == before + 1
    assert rig.send(TRANSMIT, a_header(1, 4, 54, 1, 10, 16) + FRAME).is_done  # case 40
    ip("link", "set", tap, "down")
    assert rig.send(TRANSMIT, a_header() + FRAME).is_done
    rig.drivers[RECEIVE].send([], [2000])
    rig.kick(RECEIVE)
    link.close()


def test_case_44_one_that_is_deleted_is_a_link_that_is_down(
    loop: EventLoop, tap: str
) -> None:
    link = TapLink(loop, GuestClock(loop), tap)
    rig = DeviceRig(VirtioNet(MAC, link))
    rig.start(ALL & rig.device.features)
    loop.start()
    for _ in range(16):  # the host itself may have something to say
        rig.drivers[RECEIVE].send([], [2000])
    assert rig.device.config()[6] == 1
    ip("link", "del", tap)
    wait_until(lambda: rig.interrupts.count("config") == 1, "it is told")
    assert rig.device.config()[6] == 0
    assert rig.send(TRANSMIT, a_header() + FRAME).is_done
    link.close()


def test_one_that_is_down_and_up_again_goes_on(loop: EventLoop, tap: str) -> None:
    link = TapLink(loop, GuestClock(loop), tap)
    rig = DeviceRig(VirtioNet(MAC, link))
    rig.start(ALL & rig.device.features)
    loop.start()
    requests = [rig.drivers[RECEIVE].send([], [2000]) for _ in range(4)]
    for state in ("down", "up"):
        ip("link", "set", tap, state)
        rig.kick(RECEIVE)
    ip("addr", "add", "10.98.77.1/24", "dev", tap)
    ip("neigh", "replace", "10.98.77.2", "lladdr", "02:00:00:00:00:01", "dev", tap)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello tap", ("10.98.77.2", 9))

    def has_come() -> bool:
        with rig.device.lock:
            rig.collect()
        return any(request.data.endswith(b"hello tap") for request in requests)

    wait_until(has_come, "it comes")
    assert link.is_up
    link.close()
