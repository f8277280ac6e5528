"""CmosRtc under any sequence of guest accesses and steps of the clock."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.serial_rig import CountingTrigger

from vmm.devices.clock import VirtualClock
from vmm.devices.pc.cmos_rtc import CmosRtc

WALL_NS = 1_709_074_737_250_000_000
_INDEX = st.one_of(
    st.sampled_from([0x0A, 0x0B, 0x0C]), st.integers(0, 0x0D), st.integers(0, 0xFF)
)


class AnyGuest(RuleBasedStateMachine):
    """No exception, bytes only, and one edge at most before register C is read."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.line = CountingTrigger()
        self.chip = CmosRtc(self.clock, self.line, wall_ns=lambda: WALL_NS)

    @rule(index=_INDEX, value=st.integers(0, 0xFF))
    def write(self, index: int, value: int) -> None:
        self.line.edges = 0
        self._write(index, value)

    def _write(self, index: int, value: int) -> None:
        self.chip.write(0, index)
        self.chip.write(1, value)

    @rule(index=_INDEX)
    def read(self, index: int) -> None:
        self.line.edges = 0
        self.chip.write(0, index)
        assert 0 <= self.chip.read(1) <= 0xFF

    @rule(enables=st.integers(0, 7), rate=st.integers(0, 15))
    def enable(self, enables: int, rate: int) -> None:
        self.line.edges = 0
        self._write(0x0A, 0x20 | rate)
        self._write(0x0B, enables << 4 | 0x02)

    @rule(
        delta_ns=st.one_of(
            st.integers(0, 2_000_000),
            st.integers(0, 3_000_000_000),
            st.integers(0, 200_000 * 10**9),
        )
    )
    def wait(self, delta_ns: int) -> None:
        self.line.edges = 0
        self.clock.advance(delta_ns)

    @rule()
    def reset(self) -> None:
        self.chip.reset()

    @invariant()
    def irqf_is_an_enabled_flag(self) -> None:
        state = self.chip.state()
        control, flags = state.ram[0x0B], state.ram[0x0C]
        assert bool(flags & 0x80) == bool(flags & control & 0x70)

    @invariant()
    def no_step_makes_more_than_one_edge(self) -> None:
        assert self.line.edges <= 1


AnyGuest.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestAnyGuest = AnyGuest.TestCase
