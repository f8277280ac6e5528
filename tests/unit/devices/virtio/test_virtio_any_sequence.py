"""Whatever a driver and the host do: no device of ours raises, grows, or answers twice.

A driver here plays by the rules of its rings, or not; what it says in its requests, and
where its buffers are, is anything.
"""

import json
from struct import pack
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.blk_rig import FULL, MemoryDisk
from support.serial_rig import StallSink
from support.virtio_device_rig import VERSION_1, DeviceRig
from support.virtio_example import ram_disk

from vmm.devices.clock import VirtualClock
from vmm.devices.token_bucket import TokenBucket
from vmm.devices.virtio.balloon import VirtioBalloon
from vmm.devices.virtio.blk import VirtioBlk
from vmm.devices.virtio.console import WRITE_MAX, ConsolePort, VirtioConsole
from vmm.devices.virtio.rng import VirtioRng

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.devices.virtio.device import VirtioDevice

RAM: Final = 0x20000  # of each queue
Step = tuple[str, tuple[Any, ...]]


class Case:
    """A device, what its host may do to it, and what is true of it at all times."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.host: list[Callable[[int], object]] = []
        self.rig = self.make()
        self.is_fair = False

    def make(self) -> DeviceRig:
        raise NotImplementedError

    def check(self) -> None:
        """Fails if something isn't as it always is."""

    # The steps

    def start(self, features: int) -> None:
        self.is_fair = True
        self.rig.start(features & self.rig.device.features)

    def stop(self) -> None:
        self.rig.device.stop()

    def send(
        self, queue: int, readable: list[bytes], writable: list[int], indirect: bool
    ) -> None:
        driver = self._driver(queue)
        if driver is None or not (readable or writable):
            return
        slots = 1 if indirect else len(readable) + len(writable)
        if self.is_fair and slots <= driver.free_slots:
            driver.send(readable, writable, indirect=indirect and self._has_indirect)
            self.kick(queue)

    def message(self, port: int, event: int, value: int, size: int) -> None:
        """Of a console's driver, or what is none."""
        self.send(3, [pack("<IHH", port, event, value)[:size]], [], False)

    def offer(self, queue: int, buffers: list[tuple[int, int, bool]]) -> None:
        """Buffers that may be anywhere, and in any order."""
        driver = self._driver(queue)
        if driver is not None and len(buffers) <= driver.free_slots:
            driver.offer(buffers)
            self._kick_unfairly(queue)

    def put_index(self, queue: int, index: int) -> None:
        """More, or fewer, chains than there are."""
        driver: Any = self._driver(queue)
        if driver is not None:
            driver.put_avail_idx(index)
            self._kick_unfairly(queue)

    def kick(self, queue: int) -> None:
        """Whether it is up or not."""
        device = self.rig.device
        device.serve(device.queues[queue % len(device.queues)])
        if self.is_fair and device.is_active and not device.trouble:
            self.rig.collect()  # which is strict

    def _kick_unfairly(self, queue: int) -> None:
        self.is_fair = False
        self.kick(queue)

    def write_config(self, offset: int, data: bytes) -> None:
        if offset + len(data) <= len(self.rig.device.config()):
            self.rig.device.write_config(offset, data)

    def act(self, which: int, value: int) -> None:
        if self.host:
            self.host[which % len(self.host)](value)

    def wait(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds * 1_000_000)

    def save(self) -> None:
        """And go on from there, as a transport does it."""
        device, ram = self.rig.device, self.rig.ram
        state, queues = device.state(), [queue.state() for queue in device.queues]
        was_active, features = device.is_active, device.negotiated
        trouble = device.trouble
        device.stop()
        device.is_active, device.negotiated = was_active, features
        device.trouble = trouble
        for queue, saved in zip(device.queues, queues, strict=True):
            queue.restore(saved, ram, features)
        if state is not None:
            state = type(state).from_json(json.loads(json.dumps(state.to_json())))
        device.restore(state)
        assert device.state() == state
        for index in range(len(device.queues)):
            self.kick(index)

    @property
    def _has_indirect(self) -> bool:
        return bool(self.rig.device.negotiated >> 28 & 1)

    def _driver(self, queue: int) -> Any:  # noqa: ANN401, of any ring
        drivers = self.rig.drivers
        return drivers[queue % len(drivers)] if drivers else None


class Rng(Case):
    def make(self) -> DeviceRig:
        return DeviceRig(VirtioRng(self.clock, 1000, 64, bytes))


class Disk(Case):
    def make(self) -> DeviceRig:
        device: VirtioDevice = ram_disk(4)
        return DeviceRig(device)

    def check(self) -> None:
        disk: Any = self.rig.device
        assert len(disk.data) == 2048


