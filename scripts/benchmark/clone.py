"""Measure `clone`: a machine that goes on from a snapshot, in this process.

Our Linux, whose agent runs `true` when it is asked to. Each round boots its own.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any, Final

from vmm.errors import VmmError
from vmm.hot_pages import LIVES
from vmm.machine.machine import Machine

from . import restore
from .children import NotMeasured
from .memory import field_kb
from .peers import Guest
from .rounds import Job, Sample
from .tools import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.with_kvm.host_kvm import Kind
    from vmm.machine.snapshot import Snapshot

SIZES: Final = (128, 512)  # MiB of RAM
DIRTY_PAGES: Final = 500
AT_REST: Final = 8  # clones whose memory is compared with none
MANY: Final = 100
MEASURES: Final = {
    "snapshot-first": "Machine.snapshot() of a booted guest, which then goes on",
    "snapshot-later": "again, when it has run one command more",
    "clone-start": "Snapshot.clone(), which returns as its vCPU enters the guest",
    "clone-answer": 'Snapshot.clone(), not the first, to guest.run(["true"])\'s answer',
    "clone-cpu": "CPU time of both sides in it",
    "reset": f"Machine.reset() of a clone that has written to {DIRTY_PAGES} pages",
    "reset-answer": "and to its next answer",
    "reset-cpu": "CPU time of both sides in it",
    "clone-close": "Machine.close() of a clone",
    "clone-memory": "private memory of a clone that has answered",
    "many-answer": f"{MANY} clones at once: until all have answered",
    "many-memory": "their private memory",
    **restore.MEASURES,
}
DEADLINE_S: Final = 300.0
BUILD: Final = ROOT / "guest/build"
CMDLINE: Final = "console=ttyS0 reboot=k panic=-1 quiet guest.shell"
DIRTY: Final = f"dd if=/dev/zero of=/dirty bs=4k count={DIRTY_PAGES}".split()


def jobs(kind: Kind) -> list[Job]:
    """Return the runs of one round."""
    work = {"clone": _clone, "clone-many": _many}
    return [
        Job(group, f"{size} MiB", partial(run, guest(kind, size)))
        for group, run in work.items()
        for size in SIZES
    ] + [job for size in SIZES for job in restore.jobs(guest(kind, size))]


def guest(kind: Kind, memory_mib: int) -> Guest:
    """Return what is booted: our smallest Linux, on PVM the one that runs natively."""
    kernel = BUILD / ("vmlinux-tiny-ring3" if kind == "pvm" else "vmlinux-tiny")
    return Guest(kernel, memory_mib, BUILD / "initramfs-busybox.cpio", CMDLINE)


def needed(kind: Kind) -> tuple[str, ...]:
    """Return which guests of scripts/build-guest that takes."""
    return "tiny-ring3" if kind == "pvm" else "tiny", "busybox"


def _clone(guest: Guest, _: Path) -> list[Sample]:
    with _booted(guest) as machine:
        first, later = [_ms(lambda: machine.snapshot().close()) for _ in range(2)]
        with machine.snapshot() as snapshot:
            for __ in range(LIVES):
                _answered(snapshot).close()
            begun: list[Machine] = []
            start = _ms(lambda: begun.append(snapshot.clone()))
            begun[0].close()
            clone: list[Machine] = []
            answer, cpu = _costs(lambda: clone.append(_answered(snapshot)))
            with clone[0]:
                clone[0].guest.run(DIRTY, check=True)
                reset_ms, reset_cpu = _costs(clone[0].reset)
                to_answer, answer_cpu = _costs(lambda: _ask(clone[0]))
                close_ms = _ms(clone[0].close)
            memory = _memory_of(snapshot, AT_REST)
    times = {
        "snapshot-first": first,
        "snapshot-later": later,
        "clone-start": start,
        "clone-answer": answer,
        "clone-cpu": cpu,
        "reset": reset_ms,
        "reset-answer": reset_ms + to_answer,
        "reset-cpu": reset_cpu + answer_cpu,
        "clone-close": close_ms,
    }
    samples = [Sample(name, value, "ms") for name, value in times.items()]
    return [*samples, Sample("clone-memory", memory / AT_REST, "MiB")]


def _many(guest: Guest, _: Path) -> list[Sample]:
    with (
        _booted(guest) as machine,
        machine.snapshot() as snapshot,
        ThreadPoolExecutor() as pool,
        ExitStack() as stack,
    ):
        machine.close()
        before, start = _private_mib(), time.monotonic_ns()
        clones = [stack.enter_context(snapshot.clone()) for _ in range(MANY)]
        for __ in pool.map(_ask, clones):
            pass
        passed = (time.monotonic_ns() - start) / 1e6
        memory = _private_mib() - before
    return [
        Sample("many-answer", passed, "ms"),
        Sample("many-memory", memory, "MiB"),
    ]


@contextmanager
def _booted(guest: Guest) -> Iterator[Machine]:
    """Run a guest whose agent answers. Raises NotMeasured, whatever comes later."""
    try:
        with Machine(restore.config_of(guest, agent=True)) as machine:
            machine.start()
            machine.guest.wait_ready(DEADLINE_S)
            machine.console.expect("# ", timeout=DEADLINE_S)
            _ask(machine)
            yield machine
    except (VmmError, TimeoutError, SubprocessError) as error:
        raise NotMeasured(str(error).splitlines()[0]) from None


def _ask(machine: Machine) -> None:
    machine.guest.run(["true"], check=True, timeout=DEADLINE_S)


def _answered(snapshot: Snapshot) -> Machine:
    clone = snapshot.clone()
    _ask(clone)
    return clone


def _memory_of(snapshot: Snapshot, count: int) -> float:
    """Return the MiB that so many more clones take for themselves."""
    before = _private_mib()
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_answered(snapshot))
        return _private_mib() - before


def _private_mib() -> float:
    """Return what this process has written to; what KVM has for it isn't in it."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return field_kb(text, "Private_Dirty") / 1024


def _ms(work: Any) -> float:  # noqa: ANN401 - whatever it returns
    return _costs(work)[0]


def _costs(work: Any) -> tuple[float, float]:  # noqa: ANN401 - whatever it returns
    """Return the ms that `work` takes, and the CPU's that all threads take meanwhile.

    The vCPUs' threads are ours, so that it has the guest's instructions, too.
    """
    start, start_cpu = time.monotonic_ns(), time.process_time_ns()
    work()
    end, end_cpu = time.monotonic_ns(), time.process_time_ns()
    return (end - start) / 1e6, (end_cpu - start_cpu) / 1e6
