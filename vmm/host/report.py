"""What kind of KVM this host has, and what it can do."""

import os
from typing import Final, Literal

from ..devices.record import Record
from ..errors import KvmUnavailable, VmmError
from ..installation import script
from ..kvm import abi
from ..kvm.kvm import DEV_KVM, REQUIRED_CAPABILITIES, Kvm
from ..vcpu.entry import VARIABLE, entry_kind, why_not_compiled
from .probe import runs_fwait

Kind = Literal["hardware", "pvm", "none"]

# Used where they are there, and limits.
OPTIONAL_CAPABILITIES: Final = {
    "KVM_CAP_COALESCED_PIO": abi.KVM_CAP_COALESCED_PIO,
    "KVM_CAP_IOEVENTFD": abi.KVM_CAP_IOEVENTFD,
    "KVM_CAP_IRQ_ROUTING": abi.KVM_CAP_IRQ_ROUTING,
    "KVM_CAP_BINARY_STATS_FD": abi.KVM_CAP_BINARY_STATS_FD,
    "KVM_CAP_X86_MSR_FILTER": abi.KVM_CAP_X86_MSR_FILTER,
    "KVM_CAP_TSC_DEADLINE_TIMER": abi.KVM_CAP_TSC_DEADLINE_TIMER,
    "KVM_CAP_MAX_VCPUS": abi.KVM_CAP_MAX_VCPUS,
    "KVM_CAP_NR_MEMSLOTS": abi.KVM_CAP_NR_MEMSLOTS,
}
_MODULES: Final = "/sys/module"


class HostReport(Record):
    """What `vmm doctor` tells. `problems` say what lacks and what to do about it."""

    kind: Kind
    module: str
    usable: bool
    explanation: str
    permission: str
    capabilities: dict[str, int]
    run_loop: str
    problems: list[str]


def kvm_module() -> str:
    """The module that provides /dev/kvm: kvm_intel, kvm_amd, kvm_pvm or ""."""
    for name in ("kvm_pvm", "kvm_intel", "kvm_amd"):
        if os.path.exists(os.path.join(_MODULES, name)):
            return name
    return ""


def host_kind() -> Kind:
    """What kind of KVM runs our guests here; asks a guest where no module tells.

    Raises KvmUnavailable where it has to ask and can't.
    """
    module = kvm_module()
    if module:
        return "pvm" if module == "kvm_pvm" else "hardware"
    with Kvm() as kvm:
        return "hardware" if runs_fwait(kvm) else "pvm"


def default_kernel() -> str:
    """What is booted here without a kernel given: a guest of scripts/build-guest."""
    try:
        return "tiny-ring3" if host_kind() == "pvm" else "tiny"
    except KvmUnavailable:
        return "tiny"  # it will be said when KVM is to be used


def examine() -> HostReport:
    """Open /dev/kvm as a run would, and report. Never raises for a poor host.

    The kind is what a guest finds, whatever the modules are called.
    """
    capabilities: dict[str, int] = {}
    problems: list[str] = []
    lacking = list(REQUIRED_CAPABILITIES)
    kind: Kind = "none"
    try:
        with Kvm(required={}) as kvm:
            capabilities = {
                name: kvm.check_extension(number)
                for name, number in (
                    REQUIRED_CAPABILITIES | OPTIONAL_CAPABILITIES
                ).items()
            }
            lacking = [name for name in lacking if not capabilities[name]]
            if lacking:
                names = ", ".join(lacking)
                problems.append(f"KVM lacks {names}: a newer host kernel has it")
            else:
                kind = "hardware" if runs_fwait(kvm) else "pvm"
    except VmmError as error:
        problems.append(str(error))
    if kind == "pvm" and not capabilities["KVM_CAP_X86_MSR_FILTER"]:
        problems.append("KVM lacks KVM_CAP_X86_MSR_FILTER: Linux needs it on PVM")
    return HostReport(
        kind=kind,
        module=kvm_module(),
        usable=kind != "none",
        explanation=_explanation(kind),
        permission=_permission(),
        capabilities=capabilities,
        run_loop=_run_loop(problems),
        problems=problems,
    )


def _explanation(kind: Kind) -> str:
    if kind == "none":
        return "not usable, see below"
    if kind == "hardware":
        return (
            "a guest's kernel runs on the CPU itself (VMX or SVM), every 64-bit Linux "
            "boots; no quirks"
        )
    return (
        "ring 3 runs natively, and with it kernels that run there "
        f"({script('build-guest tiny-ring3')}, or full-ring3); a stock kernel is "
        "emulated, one or two million instructions a second, without AVX in its "
        "programs; small ones boot, with the quirks for PVM "
        f"({script('with-kvm vmm run ...')} runs any kernel in a software machine)"
    )


def _run_loop(problems: list[str]) -> str:
    """Which run loop a machine would have, and why."""
    try:
        kind = entry_kind()
    except VmmError as error:
        problems.append(str(error))
        return "none"
    if kind == "compiled":
        return "compiled: fast ports are served in C"
    reason = why_not_compiled()
    if not reason:
        return f"python, as {VARIABLE} says"
    return (
        f"python: the compiled one was not built ({reason}); with a C compiler and "
        "Python's headers, installing the package again builds it"
    )


def _permission() -> str:
    if not os.path.exists(DEV_KVM):
        return "there is none"
    status = os.stat(DEV_KVM)
    may = os.access(DEV_KVM, os.R_OK | os.W_OK)
    return (
        f"mode {status.st_mode & 0o777:03o}, owner {status.st_uid}:{status.st_gid}, "
        f"{'accessible' if may else 'not accessible'} for uid {os.getuid()}"
    )
