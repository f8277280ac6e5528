"""All that KVM keeps of a vCPU, to be put into another one that goes on from there.

Order and pitfalls: KVM API 4.29 to 4.134, and what others have run into with them,
which each step names. The TSC is its caller's: it goes with kvm-clock, as a pair.
"""

import ctypes
import os
from typing import Annotated, Final

from ..devices.state import State, Uint64
from ..errors import KvmError
from ._libc import ioctl
from .abi import (
    KVM_CAP_XSAVE2,
    KVM_GET_DEBUGREGS,
    KVM_GET_LAPIC,
    KVM_GET_MP_STATE,
    KVM_GET_MSR_INDEX_LIST,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_GET_VCPU_EVENTS,
    KVM_GET_XCRS,
    KVM_GET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_MAX_MSR_ENTRIES,
    KVM_SET_DEBUGREGS,
    KVM_SET_LAPIC,
    KVM_SET_MP_STATE,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_VCPU_EVENTS,
    KVM_SET_XCRS,
    KVM_SET_XSAVE,
    kvm_debugregs,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_msr_list,
    kvm_regs,
    kvm_sregs,
    kvm_vcpu_events,
    kvm_xcrs,
    kvm_xsave,
)
from .kvm import Kvm
from .vcpu import Vcpu

IA32_TSC: Final = 0x10
IA32_TSC_DEADLINE: Final = 0x6E0
TSS_BUSY: Final = 1 << 1
XSAVE_MAX: Final = 64 << 10  # with AMX it is 11 KB

# Guests write the MTRRs, and so do we, but KVM's list lacks them.
_MTRRS: Final = (*range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270), 0x2FF)

_Msr = tuple[Annotated[int, range(1 << 32)], Uint64]
_Struct = Annotated[bytes, range(1, 4096 + 1)]


class VcpuState(State):
    """The structures are KVM's, as they are in memory; MSRs are (index, value)."""

    mp_state: Annotated[int, range(16)]
    regs: _Struct
    sregs: _Struct
    xcrs: _Struct
    xsave: Annotated[bytes, range(4096, XSAVE_MAX)]
    debugregs: _Struct
    lapic: _Struct
    msrs: Annotated[tuple[_Msr, ...], range(1, KVM_MAX_MSR_ENTRIES + 1)]
    events: _Struct
    tsc: Uint64
    tsc_offset: Uint64 | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in _STRUCTS.items():
            size = ctypes.sizeof(kind)
            self.require(len(getattr(self, name)) == size, f"{name} has {size} bytes")


_STRUCTS: Final[dict[str, type[ctypes.Structure]]] = {
    "regs": kvm_regs,
    "sregs": kvm_sregs,
    "xcrs": kvm_xcrs,
    "debugregs": kvm_debugregs,
    "lapic": kvm_lapic_state,
    "events": kvm_vcpu_events,
}


def save_vcpu(kvm: Kvm, vcpu: Vcpu) -> VcpuState:
    """What it is like, while it stands still between two instructions."""
    fd = vcpu.fd
    # The first of all: it makes KVM take what waits of INIT and SIPI.
    mp_state = kvm_mp_state()
    ioctl(fd, KVM_GET_MP_STATE, mp_state)
    indices = _saveable_msrs(kvm, vcpu)
    deadline = vcpu.get_msrs([IA32_TSC_DEADLINE])
    lapic = _get(fd, KVM_GET_LAPIC, kvm_lapic_state())
    msrs = dict(zip(indices, vcpu.get_msrs(indices), strict=True))
    if deadline and deadline[0] and not msrs.get(IA32_TSC_DEADLINE, 1):
        # It has come since LAPIC was read: let it come once more.
        msrs[IA32_TSC_DEADLINE] = deadline[0]
    return VcpuState(
        mp_state=mp_state.mp_state,
        regs=_get(fd, KVM_GET_REGS, kvm_regs()),
        sregs=_get(fd, KVM_GET_SREGS, kvm_sregs()),
        xcrs=_get(fd, KVM_GET_XCRS, kvm_xcrs()),
        xsave=_get_xsave(kvm, fd),
        debugregs=_get(fd, KVM_GET_DEBUGREGS, kvm_debugregs()),
        lapic=lapic,
        msrs=tuple(msrs.items()),
        # Last: the others don't change it.
        events=_get(fd, KVM_GET_VCPU_EVENTS, kvm_vcpu_events()),
        tsc=vcpu.get_msrs([IA32_TSC])[0],
        tsc_offset=vcpu.get_tsc_offset() if vcpu.has_tsc_offset else None,
    )


