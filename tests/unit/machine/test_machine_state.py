"""A machine's life: whoever asks, in whatever order, it goes one way."""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_machine import fake_machine, in_thread, replace_kvm
from support.stopped_clock import StoppedClock

from vmm import (
    ExitReason,
    Machine,
    MachineConfig,
    MachineState,
    VmmError,
)
from vmm.machine.outcomes import Outcomes
from vmm.machine.registry import open_machines, register
from vmm.machine.state import RunState
from vmm.vcpu.control import End

if TYPE_CHECKING:
    from _typeshed import TraceFunction

DEADLINE = 20


@pytest.fixture(autouse=True)
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_kvm(monkeypatch)


@pytest.fixture
def running() -> Iterator[Machine]:
    machine, _ = fake_machine()
    with machine:
        machine.start()
        yield machine


def test_the_states_in_their_order() -> None:
    machine, state = fake_machine()
    machine.start()
    machine.pause()
    machine.resume()
    machine.stop()
    assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
    machine.join()
    machine.close()
    created, running, paused, ended, closed = MachineState
    assert state.steps == [created, running, paused, running, ended, closed]
    assert state.wrong == []


def test_a_pause_of_a_paused_machine_changes_nothing(running: Machine) -> None:
    running.pause()
    guest = running.paused
    running.pause()
    assert running.paused is guest
    running.resume()
    assert running.state is MachineState.RUNNING
    assert running.paused is None


def test_two_who_pause_at_once_get_one_pause() -> None:
    machine, state = fake_machine()
    with machine:
        machine.start()
        waiters = [in_thread(machine.pause) for _ in range(4)]
        for thread, told in waiters:
            thread.join(DEADLINE)
            assert told == [None]
        machine.resume()
        assert machine.state is MachineState.RUNNING
    assert state.steps.count(MachineState.PAUSED) == 1


def test_what_was_never_started_can_not_be_paused() -> None:
    machine, _ = fake_machine()
    with pytest.raises(VmmError, match="never started"):
        machine.pause()
    machine.close()
    with pytest.raises(VmmError, match="never started"):
        machine.pause()


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_has_ended_can_not_be_paused(running: Machine, is_closed: bool) -> None:
    running.stop()
    running.join()
    if is_closed:
        running.close()
    with pytest.raises(VmmError, match="the run has ended"):
        running.pause()
    with pytest.raises(VmmError, match="isn't paused"):
        running.resume()


def test_who_waits_waits_on_through_a_pause(running: Machine) -> None:
    thread, told = in_thread(lambda: running.wait(DEADLINE))
    running.pause()
    with pytest.raises(TimeoutError, match="is paused after"):
        running.wait(0.01)
    running.resume()
    assert thread.is_alive()
    running.stop()
    thread.join(DEADLINE)
    assert told == [running.result]


def test_a_policys_pause_has_a_result_until_it_is_over() -> None:
    machine, state = fake_machine(on_panic="pause")
    with machine:
        machine.start()
        state.finish(End(ExitReason.PANIC, "it was this"))
        assert machine.wait(DEADLINE).reason is ExitReason.PANIC
        assert machine.state is MachineState.PAUSED
        machine.pause()
        machine.resume()
        assert machine.result is None
        machine.pause()  # a second one, which was asked for
        machine.stop()
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
    assert state.wrong == []


def test_a_stop_ends_a_pause_and_is_the_result(running: Machine) -> None:
    running.pause()
    running.stop("enough")
    assert running.wait(DEADLINE).reason is ExitReason.STOPPED
    with pytest.raises(VmmError, match="isn't paused"):
        running.resume()


@pytest.mark.parametrize("policy", ["exit", "restart"])
def test_a_reset_of_a_paused_machine_waits_until_it_goes_on(policy: str) -> None:
    machine, state = fake_machine(on_reset=policy)
    with machine:
        machine.start()
        machine.pause()
        state.finish(End(ExitReason.RESET))
        time.sleep(0.05)
        assert machine.state is MachineState.PAUSED
        machine.resume()
        if policy == "restart":
            machine.pause()
            machine.stop()
        assert machine.wait(DEADLINE).resets == 1


