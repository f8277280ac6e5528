"""A machine without KVM: its guest does nothing until its state has an end."""

import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, Final

import pytest

from vmm import Machine, MachineConfig, MachineState
from vmm.console.console import Console
from vmm.devices.serial import Serial
from vmm.event_loop import EventLoop, GuestClock
from vmm.machine import guest_time, lifecycle
from vmm.machine.lifecycle import HostSide, Lifecycle
from vmm.machine.outcomes import Outcomes
from vmm.machine.state import RunState
from vmm.machine.verdict import Verdict
from vmm.machine.vm_instance import VmParts
from vmm.watch.panic import PanicWatch

from .fake_vcpu import FakeVcpu

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


def replace_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in what stands for KVM."""
    monkeypatch.setattr(lifecycle, "VmInstance", FakeInstance)
    monkeypatch.setattr(guest_time, "GuestTime", _NoTime)
    monkeypatch.setattr(Verdict, "look", lambda *_: None)
    monkeypatch.setattr(Lifecycle, "_make_report", lambda _: "")
    monkeypatch.setattr(Lifecycle, "_find_symbols", lambda _: None)
    monkeypatch.setattr("signal.pthread_kill", lambda thread, number: None)


def fake_machine(cpus: int = 1, **settings: object) -> tuple[Machine, WatchedState]:
    """A machine that was made, and its state; wants `replace_kvm`."""
    settings = {"serial": "null"} | settings | {"kernel": "none", "cpus": cpus}
    config = MachineConfig(**settings)  # type: ignore[arg-type]
    machine = Machine.__new__(Machine)
    machine.config, machine._is_disowned, machine._pokes = config, False, False
    machine._profile = machine.debugcon = None
    state = machine._state = WatchedState()
    outcomes = machine._outcomes = Outcomes(config, state)
    loop = machine._loop = EventLoop(outcomes.loop_failed)
    clock = state.clock = GuestClock(loop)
    watch = PanicWatch(outcomes.panic_told)
    console = machine.console = Console(
        loop, config.console, outcomes.write_failed, on_output=watch.feed
    )
    line = SimpleNamespace(trigger=lambda: None)
    console.connect(Serial(line, console.sink, clock=clock, events=console.events))
    host_side = HostSide(
        loop, clock, console, watch, None, None, None, outcomes.failures
    )
    outcomes.connect(host_side)
    nothing = SimpleNamespace(
        reset=lambda: None,
        discard=lambda: None,
        reports=list,
        note=str,
        counts={},
        io_manager=SimpleNamespace(unclaimed_accesses=0),
    )
    made: Any = {
        "setup": SimpleNamespace(quirks=nothing),
        "memory": nothing,
        "boot": SimpleNamespace(cpus=cpus, cmdline=b""),
        "devices": nothing,
        "control": state,
        "profile": None,
    }
    machine._life = Lifecycle(config, VmParts(**made), state, host_side, None)
    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.callback(machine.console.close)
        stack.callback(loop.stop)
        machine._cleanup = stack.pop_all()
    return machine, state
