"""HangWatch: what stands still for too long is found, and nothing else."""

from support.stopped_clock import StoppedClock

from vmm.watch.hang import HangWatch

SECOND = 1_000_000_000


class Rig:
    """A watch of two seconds over a number."""

    def __init__(self) -> None:
        self.clock = StoppedClock()
        self.progress = 0
        self.hangs_ns: list[int] = []
        HangWatch(self.clock, 2, lambda: self.progress, self._on_hang)

    def _on_hang(self) -> None:
        self.hangs_ns.append(self.clock.now_ns())

    def move(self) -> None:
        self.progress += 1


def test_standstill_is_a_hang_after_the_limit_and_not_before() -> None:
    rig = Rig()
    rig.clock.advance(2 * SECOND - 1)
    assert rig.hangs_ns == []
    rig.clock.advance(SECOND // 2)
    assert len(rig.hangs_ns) == 1


def test_progress_within_each_limit_is_no_hang() -> None:
    rig = Rig()
    for number in range(1, 20):
        rig.clock.call_at(number * 3 * SECOND // 2, rig.move)
    rig.clock.advance(29 * SECOND)
    assert rig.hangs_ns == []


def test_silence_counts_from_the_last_progress() -> None:
    rig = Rig()
    rig.clock.call_at(SECOND, rig.move)
    rig.clock.advance(10 * SECOND)
    assert 3 * SECOND <= rig.hangs_ns[0] <= 3 * SECOND + SECOND // 4


def test_hang_that_goes_on_is_told_again() -> None:
    rig = Rig()
    rig.clock.advance(9 * SECOND)
    assert len(rig.hangs_ns) == 4


def test_time_in_which_we_were_stopped_is_not_the_guests() -> None:
    rig = Rig()
    for _ in range(2):
        rig.clock.advance(SECOND // 2)
        rig.clock.stand_still(60 * SECOND)
    assert rig.hangs_ns == []
    rig.clock.advance(SECOND)
    assert len(rig.hangs_ns) == 1
