"""A machine without KVM: its guest does nothing until its state has an end."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import pytest

from vmm import Machine, MachineConfig, MachineState
from vmm.host.quirks import Quirks
from vmm.machine import guest_time, lifecycle, machine
from vmm.machine.lifecycle import Lifecycle
from vmm.machine.state import RunState
from vmm.machine.verdict import Verdict
from vmm.machine.vm_instance import VmParts
from vmm.memory import Range

from .fake_vcpu import FakeVcpu

if TYPE_CHECKING:
    from vmm.event_loop import GuestClock

_S: Final = MachineState
ALLOWED: Final = {
    (_S.CREATED, _S.RUNNING),
    (_S.RUNNING, _S.PAUSED),
    (_S.PAUSED, _S.RUNNING),
    (_S.RUNNING, _S.ENDED),
    (_S.ENDED, _S.CLOSED),
    (_S.CREATED, _S.CLOSED),
}


class WatchedState(RunState):
    """Notes each step from one state to another, and what was wrong with it."""

    def __init__(self) -> None:
        self.steps: list[MachineState] = []
        self.wrong: list[str] = []
        self.inside = 0  # vCPUs that run
        self.clock: GuestClock | None = None
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        if name == "state":
            assert isinstance(value, MachineState)
            self._note(value)
        super().__setattr__(name, value)

    def _note(self, new: MachineState) -> None:
        before = self.steps[-1] if self.steps else None
        if before is new:
            return
        self.steps.append(new)
        if before is not None and (before, new) not in ALLOWED:
            self.wrong.append(f"{before} -> {new}")
        if new is _S.PAUSED:
            if self.inside:
                self.wrong.append(f"{self.inside} vCPUs run while paused")
            assert self.clock is not None
            now_ns = self.clock.now_ns()
            time.sleep(1e-6)
            if self.clock.now_ns() != now_ns:
                self.wrong.append("the guest's time passes while it is paused")


class FakeInstance:
    """A VM whose vCPUs wait for an end, each on a thread, as VmInstance's do."""

    vm = None
    cmdline = b""

    def __init__(self, parts: VmParts, saved: object = None) -> None:
        assert isinstance(parts.control, WatchedState)
        self._state = parts.control
        self.vcpus = [FakeVcpu() for _ in range(parts.boot.cpus)]
        self.insn_emulation = 0

    @property
    def exits(self) -> dict[str, int]:
        return {"io": 0, "intr": 0}

    def run(self) -> None:
        others = [
            threading.Thread(target=self._run, args=(vcpu,)) for vcpu in self.vcpus[1:]
        ]
        for thread in others:
            thread.start()
        self._run(self.vcpus[0])
        for thread in others:
            thread.join()

    def _run(self, vcpu: FakeVcpu) -> None:
        state = self._state
        state.enter(vcpu)
        with state._lock:
            state.inside += 1
        while state.end is None:
            time.sleep(0.0002)
        with state._lock:
            state.inside -= 1
        state.leave(vcpu)

    def close(self) -> None:
        for vcpu in self.vcpus:
            vcpu.close()


class _NoTime:
    def __init__(self, *_: object) -> None: ...
    def go_on(self) -> None: ...


class _NoKvm:
    def __enter__(self) -> "_NoKvm":
        return self

    def __exit__(self, *_: object) -> None: ...


def _no_boot(config: MachineConfig, *_: object) -> object:
    return SimpleNamespace(
        kernel=SimpleNamespace(warnings=[], ring3=False),
        ram=[Range(0, 2 << 20)],
        cpus=config.cpus,
        cmdline=b"",
    )


def replace_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in what stands for KVM."""
    monkeypatch.setattr(lifecycle, "VmInstance", FakeInstance)
    monkeypatch.setattr(guest_time, "GuestTime", _NoTime)
    monkeypatch.setattr(Verdict, "look", lambda *_: None)
    monkeypatch.setattr(Lifecycle, "_make_report", lambda _: "")
    monkeypatch.setattr(Lifecycle, "_find_symbols", lambda _: None)
    monkeypatch.setattr("signal.pthread_kill", lambda thread, number: None)
    monkeypatch.setattr(machine, "Kvm", _NoKvm)
    monkeypatch.setattr(machine, "chosen_quirks", lambda _: Quirks())
    monkeypatch.setattr(machine, "open_boot", _no_boot)
    monkeypatch.setattr(machine, "RunState", WatchedState)
    monkeypatch.setattr(
        machine,
        "probe_kvm",
        lambda _, quirks, __: SimpleNamespace(quirks=quirks, posts=False, entry=None),
    )


def fake_machine(cpus: int = 1, **settings: object) -> tuple[Machine, WatchedState]:
    """A machine that was made, and its state; wants `replace_kvm`."""
    settings = {"serial": "null"} | settings | {"kernel": "none", "cpus": cpus}
    made = Machine(MachineConfig(**settings))  # type: ignore[arg-type]
    state = made._state
    assert isinstance(state, WatchedState)
    state.clock = made._life._host_side.clock
    return made, state


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
