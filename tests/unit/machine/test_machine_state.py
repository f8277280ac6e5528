"""A machine's life: whoever asks, in whatever order, it goes one way."""

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_machine import WatchedState, fake_machine, replace_kvm
from support.stopped_clock import StoppedClock

from vmm import (
    ExitReason,
    ExpectTimeout,
    GuestEnded,
    KvmError,
    Machine,
    MachineConfig,
    MachineState,
    VmmError,
)
from vmm.machine import guest_time
from vmm.machine.lifecycle import Lifecycle
from vmm.machine.outcomes import Outcomes
from vmm.machine.registry import open_machines, register
from vmm.machine.state import RunState
from vmm.vcpu.control import PAUSE, End, RunControl, failure

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


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """A thread that calls; and what that gave, or raised."""
    told: list[object] = []

    def run() -> None:
        try:
            told.append(call())
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, told


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


# What we, or a device, raise between two boots


def fail(*_: object) -> None:
    raise KvmError(5, "it was us")


def fail_in_reset(machine: Machine) -> None:
    machine._life._parts.devices.reset = fail  # type: ignore[method-assign]


def fail_in_discard(machine: Machine) -> None:
    machine._life._parts.memory.discard = fail  # type: ignore[method-assign]


def fail_in_close(machine: Machine) -> None:
    machine._life.instance.close = fail  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("breaks", "policy"),
    [
        (fail_in_reset, "restart"),
        (fail_in_discard, "restart"),
        (fail_in_close, "restart"),
        (fail_in_close, "exit"),
    ],
)
def test_an_error_of_ours_outranks_the_guests_end(
    breaks: Callable[[Machine], None], policy: str
) -> None:
    machine, state = fake_machine(on_reset=policy)
    with machine:
        machine.start()
        breaks(machine)
        state.finish(End(ExitReason.RESET))
        result = machine.wait(DEADLINE)
        assert (result.reason, result.exit_code) == (ExitReason.ERROR, 1)
        assert "it was us" in result.detail
        assert isinstance(machine.error, KvmError)


