"""Programs that check the kernel below them, and themselves, side by side."""

import platform
import re
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from support.guests import DEADLINE, built, kernel
from support.lengths import LONG

import vmm
from scripts.benchmark.host import SOFTWARE_MACHINE
from scripts.with_kvm.host_kvm import host_kvm
from vmm import RunResult

pytestmark = pytest.mark.linux

PVM: Final = host_kvm().kind == "pvm"
EMULATED: Final = platform.node() == SOFTWARE_MACHINE
SECONDS: Final = 10
# Their lateness is a busy host's, too: it is judged by --long, and by hand.
TIMERS: Final = "timers" if LONG else "timers-unjudged"

# What QEMU's emulated CPU does its own way: faults of lretq, wrgsbase, `int n`, XRSTOR.
# And its ticks are so short of time that several pass in one system call.
NOT_EMULATED: Final = set(
    f"sigreturn traps interrupts privileged i386 segments {TIMERS}".split()
)
# Not for every CPU or every kernel.
OPTIONAL: Final = set("avx avx512 sum-avx sum-avx512 dev-port".split())
NAMED_ONLY: Final = set("kernel compat avx-anyway timers-unjudged".split())

LINE: Final = re.compile(
    r"^stress: ([\w-]+): (?:(\d+) iterations, (\d+) wrong.*|skipped: (.*))$",
    re.MULTILINE,
)


class Line(NamedTuple):
    """What the report says of a worker."""

    iterations: int
    wrong: int
    skipped: str | None


def stress(image: Path, *words: str) -> RunResult:
    """Run the program in a guest of ours; its words are seconds and workers."""
    return vmm.run(
        kernel=image,
        initrd=built("initramfs-tiny.cpio"),
        command=["/stress", *words],
        files={"/stress": built("stress")},
        append="quiet",
        memory="128M",
        timeout=2 * DEADLINE,
    )


def report(result: RunResult) -> dict[str, Line]:
    """The lines of the report by the workers' names."""
    assert result.output is not None
    return {
        name: Line(int(iterations or 0), int(wrong or 0), skipped or None)
        for name, iterations, wrong, skipped in LINE.findall(result.output.decode())
    }


def workers() -> set[str]:
    """All that there are."""
    listed = [str(built("stress")), "list"]
    done = subprocess.run(listed, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_nothing_is_wrong_when_everything_is_used_at_once() -> None:
    wanted = workers() - NAMED_ONLY - {"timers"} | {TIMERS}
    if EMULATED:
        wanted -= NOT_EMULATED
    result = stress(kernel("tiny"), str(SECONDS), *sorted(wanted))
    told = report(result)
    assert result.guest_status == 0, (result.detail, result.output)
    assert set(told) == wanted
    for name, line in told.items():
        assert line.wrong == 0
        assert line.iterations > 0 or (line.skipped and name in OPTIONAL), (name, line)


@pytest.mark.long  # on a quiet host: one that wakes a halted vCPU late steals nothing
@pytest.mark.skipif(EMULATED, reason="ticks aren't on time there")
def test_timers_of_an_idle_guest_are_on_time() -> None:
    """It halts between them, which it never does while others work."""
    result = stress(kernel("tiny"), "5", "timers")
    assert result.guest_status == 0, (result.detail, result.output)
    assert report(result)["timers"].iterations > 100


@pytest.mark.stock
@pytest.mark.skipif(not PVM, reason="others save what the kernel doesn't know of")
def test_stock_kernel_on_pvm_loses_the_upper_halves_of_ymm_registers() -> None:
    """It has no XSAVE there, but programs may find out that the CPU has AVX."""
    result = stress(built("vmlinux-tiny"), "2", "avx-anyway", "sse")
    told = report(result)
    assert result.guest_status == 1, (result.detail, result.output)
    assert told["avx-anyway"].wrong > 0
    assert told["sse"] == (told["sse"].iterations, 0, None)


@pytest.mark.skipif(not PVM, reason="it is for PVM")
def test_kernel_in_ring_3_keeps_them() -> None:
    result = stress(kernel("tiny"), "1", "avx-anyway", "sse")
    assert result.guest_status == 0, (result.detail, result.output)
    assert report(result)["avx-anyway"].iterations > 0
