"""Rtc under any sequence of guest accesses and steps of the clock."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.pl031_rig import END, NOW, SECOND, Rig

from vmm.devices.arm.pl031 import RTCCR, RTCDR, RTCICR, RTCIMSC, RTCLR, RTCMR


class AnyGuest(RuleBasedStateMachine):
    """No exception, words only, one edge for each time that RTCMIS rises."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.mis = 0
        self.rises = 0

    def note(self) -> None:
        mis = self.rig.rtc.state().ris & self.rig.rtc.state().imsc
        self.rises += mis > self.mis
        self.mis = mis

    @rule(
        offset=st.sampled_from([RTCMR, RTCLR, RTCCR, RTCIMSC, RTCICR, RTCDR, 0x100]),
        value=st.one_of(st.integers(0, 9), st.integers(NOW - 3, NOW + 9)),
    )
    def write(self, offset: int, value: int) -> None:
        self.rig.rtc.write(offset, value)
        self.note()

    @rule(offset=st.integers(0, 0xFFF))
    def read(self, offset: int) -> None:
        assert 0 <= self.rig.rtc.read(offset) < END

    @rule(delta_ns=st.integers(0, 4 * SECOND))
    def wait(self, delta_ns: int) -> None:
        self.rig.clock.advance(delta_ns)
        self.note()

    @invariant()
    def edges_are_rises(self) -> None:
        assert self.rig.irq.edges == self.rises

    @invariant()
    def timers_are_bounded(self) -> None:
        assert len(self.rig.clock._timers) < 100


AnyGuest.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestAnyGuest = AnyGuest.TestCase