def restore_vcpu(vcpu: Vcpu, state: VcpuState) -> None:
    """Make it go on from there; its CPUID is set already. Raises KvmError.

    REGS drop pending exceptions, so that EVENTS come later; the APIC base is in SREGS,
    what LAPIC means by that, and a deadline counts only once LAPIC has its mode.
    """
    fd = vcpu.fd
    ioctl(fd, KVM_SET_MP_STATE, kvm_mp_state(mp_state=state.mp_state))
    _put(fd, KVM_SET_REGS, kvm_regs, state.regs)
    ioctl(fd, KVM_SET_SREGS, _sregs(state.sregs))
    if kvm_xcrs.from_buffer_copy(state.xcrs).nr_xcrs:  # EINVAL on a host without XSAVE
        _put(fd, KVM_SET_XCRS, kvm_xcrs, state.xcrs)
    ioctl(fd, KVM_SET_XSAVE, ctypes.create_string_buffer(state.xsave, XSAVE_MAX))
    _put(fd, KVM_SET_DEBUGREGS, kvm_debugregs, state.debugregs)
    _put(fd, KVM_SET_LAPIC, kvm_lapic_state, state.lapic)
    set_msrs(vcpu, state.msrs)
    _put(fd, KVM_SET_VCPU_EVENTS, kvm_vcpu_events, state.events)


def _sregs(data: bytes) -> kvm_sregs:
    """kvm_amd shows a TSS as busy, which VMX demands; SVM hasn't it (svm_get_segment).

    QEMU's emulation of SVM lets no program at a port then, whatever it may.
    """
    sregs = kvm_sregs.from_buffer_copy(data)
    if os.path.exists("/sys/module/kvm_amd"):
        sregs.tr.type &= ~TSS_BUSY
    return sregs


def set_msrs(vcpu: Vcpu, values: tuple[tuple[int, int], ...]) -> None:
    """Write them all. Raises KvmError with the one that KVM refuses."""
    count = vcpu.set_msrs(values)
    if count < len(values):
        index, value = values[count]
        raise KvmError(0, f"KVM_SET_MSRS refused {value:#x} for MSR {index:#x}")


def _get(fd: int, request: int, structure: ctypes.Structure) -> bytes:
    ioctl(fd, request, structure)
    return bytes(structure)


def _put(fd: int, request: int, kind: type[ctypes.Structure], data: bytes) -> None:
    ioctl(fd, request, kind.from_buffer_copy(data))


def _get_xsave(kvm: Kvm, fd: int) -> bytes:
    """With AMX the older call is refused, and what it gives would lack the tiles."""
    size = kvm.check_extension(KVM_CAP_XSAVE2)
    if not size:
        return _get(fd, KVM_GET_XSAVE, kvm_xsave())
    area = ctypes.create_string_buffer(max(size, ctypes.sizeof(kvm_xsave)))
    ioctl(fd, KVM_GET_XSAVE2, area)
    return area.raw


_SAVEABLE: list[int] = []


def _saveable_msrs(kvm: Kvm, vcpu: Vcpu) -> list[int]:
    """Those that can be read and written back, a deadline last.

    They are the same for all vCPUs of a host, but for what CPUID hides.
    """
    if _SAVEABLE and len(vcpu.get_msrs(_SAVEABLE)) == len(_SAVEABLE):
        return _SAVEABLE
    known = kvm_msr_list(nmsrs=kvm_msr_list.indices.size // 4)
    ioctl(kvm.fd, KVM_GET_MSR_INDEX_LIST, known)
    indices = {*known.indices[: known.nmsrs], *_MTRRS} - {IA32_TSC}
    in_order = sorted(indices, key=lambda index: (index == IA32_TSC_DEADLINE, index))
    _SAVEABLE[:] = [index for index in in_order if _is_saveable(vcpu, index)]
    return _SAVEABLE


def _is_saveable(vcpu: Vcpu, index: int) -> bool:
    values = vcpu.get_msrs([index])
    return bool(values) and vcpu.set_msrs([(index, values[0])]) == 1