@pytest.mark.parametrize("policy", ["pause", "restart"])
def test_a_stop_right_after_a_reset_is_not_lost(policy: str) -> None:
    for _ in range(50):
        machine, state = fake_machine(on_reset=policy)
        with machine:
            machine.start()
            state.finish(End(ExitReason.RESET))
            if policy == "pause":
                machine.wait(DEADLINE)
                machine.resume()  # and vCPU 0 isn't awake yet
            machine.stop()
            assert machine.wait(DEADLINE).reason is ExitReason.STOPPED


def test_a_stop_is_not_lost_behind_what_a_paused_guest_had_before_it() -> None:
    machine, state = fake_machine(on_reset="restart", on_panic="restart")
    with machine:
        machine.start()
        machine.pause()
        state.finish(End(ExitReason.PANIC), state.turn)
        with state._lock:  # before vCPU 0 is awake
            machine.resume()
            state.finish(End(ExitReason.RESET))
            machine.stop()
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
        assert machine.wait(DEADLINE).resets == 1


def test_a_pause_that_waits_survives_a_reset_and_raises_at_the_end() -> None:
    machine, state = fake_machine(on_reset="restart")
    with machine:
        machine.start()
        for _ in range(20):
            thread, told = in_thread(machine.pause)
            state.finish(End(ExitReason.RESET))
            thread.join(DEADLINE)
            assert told == [None]
            machine.resume()
        machine.stop()


def test_no_device_is_at_work_while_its_guests_ram_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would find none of what that has put there, or write to the next one's."""
    machine, state = fake_machine(on_reset="restart")
    worked = threading.Event()
    early: list[bool] = []

    def clear() -> None:
        machine.clock.call_at(0, worked.set)
        machine._loop.settle(lambda: None)
        early.append(worked.is_set())

    monkeypatch.setattr(machine._ram, "clear", clear)
    with machine:
        machine.start()
        state.finish(End(ExitReason.RESET))
        assert worked.wait(DEADLINE)
        assert early == [False]


def test_a_pause_while_it_ends_says_so(running: Machine) -> None:
    running.stop()
    with pytest.raises(VmmError, match="the run has ended"):
        running.pause()


def test_a_pause_on_a_thread_of_the_machine_does_not_wait(running: Machine) -> None:
    returned = threading.Event()

    def on_loop() -> None:
        running.pause()
        returned.set()

    running._loop.call_soon(on_loop)
    assert returned.wait(DEADLINE)
    running.pause()  # the same one
    assert running.state is MachineState.PAUSED


def test_two_who_start_get_one_start() -> None:
    machine, _ = fake_machine()
    with machine:
        starts = [in_thread(machine.start) for _ in range(4)]
        for thread, _ in starts:
            thread.join(DEADLINE)
        assert sum(told == [None] for _, told in starts) == 1
        assert sum("started already" in str(told) for _, told in starts) == 3


def test_two_who_close_wait_for_the_one_that_does() -> None:
    machine, state = fake_machine()
    machine.start()
    for thread, told in [in_thread(machine.close) for _ in range(4)]:
        thread.join(DEADLINE)
        assert told == [None]
    assert machine.state is MachineState.CLOSED
    with pytest.raises(VmmError, match="is closed"):
        machine.start()
    assert state.wrong == []