@pytest.mark.parametrize("clock_call", ["__init__", "go_on"])
def test_an_error_of_ours_in_a_pause_outranks_the_guests_end(
    clock_call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, state = fake_machine(on_panic="pause")
    monkeypatch.setattr(guest_time.GuestTime, clock_call, fail)
    with machine:
        machine.start()
        state.finish(End(ExitReason.PANIC))
        if clock_call == "go_on":
            assert machine.wait(DEADLINE).reason is ExitReason.PANIC
            assert machine.error is None
            machine.resume()
        assert machine.wait(DEADLINE).reason is ExitReason.ERROR
        assert isinstance(machine.error, KvmError)


def test_an_error_of_ours_after_a_policys_pause_is_the_result() -> None:
    machine, state = fake_machine(on_reset="pause")
    with machine:
        machine.start()
        state.finish(End(ExitReason.RESET))
        assert machine.wait(DEADLINE).reason is ExitReason.RESET
        fail_in_close(machine)
        machine.stop()
        machine.join()
        assert machine.wait(DEADLINE).reason is ExitReason.ERROR


def test_the_first_error_stays() -> None:
    control = RunControl()
    control.finish(failure(ValueError("first")))
    control.fail(ValueError("second"))
    assert control.end is not None
    assert control.end.detail == "ValueError: first"


def test_an_error_is_only_told_where_it_is_why_the_result_is_an_error() -> None:
    machine, state = fake_machine(on_reset="pause")
    with machine:
        machine.start()
        state.finish(End(ExitReason.RESET))
        machine.wait(DEADLINE)
        machine._outcomes.loop_failed(ValueError("not why the guest has ended"))
        machine.join()
        assert machine.wait(DEADLINE).reason is ExitReason.RESET
        assert machine.error is None


# Who reads the console


def test_who_hears_of_the_guests_end_may_resume_it_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_symbols(_: Lifecycle) -> None:
        time.sleep(0.05)

    monkeypatch.setattr(Lifecycle, "_find_symbols", find_symbols)
    machine, state = fake_machine(serial="capture", on_panic="pause")
    with machine:
        machine.start()
        thread, told = in_thread(lambda: machine.console.expect("never", DEADLINE))
        state.finish(End(ExitReason.PANIC))
        thread.join(DEADLINE)
        assert isinstance(told[0], GuestEnded)
        machine.resume()
        with pytest.raises(ExpectTimeout):  # more may come
            machine.console.expect("never", timeout=0)
        machine.stop()


def test_who_hears_of_the_end_finds_the_result() -> None:
    machine, _ = fake_machine(serial="capture")
    with machine:
        machine.start()
        seen: list[object] = []

        def end(result: object) -> None:
            seen.append((machine.state, machine.result is result))

        machine.console.end = end  # type: ignore[method-assign]
        machine.stop()
        machine.join()
        assert seen == [(MachineState.ENDED, True)]


# What a pause leaves behind


@pytest.mark.parametrize("then", ["stop", "pause"])
def test_a_reset_counts_once_whatever_follows_at_once(then: str) -> None:
    for _ in range(10):
        machine, state = fake_machine(on_reset="pause")
        with machine:
            machine.start()
            state.finish(End(ExitReason.RESET))
            machine.wait(DEADLINE)
            with state._lock:  # before vCPU 0 is awake
                machine.resume()
                state._halt(PAUSE) if then == "pause" else machine.stop()
            machine.stop()
            assert machine.wait(DEADLINE).resets == 1


def test_clocks_are_set_only_for_a_guest_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    was_set: list[str] = []
    monkeypatch.setattr(guest_time.GuestTime, "go_on", lambda _: was_set.append("set"))
    machine, state = fake_machine(on_reset="pause")
    with machine:
        machine.start()
        state.finish(End(ExitReason.RESET))
        machine.wait(DEADLINE)
        machine.resume()
        machine.pause()
        assert was_set == []
        machine.resume()
        machine.pause()
        assert was_set == ["set"]
        machine.stop()
        machine.join()
        assert was_set == ["set"]


# Everybody does anything


OFTEN = [
    "start",
    "pause",
    "pause",
    "resume",
    "resume",
    "wait",
    "reset",
    "panic",
    "look",
]
SELDOM = ["stop", "close", "power off"]


class Driver:
    """Several threads that do what a seed says."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        policies = {
            name: self._random.choice(["exit", "restart", "pause"])
            for name in ("on_reset", "on_panic")
        }
        self.cpus = self._random.choice([1, 1, 2])
        self.machine, self.state = fake_machine(self.cpus, **policies)
        self.unexpected: list[object] = []

    def run(self) -> None:
        plans = [self._plan() for _ in range(4)]
        threads = [in_thread(lambda plan=plan: self._follow(plan)) for plan in plans]  # type: ignore[misc]
        waiter = in_thread(self._wait)
        deadline = time.monotonic() + DEADLINE
        for thread, _ in threads:
            thread.join(max(0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a deadlock"
        closer, _ = in_thread(self.machine.close)
        for thread in (closer, waiter[0]):
            thread.join(max(0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a deadlock"

    def _plan(self) -> list[tuple[str, float]]:
        rare = 0.1
        return [
            (
                self._random.choice(SELDOM if self._random.random() < rare else OFTEN),
                self._random.choice([0, 0, 0.0005, 0.002]),
            )
            for _ in range(8)
        ]

    def _wait(self) -> None:
        while not self.machine.is_started:
            if self.machine.state is MachineState.CLOSED:
                return
            time.sleep(0.0005)
        self.machine.wait()

    def _follow(self, plan: list[tuple[str, float]]) -> None:
        for name, pause_s in plan:
            try:
                self._do(name)
            except (VmmError, TimeoutError):
                pass
            except Exception as error:
                self.unexpected.append(error)
            time.sleep(pause_s)

    def _do(self, name: str) -> None:
        machine, state = self.machine, self.state
        actions: dict[str, Callable[[], object]] = {
            "start": machine.start,
            "pause": machine.pause,
            "resume": machine.resume,
            "wait": lambda: machine.wait(0.001),
            "stop": machine.stop,
            "close": machine.close,
            "reset": lambda: state.finish(End(ExitReason.RESET)),
            "power off": lambda: state.finish(End(ExitReason.POWEROFF)),
            "panic": lambda: state.finish(End(ExitReason.PANIC), state.turn),
            "look": lambda: state.look(state.turn),
        }
        actions[name]()


@pytest.mark.parametrize("seed", range(200))
def test_in_any_order_nobody_waits_for_ever_and_no_state_is_wrong(seed: int) -> None:
    driver = Driver(seed)
    driver.run()
    state: WatchedState = driver.state
    assert driver.unexpected == []
    assert state.wrong == []
    assert state.state is MachineState.CLOSED
    assert state.paused is None
    assert (state.result is not None) == driver.machine.is_started
