"""Serial, a copy restored through JSON, and the oracle agree step by step."""

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from support.lengths import cases
from support.serial_rig import LockStep

STEPS = cases(5_000, 1_000_000)
OFFSETS = st.integers(0, 9)
BYTES = st.integers(0, 0xFF)
# A timeout takes 43 us at divisor 1 with short characters, 27 s at the slowest.
DELTAS = st.one_of(st.integers(0, 500_000), st.integers(0, 30_000_000_000))


class SerialLockStep(RuleBasedStateMachine):
    """Any sequence of accesses, host inputs, clock steps and sink stalls."""

    @initialize()
    def power_on(self) -> None:
        self.step = LockStep()

    @rule(offset=OFFSETS)
    def read(self, offset: int) -> None:
        self.step.read(offset)

    @rule(offset=OFFSETS, value=BYTES)
    def write(self, offset: int, value: int) -> None:
        self.step.write(offset, value)

    @rule(ier=BYTES, fcr=BYTES, fast=st.booleans())
    def set_up_as_a_driver_does(self, ier: int, fcr: int, fast: bool) -> None:
        self.step.write(3, 0x83)
        self.step.write(0, 1 if fast else 0)
        self.step.write(3, 0x03)
        self.step.write(2, fcr | 1)
        self.step.write(1, ier)

    @rule(text=st.binary(max_size=20))
    def send(self, text: bytes) -> None:
        for byte in text:
            self.step.write(0, byte)

    @rule(count=st.integers(1, 70))
    def read_several(self, count: int) -> None:
        for _ in range(count):
            self.step.read(0)

    @rule(data=st.binary(max_size=80))
    def offer(self, data: bytes) -> None:
        self.step.offer(data)

    @rule()
    def inject_break(self) -> None:
        self.step.inject_break()

    @rule(value=BYTES, bits=st.sampled_from([4, 8, 12]))
    def inject_error(self, value: int, bits: int) -> None:
        self.step.inject_error(value, bits)

    @rule()
    def inject_overrun(self) -> None:
        self.step.inject_overrun()

    @rule(pins=st.integers(0, 15))
    def set_pins(self, pins: int) -> None:
        self.step.set_pins(pins << 4)

    @rule(delta_ns=DELTAS)
    def advance(self, delta_ns: int) -> None:
        self.step.advance(delta_ns)

    @rule(count=st.integers(0, 80))
    def make_room(self, count: int) -> None:
        self.step.make_room(count)

    @rule()
    def reset(self) -> None:
        self.step.reset()

    @rule()
    def restore(self) -> None:
        self.step.restore()


TestSerialLockStep = SerialLockStep.TestCase
TestSerialLockStep.settings = settings(
    max_examples=cases(20, 1000), stateful_step_count=60, deadline=None
)


def _steps(step: LockStep, rng: random.Random) -> list[tuple[int, Callable[[], None]]]:
    """(how often, what): the accesses of a driver prevail."""

    def byte() -> int:
        return rng.randrange(256)

    def send() -> None:
        for value in rng.randbytes(40):
            step.write(0, value)

    return [
        (30, lambda: step.read(rng.choice((0, 0, 2, 5)))),
        (10, lambda: step.read(rng.randrange(10))),
        (25, lambda: step.write(0, byte())),
        (2, send),
        (8, lambda: step.write(1, byte())),
        (3, lambda: step.write(2, rng.choice((1, 0x41, 0x81, 0xC1, byte())))),
        (3, lambda: step.write(3, rng.choice((3, 0x83, 0x43, byte() & 0x7F)))),
        (3, lambda: step.write(4, byte())),
        (3, lambda: step.write(rng.randrange(5, 10), byte())),
        (12, lambda: step.offer(rng.randbytes(rng.choice((1, 3, 16, 70))))),
        (2, step.inject_break),
        (2, lambda: step.inject_error(byte(), rng.choice((4, 8, 12)))),
        (1, step.inject_overrun),
        (2, lambda: step.set_pins(rng.randrange(16) << 4)),
        (10, lambda: step.advance(rng.choice((100, 50_000, 4_200_000, 10**10)))),
        (4, lambda: step.make_room(rng.choice((0, 1, 2, 9, 30)))),
        (1, step.reset),
        (2, step.restore),
    ]


@pytest.mark.timeout(300 + STEPS // 250)
def test_long_run_agrees_with_the_oracle() -> None:
    """The steps of a short run are the first of the long one."""
    step, rng = LockStep(), random.Random(16550)
    weights, acts = zip(*_steps(step, rng), strict=True)
    for act in rng.choices(acts, weights, k=STEPS):
        act()
    told = step.oracle.told
    print(f"{STEPS} steps, {step.oracle.edges} edges, {dict(told)}")
    assert min(told["read"], told["out"], told["lost"], told["empty"]) > STEPS // 200
    assert step.oracle.edges > STEPS // 50
    assert step.fast.served > STEPS // 20
