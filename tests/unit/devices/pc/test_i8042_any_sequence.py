"""I8042Device under any sequence of guest accesses and keys."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.serial_rig import CountingTrigger

from vmm.devices.pc.i8042 import I8042Device
from vmm.devices.pc.keyboard import MAX_SCANCODES

_BYTES = st.integers(0, 0xFF)


class AnyGuest(RuleBasedStateMachine):
    """Whatever a guest does: no exception, no growth, nothing that disagrees."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = [CountingTrigger() for _ in range(3)]
        self.chip = I8042Device(*self.lines)

    def forget(self) -> None:
        for line in self.lines:
            line.edges = 0

    @rule(offset=st.sampled_from([0, 0, 4, 4, 1]), value=_BYTES)
    def write(self, offset: int, value: int) -> None:
        self.forget()
        self.chip.write(offset, value)

    @rule(command=st.sampled_from([0x20, 0x60, 0xA8, 0xAE, 0xD2, 0xD3, 0xD4, 0xD1]))
    def command(self, command: int) -> None:
        self.forget()
        self.chip.write(4, command)

    @rule(offset=st.sampled_from([0, 0, 0, 4, 2]))
    def read(self, offset: int) -> None:
        self.forget()
        assert 0 <= self.chip.read(offset) <= 0xFF

    @rule(codes=st.binary(max_size=300))
    def press(self, codes: bytes) -> None:
        self.forget()
        assert self.chip.send_scancodes(codes) <= len(codes)

    @rule()
    def reset(self) -> None:
        self.forget()
        self.chip.reset()

    @invariant()
    def the_published_status_is_what_a_read_gives(self) -> None:
        assert self.chip.fast_ports[4].read() == self.chip.read(4)

    @invariant()
    def interrupts_only_what_ctr_allows_and_a_byte_explains(self) -> None:
        ctr, status = self.chip.state().ram[0], self.chip.read(4)
        if self.lines[1].edges or self.lines[2].edges:
            assert status & 0x01
        if self.lines[1].edges:
            assert ctr & 0x01
        if self.lines[2].edges:
            assert ctr & 0x02
            assert status & 0x20

    @invariant()
    def queues_are_bounded(self) -> None:
        state = self.chip.state()
        assert len(state.responses) <= 16
        assert len(state.keyboard.scancodes) <= MAX_SCANCODES
        assert len(state.keyboard.replies) <= 3

    @invariant()
    def status_is_true(self) -> None:
        state, status = self.chip.state(), self.chip.read(4)
        full = bool(state.responses) or state.latched is not None
        assert bool(status & 0x01) == full
        assert not status & 0x82


class Typist(RuleBasedStateMachine):
    """Raw keys that were taken are read exactly once and in order."""

    def __init__(self) -> None:
        super().__init__()
        self.chip = I8042Device(CountingTrigger(), CountingTrigger())
        self.chip.write(4, 0x60)
        self.chip.write(0, 0x01)
        self.expected: deque[int] = deque()

    @rule(codes=st.binary(max_size=300))
    def press(self, codes: bytes) -> None:
        self.expected.extend(codes[: self.chip.send_scancodes(codes)])

    @precondition(lambda self: self.chip.read(4) & 0x01)
    @rule()
    def take(self) -> None:
        assert self.chip.read(0) == self.expected.popleft()

    @rule(command=st.sampled_from([0xAA, 0xAB, 0xC0]))
    def ask(self, command: int) -> None:
        self.chip.write(4, command)
        self.chip.read(0)

    @rule()
    def hold_and_release(self) -> None:
        self.chip.write(4, 0xAD)
        self.chip.write(4, 0xAE)

    @invariant()
    def full_while_keys_wait(self) -> None:
        assert bool(self.chip.read(4) & 0x01) == bool(self.expected)


AnyGuest.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
Typist.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestAnyGuest = AnyGuest.TestCase
TestTypist = Typist.TestCase
