"""SoonestTimer: one callback, no later than asked, none for what was cancelled."""

from collections.abc import Callable
from threading import Lock

import pytest

from vmm.devices.clock import Timer, VirtualClock
from vmm.devices.soonest_timer import HORIZON_NS, SoonestTimer


class LateClock(VirtualClock):
    """Keeps the callbacks: a test runs those that were cancelled too late."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: list[Callable[[], None]] = []
        self.calls = 0

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        def call() -> None:
            self.calls += 1
            callback()

        self.callbacks.append(callback)
        return super().call_at(when_ns, call)


class Rig:
    """A timer, and the times at which its callback ran."""

    def __init__(self) -> None:
        self.clock = LateClock()
        self.lock = Lock()
        self.ran: list[int] = []
        self.timer = SoonestTimer(self.clock, self.lock, self._note)

    def _note(self) -> None:
        assert self.lock.locked()
        self.ran.append(self.clock.now_ns())

    def run_by(self, when_ns: int) -> None:
        with self.lock:
            self.timer.run_by(when_ns)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_callback_runs_once_at_its_time_under_the_lock(rig: Rig) -> None:
    rig.run_by(100)
    rig.clock.advance(99)
    assert rig.ran == []
    rig.clock.advance(1_000)
    assert rig.ran == [100]


def test_a_later_time_sets_no_further_timer(rig: Rig) -> None:
    rig.run_by(100)
    rig.run_by(100)
    rig.run_by(200)
    rig.clock.advance(1_000)
    assert rig.ran == [100]
    assert len(rig.clock.callbacks) == 1


def test_a_sooner_time_replaces_the_timer_which_is_cancelled(rig: Rig) -> None:
    rig.run_by(200)
    rig.run_by(100)
    rig.clock.advance(1_000)
    assert rig.ran == [100]
    assert rig.clock.calls == 1


def test_after_it_ran_any_time_may_be_asked_for(rig: Rig) -> None:
    rig.run_by(100)
    rig.clock.advance(100)
    rig.run_by(300)
    rig.clock.advance(1_000)
    assert rig.ran == [100, 300]


def test_the_callback_may_ask_for_the_next_time() -> None:
    clock, lock = VirtualClock(), Lock()
    ran: list[int] = []

    def again() -> None:
        ran.append(clock.now_ns())
        timer.run_by(clock.now_ns() + 100)

    timer = SoonestTimer(clock, lock, again)
    timer.run_by(100)
    clock.advance(350)
    assert ran == [100, 200, 300]


def test_a_time_that_has_passed_comes_soon_but_not_at_once(rig: Rig) -> None:
    rig.clock.advance(500)
    rig.run_by(100)
    assert rig.ran == []
    rig.clock.advance(0)
    assert rig.ran == [500]


def test_no_timer_is_set_beyond_the_horizon(rig: Rig) -> None:
    rig.run_by(10 * HORIZON_NS)
    rig.clock.advance(HORIZON_NS)
    assert rig.ran == [HORIZON_NS]


def test_a_cancelled_timers_late_callback_is_ignored(rig: Rig) -> None:
    rig.run_by(200)
    rig.run_by(100)
    late, _ = rig.clock.callbacks
    late()
    assert rig.ran == []
    rig.clock.advance(100)
    assert rig.ran == [100]
    late()
    assert rig.ran == [100]


def test_a_late_callback_is_ignored_when_another_ran_at_its_time(rig: Rig) -> None:
    rig.run_by(200)
    rig.run_by(100)
    rig.clock.advance(100)
    rig.run_by(200)
    rig.clock.advance(100)
    rig.clock.callbacks[0]()
    assert rig.ran == [100, 200]


def test_a_late_callback_does_not_forget_the_timer_that_is_set(rig: Rig) -> None:
    rig.run_by(200)
    rig.run_by(100)
    rig.clock.callbacks[0]()
    rig.run_by(150)
    assert len(rig.clock.callbacks) == 2
