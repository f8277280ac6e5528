"""CmosRtc under any sequence of guest accesses and steps of the clock."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.serial_rig import CountingTrigger

from vmm.devices.clock import VirtualClock
from vmm.devices.pc.cmos_rtc import CmosRtc
from vmm.devices.pc.cmos_rtc_state import CMOS_SIZE

WALL_NS = 1_709_074_737_250_000_000
_INDEX = st.one_of(
    st.sampled_from([0x0A, 0x0B, 0x0C]), st.integers(0, 0x0D), st.integers(0, 0xFF)
)


class AnyGuest(RuleBasedStateMachine):
    """No exception, bytes only, and a twin restored before each step agrees."""

    def __init__(self) -> None:
        super().__init__()
        self.clocks = VirtualClock(), VirtualClock(10**15)
        self.lines = CountingTrigger(), CountingTrigger()
        self.chip, self.twin = (
            CmosRtc(clock, line, wall_ns=lambda: WALL_NS)
            for clock, line in zip(self.clocks, self.lines, strict=True)
        )

    def both(self) -> tuple[CmosRtc, CmosRtc]:
        self.twin.restore(self.chip.state())
        for line in self.lines:
            line.edges = 0
        return self.chip, self.twin

    @rule(index=_INDEX, value=st.integers(0, 0xFF))
    def write(self, index: int, value: int) -> None:
        for chip in self.both():
            chip.write(0, index)
            chip.write(1, value)

    @rule(index=_INDEX)
    def read(self, index: int) -> None:
        first, second = (self._read(chip, index) for chip in self.both())
        assert first == second
        assert 0 <= first <= 0xFF

    def _read(self, chip: CmosRtc, index: int) -> int:
        chip.write(0, index)
        return chip.read(1)

    @rule(enables=st.integers(0, 7), rate=st.integers(0, 15))
    def enable(self, enables: int, rate: int) -> None:
        for chip in self.both():
            for index, value in ((0x0A, 0x20 | rate), (0x0B, enables << 4 | 0x02)):
                chip.write(0, index)
                chip.write(1, value)

    @rule(
        delta_ns=st.one_of(
            st.integers(0, 2_000_000),
            st.integers(0, 3_000_000_000),
            st.integers(0, 200_000 * 10**9),
        )
    )
    def wait(self, delta_ns: int) -> None:
        self.both()
        for clock in self.clocks:
            clock.advance(delta_ns)

    @rule()
    def reset(self) -> None:
        for chip in self.both():
            chip.reset()

    @invariant()
    def twins_agree(self) -> None:
        assert self.chip.state() == self.twin.state()
        assert self.lines[0].edges == self.lines[1].edges

    @invariant()
    def irqf_is_an_enabled_flag(self) -> None:
        state = self.chip.state()
        control, flags = state.ram[0x0B], state.ram[0x0C]
        assert bool(flags & 0x80) == bool(flags & control & 0x70)
        assert len(state.ram) == CMOS_SIZE

    @invariant()
    def no_step_makes_more_than_one_edge(self) -> None:
        assert self.lines[0].edges <= 1


AnyGuest.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestAnyGuest = AnyGuest.TestCase
