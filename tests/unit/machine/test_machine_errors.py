"""What a machine tells of an end, be it the guest's or an error of ours."""

import time
from collections.abc import Callable

import pytest
from support.fake_machine import fake_machine, in_thread, replace_kvm

from vmm import (
    ExitReason,
    ExpectTimeout,
    GuestEnded,
    KvmError,
    Machine,
    MachineState,
)
from vmm.machine import guest_time
from vmm.machine.lifecycle import Lifecycle
from vmm.vcpu.control import PAUSE, End, RunControl, failure

DEADLINE = 20


@pytest.fixture(autouse=True)
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_kvm(monkeypatch)


# What we, or a device, raise between two boots


def fail(*_: object) -> None:
    raise KvmError(5, "it was us")


def fail_in_reset(machine: Machine) -> None:
    machine._life._parts.devices.reset = fail  # type: ignore[method-assign]


def fail_in_clear(machine: Machine) -> None:
    machine._life._parts.memory.clear = fail  # type: ignore[method-assign]


def fail_in_close(machine: Machine) -> None:
    machine._life.instance.close = fail  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("breaks", "policy"),
    [
        (fail_in_reset, "restart"),
        (fail_in_clear, "restart"),
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