def no_thread(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("name", ["vmm-events", "vmm-vcpu0"])
def test_a_start_that_gets_no_thread_may_be_tried_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, state = fake_machine(timeout=0.4, hang_s=0.4)
    machine._pokes = True
    pokes: list[float] = []
    monkeypatch.setattr(state, "poke", lambda: pokes.append(time.monotonic()))
    with machine:
        with monkeypatch.context() as patch:
            no_thread(patch, name)
            with pytest.raises(VmmError, match=f"{name}: can't start new thread"):
                machine.start()
        assert not machine.is_started
        assert machine.state is MachineState.CREATED
        timers = [timer for _, _, timer in machine._loop._timers]
        assert len(timers) == 3  # the timeout's, pokes', a hang's
        assert all(timer.callback is None for timer in timers)
        time.sleep(0.45)  # the first timeout would have passed
        machine.start()
        assert machine.result is None
        machine.pause()
        machine.resume()
        assert machine.wait(DEADLINE).reason in (ExitReason.TIMEOUT, ExitReason.HANG)
        assert pokes


def test_a_close_that_is_interrupted_may_be_called_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, state = fake_machine()
    register(machine)
    machine.start()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machine, "join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            machine.close()
    assert state.state is not MachineState.CLOSED
    assert machine in open_machines()
    thread, told = in_thread(machine.close)  # anybody may
    thread.join(DEADLINE)
    assert told == [None]
    assert machine.state is MachineState.CLOSED
    assert machine._loop._epoll.closed
    assert machine not in open_machines()
    assert state.wrong == []


def test_who_waits_for_a_close_that_is_interrupted_does_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, state = fake_machine()
    machine.start()
    others: list[tuple[threading.Thread, list[object]]] = []
    join = machine.join

    def interrupt() -> None:
        if others:
            join()
            return
        others.append(in_thread(machine.close))
        time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.close()
    thread, told = others[0]
    thread.join(DEADLINE)
    assert told == [None]
    assert machine.state is MachineState.CLOSED
    assert machine._loop._epoll.closed
    assert state.wrong == []


def test_a_hang_of_the_boot_before_does_not_end_the_next() -> None:
    config = MachineConfig(kernel="none", serial="null", hang_s=1)
    state, clock = RunState(), StoppedClock()
    state.started_ns = 0

    class ConsoleOfAReset:
        is_held = False

        @property
        def printed(self) -> int:
            if clock.now_ns() >= 1_000_000_000:  # while the last look is at work
                state.finish(End(ExitReason.RESET))
                state.rearm()
            return 0

    outcomes = Outcomes(config, state)
    host_side: Any = SimpleNamespace(clock=clock, console=ConsoleOfAReset())
    outcomes.connect(host_side)
    outcomes.watch(lambda: {"io": 0, "intr": 0}, poke=False)
    clock.advance(1_000_000_000)
    assert state.turn == 1
    assert state.end is None


# A stop of a signal handler's, between any two instructions


class StopsAt:
    """Traces the calling thread, and stops the machine as a signal handler would.

    That is before instruction number `at` of what it executes in RunState's methods.
    """

    def __init__(self, machine: Machine, at: int) -> None:
        self.machine = machine
        self.left = at
        self.has_stopped = False

    def trace(self, frame: FrameType, event: str, _: object) -> "TraceFunction | None":
        if not frame.f_code.co_filename.endswith(("machine/state.py", "control.py")):
            return None
        frame.f_trace_opcodes = True
        self.left -= event == "opcode"
        if self.left < 0 and not self.has_stopped:
            self.has_stopped = True
            sys.settrace(None)
            self.machine.stop("SIGTERM")
        return self.trace

    def during(self, call: Callable[[], None]) -> None:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            call()
        except VmmError:
            assert self.has_stopped
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("name", ["pause", "resume", "resume after a reset"])
def test_a_stop_of_a_signal_handler_is_never_lost(name: str) -> None:
    for at in itertools.count():
        machine, state = fake_machine(on_reset="pause")
        stops = StopsAt(machine, at)
        with machine:
            machine.start()
            if name == "pause":
                stops.during(machine.pause)
            else:
                if name == "resume":
                    machine.pause()
                else:
                    state.finish(End(ExitReason.RESET))
                    machine.wait(DEADLINE)
                stops.during(machine.resume)
            if not stops.has_stopped:
                assert at
                return
            in_thread(machine.join)[0].join(DEADLINE)
            assert machine.state is MachineState.ENDED
            assert machine.result is not None
            reasons = {ExitReason.STOPPED}
            if name == "resume after a reset":  # it may come before
                reasons.add(ExitReason.RESET)
            assert machine.result.reason in reasons
        assert state.wrong == []
