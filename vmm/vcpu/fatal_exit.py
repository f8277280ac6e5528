"""Says in one line what a fatal exit was: RIP, instruction bytes, causes.

Source: KVM API section 5; suberrors from <linux/kvm.h>.
"""

from struct import Struct
from typing import Final

from ..errors import VmmError
from ..kvm.abi import (
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_SHUTDOWN,
    KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_RUN_UNION,
)
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory
from .virtual_memory import read_virtual

_INTERNAL: Final = Struct("<II").unpack_from  # suberror, ndata
_EMULATION: Final = Struct("<QB15s").unpack_from  # flags, insn_size, insn_bytes
_FAIL_ENTRY: Final = Struct("<QI").unpack_from  # reason, cpu
_RESET_RIP: Final = 0xFFF0

_SUBERRORS: Final = {
    1: "emulation failure",
    2: "simultaneous exceptions",
    3: "event delivery failure",
    4: "unexpected hardware exit",
}
_EXITS: Final = {
    0: "unknown hardware exit",
    3: "hypercall",
    4: "debug exit",
    5: "halt",
    24: "system event",
}
INSTRUCTION_MAX: Final = 15  # bytes, Intel SDM volume 2, section 2.3.11


def describe_exit(vcpu: Vcpu, memory: GuestMemory, reason: int) -> str:
    """One line for an exit that ends the run. Runs on the vCPU's thread."""
    code = b""
    if reason == KVM_EXIT_SHUTDOWN:
        what = "triple fault"
    elif reason == KVM_EXIT_INTERNAL_ERROR:
        what, code = _internal_error(vcpu)
    elif reason == KVM_EXIT_FAIL_ENTRY:
        cause, cpu = _FAIL_ENTRY(vcpu.kvm_run, KVM_RUN_UNION)
        what = f"KVM failed to enter the guest: reason {cause:#x} on host CPU {cpu}"
    else:
        what = _EXITS.get(reason, "unexpected exit") + f" (KVM exit {reason})"
    on_vcpu = f" on vCPU {vcpu.index}" if vcpu.index else ""
    return f"{what}{on_vcpu} at {_where(vcpu, memory, code)}"


def _internal_error(vcpu: Vcpu) -> tuple[str, bytes]:
    """What KVM calls it, and the instruction's bytes if it tells them."""
    suberror, ndata = _INTERNAL(vcpu.kvm_run, KVM_RUN_UNION)
    code = b""
    # flags and the bytes are three of the ndata 64-bit words
    if suberror == KVM_INTERNAL_ERROR_EMULATION and ndata >= 3:
        flags, size, fetched = _EMULATION(vcpu.kvm_run, KVM_RUN_UNION + 8)
        if flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES:
            code = fetched[:size]
    return _SUBERRORS.get(suberror, f"KVM internal error {suberror}"), code


def _where(vcpu: Vcpu, memory: GuestMemory, code: bytes) -> str:
    try:
        rip = vcpu.get_regs().rip
        if rip == _RESET_RIP:  # kvm_amd resets the vCPU before it reports a shutdown
            return "an unknown RIP (KVM has reset the vCPU)"
        code = code or read_virtual(vcpu, memory, rip, INSTRUCTION_MAX)
    except VmmError as error:
        return f"an unknown RIP ({error})"
    return f"RIP {rip:#x}, instruction bytes {code.hex(' ') or 'not mapped'}"
