"""Drivers that do anything to registers and rings, in any order, by each transport."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lengths import cases
from support.virtio_driver import EVENT_IDX, INDIRECT_DESC, PACKED
from support.virtio_echo import LOUD, LOUDER, Echo
from support.virtio_transports import (
    DRIVER_OK,
    DRIVERS,
    FEATURES_OK,
    NEEDS_RESET,
    RAM_SIZE,
    VERSION_1,
    TransportDriver,
)

from vmm.devices.state import State

Step = tuple[Any, ...]

FEATURES = st.lists(
    st.sampled_from([1 << LOUD, 1 << LOUDER, EVENT_IDX, INDIRECT_DESC, PACKED, 1 << 40])
).map(lambda bits: VERSION_1 | sum(set(bits)))
VALUES = st.sampled_from([0, 1, 2, 3, 4, 8, 11, 15, 64, 128, 255]) | st.integers(
    0, (1 << 32) - 1
)
QUEUES = st.sampled_from([0, 0, 0, 1, 1, 2, 7])


class PackedEcho(Echo):
    packed = True


def steps(names: list[str]) -> st.SearchStrategy[Step]:
    return st.one_of(
        st.tuples(st.just("set"), st.sampled_from(names), VALUES),
        st.tuples(st.just("set"), st.just("device_status"), st.integers(0, 255)),
        st.tuples(
            st.just("access"),
            st.integers(0, 0x120),
            st.sampled_from([1, 2, 4, 8]),
            st.integers(0, (1 << 64) - 1),
        ),
        st.tuples(st.just("start"), FEATURES),
        st.tuples(st.just("start"), st.just(VERSION_1)),
        st.tuples(st.just("set_up"), QUEUES, st.sampled_from([0, 1, 2, 4, 8, 16, 24])),
        st.tuples(st.just("send"), QUEUES, st.booleans()),
        st.tuples(st.just("scribble"), QUEUES, st.integers(0, 1 << 30)),
        st.tuples(st.just("kick"), QUEUES),
        st.tuples(st.just("config"), st.integers(0, 0x20), st.integers(1, 8)),
        st.tuples(st.just("answer"), st.booleans()),
        st.just(("fail",)),
        st.just(("wait",)),
        st.just(("go on elsewhere",)),
    )


class Rig:
    """A driver and its device, which may be replaced by a copy."""

    def __init__(self, kind: type[TransportDriver]) -> None:
        self.kind = kind
        self.echo = PackedEcho()
        self.driver = kind(self.echo)
        self.is_scribbled = False  # over its rings, with which no driver can go on

    def do(self, step: Step) -> None:
        name, *args = step
        getattr(self, name.replace(" ", "_"))(*args)
        self.check()

    def check(self) -> None:
        status = self.driver.status
        if status == 0xFF:  # of a BAR that isn't decoded
            return
        assert not status & DRIVER_OK or status & FEATURES_OK
        assert not self.echo.is_active or status & DRIVER_OK
        assert bool(status & NEEDS_RESET) is bool(self.echo.trouble)
        assert bool(self.echo.negotiated) is bool(status & FEATURES_OK)

    def set(self, name: str, value: int) -> None:
        _, size = self.driver.registers[name]
        self.driver.set(name, value & (1 << 8 * size) - 1)

    def access(self, offset: int, size: int, value: int) -> None:
        self.driver.load(offset, size)
        self.driver.store(
            offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        )

    def start(self, features: int) -> None:
        self.driver.start(features)
        self.is_scribbled = False

    def set_up(self, queue: int, size: int) -> None:
        if size & (size - 1) == 0 or self.driver.features & PACKED:
            self.driver.set_up(queue, size)

    def send(self, queue: int, indirect: bool) -> None:
        ring = self.driver.rings.get(queue)
        if ring is not None and ring.free_slots >= 3 and not self.is_scribbled:
            indirect = indirect and bool(self.driver.features & INDIRECT_DESC)
            ring.send([b"some", b"words"], [16], indirect=indirect)
            self.driver.kick(queue)

    def scribble(self, queue: int, seed: int) -> None:
        """Random bytes over the rings that the device reads."""
        self.is_scribbled = True
        ring = self.driver.rings.get(queue)
        if ring is not None:
            chance = random.Random(seed)
            for area in ring.areas[:2]:
                at = area + chance.randrange(64)
                self.driver.ram.write(at, chance.randbytes(chance.randrange(1, 24)))
            self.driver.kick(queue)

    def kick(self, queue: int) -> None:
        self.driver.kick(queue)

    def config(self, offset: int, size: int) -> None:
        self.driver.read_config(offset, size)
        self.driver.write_config(offset, bytes(size))

    def answer(self, holds: bool) -> None:
        self.echo.holds = holds
        self.echo.answer_all()

    def fail(self) -> None:
        self.echo.fail("it was told to")

    def wait(self) -> None:
        self.driver.clock.advance(10)
        self.driver.events()

    def go_on_elsewhere(self) -> None:
        before = self.driver.transport.state()
        assert isinstance(before, State)
        echo = PackedEcho()
        other = self.kind(echo)
        other.rings, other.features = self.driver.rings, self.driver.features
        other.ram.write(0, self.driver.ram.read(0, RAM_SIZE))
        for ring in other.rings.values():
            ring.ram = other.ram
        other.transport.restore(type(before).from_json(before.to_json()))
        after = other.transport.state()
        assert after == before
        echo.holds = self.echo.holds
        self.echo, self.driver = echo, other


@pytest.mark.parametrize("name", DRIVERS)
@settings(max_examples=cases(150, 10_000), deadline=None)
@given(data=st.data())
def test_nothing_that_a_driver_does_raises(name: str, data: st.DataObject) -> None:
    kind = DRIVERS[name]
    rig = Rig(kind)
    for step in data.draw(st.lists(steps(sorted(kind.registers)), max_size=40)):
        rig.do(step)
    rig.driver.start()
    if not rig.echo.trouble:
        rig.answer(False)
        request = rig.driver.send(0, [b"still", b" there"], [16])
        rig.driver.rings[0].collect()
        assert request.data == b"still there"
