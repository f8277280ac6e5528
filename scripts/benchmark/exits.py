"""Measure `exits`: what one access to the UART costs, seen by the guest's TSC."""

from __future__ import annotations

import fcntl
import re
from functools import partial
from typing import TYPE_CHECKING, Final

from vmm.kvm.kvm import Kvm

from .children import NotMeasured, complaint, run
from .peers import Guest
from .rounds import Job, Sample
from .variants import BARE, command

if TYPE_CHECKING:
    from pathlib import Path

KVM_GET_TSC_KHZ: Final = 0xAEA3  # _IO(KVMIO, 0xa3), API 4.56
VARIANTS: Final = ("c", "compiled", "python", "all", "qemu", "lkvm")
MEASURES: Final = {
    "thr-write": "a write to THR that never asks LSR",
    "lsr-read": "a read of LSR",
    "mix": "a byte of polled output: LSR is read, THR written",
}
DEADLINE_S: Final = 120.0  # takes half a second as a rule
_LINE: Final = re.compile(rb"^bench ([0-9a-f]{16}) ([0-9a-f]{8})$", re.MULTILINE)


def jobs() -> list[Job]:
    """Return the runs of one round: every guest in every variant."""
    tsc_khz = guest_tsc_khz()
    return [
        Job(measure, variant, partial(_run, measure, variant, tsc_khz))
        for measure in MEASURES
        for variant in VARIANTS
    ]


def guest_tsc_khz() -> int:
    """Return the rate at which a guest's TSC counts here. Raises KvmError."""
    with Kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        return fcntl.ioctl(vcpu.fd, KVM_GET_TSC_KHZ)


def access_ns(output: bytes, tsc_khz: int) -> float | None:
    """Return what an access took by the guest's last line; None if there is none."""
    lines = _LINE.findall(output)
    if not lines:
        return None
    cycles, accesses = (int(number, 16) for number in lines[-1])
    return cycles / accesses / tsc_khz * 1e6


def _run(measure: str, variant: str, tsc_khz: int, folder: Path) -> list[Sample]:
    guest = Guest(BARE / f"bench-{measure}.elf")
    output = run(command(variant, guest, folder), folder, DEADLINE_S)
    value = access_ns(output, tsc_khz)
    if value is None:
        raise NotMeasured(complaint(None, folder))
    return [Sample(measure, value, "ns")]