class Blk(Case):
    def make(self) -> DeviceRig:
        self.disk = disk = MemoryDisk(8)
        ops = TokenBucket(100, 10, self.clock)
        self.device = VirtioBlk(disk, b"serial", 2, ops=ops)
        self.host = [
            lambda value: setattr(disk, "size", 512 * (1 + value % 16)),
            lambda value: setattr(disk, "fails", (None, None, FULL)[value % 3]),
            lambda _: self.device.resized(),
        ]
        return DeviceRig(self.device)

    def check(self) -> None:
        assert self.disk.size <= 512 * 16
        assert not any(self.device._taken)


class Balloon(Case):
    def make(self) -> DeviceRig:
        device = VirtioBalloon(None, 4 * RAM)  # type: ignore[arg-type]
        rig = DeviceRig(device)
        device._ram = rig.ram
        self.device = device
        self.host = [self._set_target, self._ask]
        return rig

    def _ask(self, _: int) -> None:
        self.device.ask_statistics(lambda told: None)

    def _set_target(self, value: int) -> None:
        self.device.target = value % (4 * RAM)

    def check(self) -> None:
        assert 0 <= self.device.actual <= 4 * RAM


class Console(Case):
    names: tuple[str, ...] = ("",)

    def make(self) -> DeviceRig:
        self.sinks = [StallSink(1000) for _ in self.names]
        self.ports = [
            ConsolePort(sink, name, is_console=not name)
            for sink, name in zip(self.sinks, self.names, strict=True)
        ]
        device = VirtioConsole(self.ports)
        self.host = [
            lambda value: self._port(value).enqueue_raw_bytes(bytes(value % 9000)),
            lambda value: self._port(value).inject_break(),
            lambda value: device.resize(value & 0xFFFF, value >> 16 & 0xFFFF),
            lambda value: self.sinks[value % len(self.sinks)].make_room(value % 9000),
        ]
        return DeviceRig(device)

    def _port(self, value: int) -> ConsolePort:
        return self.ports[value % len(self.ports)]

    def check(self) -> None:
        for port in self.ports:
            assert len(port.rest) <= WRITE_MAX
            assert len(port.due) <= 5


class Ports(Console):
    names = ("", "log", "ask")


CASES: Final = (Rng, Disk, Blk, Balloon, Console, Ports)

queues = st.integers(0, 7)
sizes = st.sampled_from((0, 1, 7, 8, 15, 16, 511, 512, 513, 4096, 20000))
contents = st.one_of(
    st.binary(max_size=24),
    sizes.map(bytes),
    st.builds(pack, st.just("<IIQ"), st.integers(0, 9), st.just(0), st.integers(0, 9)),
    st.lists(st.integers(0, 0x200), max_size=8).map(lambda p: pack(f"<{len(p)}I", *p)),
    st.lists(st.integers(0, 20), max_size=4).map(
        lambda tags: b"".join(pack("<HQ", tag, 7) for tag in tags)
    ),
)
addresses = st.one_of(
    st.integers(0, 8 * RAM), st.sampled_from((RAM - 1, 1 << 63, (1 << 64) - 1))
)


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.tuples(*arguments))


buffers = st.tuples(
    addresses, st.one_of(sizes, st.integers(0, (1 << 32) - 1)), st.booleans()
)
steps = st.one_of(
    step("start", st.integers(0, 63)),
    step("stop"),
    step(
        "send",
        queues,
        st.lists(contents, max_size=3),
        st.lists(sizes, max_size=2),
        st.booleans(),
    ),
    step(
        "message",
        st.sampled_from((0, 1, 2, 3, 0xFFFF_FFFF)),
        st.integers(0, 8),
        st.integers(0, 2),
        st.sampled_from((8, 8, 8, 7, 0)),
    ),
    step("offer", queues, st.lists(buffers, min_size=1, max_size=4)),
    step("put_index", queues, st.integers(0, 0xFFFF)),
    step("kick", queues),
    step("write_config", st.integers(0, 16), st.binary(min_size=1, max_size=8)),
    step("act", st.integers(0, 3), st.integers(0, (1 << 32) - 1)),
    step("wait", st.integers(0, 300)),
    step("save"),
)


@pytest.mark.parametrize("kind", CASES)
@given(sequence=st.lists(steps, max_size=30))
def test_no_sequence_does_any_harm(kind: type[Case], sequence: list[Step]) -> None:
    case = kind()
    case.start(0x3F)
    for name, arguments in sequence:
        getattr(case, name)(*arguments)
        case.check()
    case.stop()
    case.start(0x3F)  # after whatever it was, it is as new
    assert case.rig.device.trouble == ""
    assert case.rig.device.negotiated & VERSION_1
    case.save()
