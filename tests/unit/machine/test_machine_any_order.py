"""Whoever does anything with a machine, in any order: no state is wrong."""

import random
import time
from typing import TYPE_CHECKING

import pytest
from support.fake_machine import WatchedState, fake_machine, in_thread, replace_kvm

from vmm import (
    ExitReason,
    MachineState,
    VmmError,
)
from vmm.vcpu.control import End

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 20


@pytest.fixture(autouse=True)
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_kvm(monkeypatch)


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
