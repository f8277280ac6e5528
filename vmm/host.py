"""What kind of KVM this host has, and what it can do."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from .errors import VmmError
from .kvm import abi
from .kvm.kvm import DEV_KVM, REQUIRED_CAPABILITIES, Kvm

Kind = Literal["hardware", "pvm", "none"]

# Used where they are there, and limits.
OPTIONAL_CAPABILITIES: Final = {
    "KVM_CAP_TSC_DEADLINE_TIMER": abi.KVM_CAP_TSC_DEADLINE_TIMER,
    "KVM_CAP_MAX_VCPUS": abi.KVM_CAP_MAX_VCPUS,
    "KVM_CAP_NR_MEMSLOTS": abi.KVM_CAP_NR_MEMSLOTS,
}
# Not used, but what tells the kinds of hosts apart.
TELLING_CAPABILITIES: Final = {
    "KVM_CAP_X86_SMM": abi.KVM_CAP_X86_SMM,
    "KVM_CAP_NESTED_STATE": abi.KVM_CAP_NESTED_STATE,
}
_MODULES: Final = Path("/sys/module")


@dataclass(frozen=True)
class HostReport:
    """What `vmm doctor` tells. `problems` say what lacks and what to do about it."""

    kind: Kind
    module: str
    usable: bool
    explanation: str
    permission: str
    capabilities: dict[str, int]
    problems: list[str]


def kvm_module() -> str:
    """The module that provides /dev/kvm: kvm_intel, kvm_amd, kvm_pvm or ""."""
    for name in ("kvm_pvm", "kvm_intel", "kvm_amd"):
        if (_MODULES / name).exists():
            return name
    return ""


def examine() -> HostReport:
    """Open /dev/kvm as a run would, and report. Never raises for a poor host."""
    module = kvm_module()
    capabilities: dict[str, int] = {}
    problems: list[str] = []
    try:
        with Kvm(required={}) as kvm:
            capabilities = {
                name: kvm.check_extension(number)
                for name, number in (
                    REQUIRED_CAPABILITIES | OPTIONAL_CAPABILITIES | TELLING_CAPABILITIES
                ).items()
            }
    except VmmError as error:
        problems.append(str(error))
    lacking = [name for name in REQUIRED_CAPABILITIES if not capabilities.get(name)]
    if capabilities and lacking:
        problems.append(f"KVM lacks {', '.join(lacking)}: a newer host kernel has it")
    kind = _kind(module, capabilities)
    if kind == "pvm":
        problems.append(
            "PVM emulates kernel code and lacks instructions that Linux uses: "
            "bare-metal guests run here, Linux doesn't; 'scripts/with-kvm vmm run …' "
            "runs it in a software machine"
        )
    usable = not lacking
    return HostReport(
        kind=kind,
        module=module,
        usable=usable,
        explanation=_EXPLANATIONS[kind] if usable else "not usable, see below",
        permission=_permission(),
        capabilities=capabilities,
        problems=problems,
    )


_EXPLANATIONS: Final[dict[Kind, str]] = {
    "hardware": "KVM on VMX or SVM: every 64-bit Linux boots",
    "pvm": "KVM without VMX or SVM: guest kernels are emulated at 1-2 MIPS",
    "none": "no usable KVM on this host",
}


def _kind(module: str, capabilities: dict[str, int]) -> Kind:
    if not os.path.exists(DEV_KVM):
        return "none"
    if module == "kvm_pvm":
        return "pvm"
    # Both hardware modules offer nested state; PVM has neither that nor SMM.
    no_nesting = capabilities and not capabilities["KVM_CAP_NESTED_STATE"]
    if no_nesting and not capabilities["KVM_CAP_X86_SMM"]:
        return "pvm"
    return "hardware"


def _permission() -> str:
    if not os.path.exists(DEV_KVM):
        return "there is none"
    status = os.stat(DEV_KVM)
    may = os.access(DEV_KVM, os.R_OK | os.W_OK)
    return (
        f"mode {status.st_mode & 0o777:03o}, owner {status.st_uid}:{status.st_gid}, "
        f"{'accessible' if may else 'not accessible'} for uid {os.getuid()}"
    )
