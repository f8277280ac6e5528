"""A guest of two instructions that tells an emulated CPU from a real one."""

from struct import Struct
from typing import Final

from ..boot import layout
from ..boot.cpu_state import boot_blocks, set_boot_cpu
from ..boot.placement import write_blocks
from ..kvm._libc import ioctl
from ..kvm.abi import KVM_EXIT_HLT, KVM_RUN, KVM_RUN_EXIT_REASON
from ..kvm.kvm import Kvm
from ..memory import GuestMemory, Range

_REASON: Final = Struct("<I").unpack_from
_CODE_ADDR: Final = 0x10000
_CODE: Final = bytes.fromhex("9b f4")  # fwait; hlt
_RAM: Final = Range(0, 0x20000)


def runs_fwait(kvm: Kvm) -> bool:
    """Whether `fwait` runs in 64-bit kernel code, as it does on VMX and SVM.

    KVM's instruction emulator, by which PVM runs kernel code, hasn't got it.
    Takes a few milliseconds.
    """
    memory = GuestMemory([_RAM])
    try:
        memory.write(_CODE_ADDR, _CODE)
        write_blocks(memory, boot_blocks())
        with kvm.create_vm() as vm:
            vm.set_tss_addr(layout.TSS)
            vm.set_identity_map_addr(layout.IDENTITY_MAP)
            (region,) = memory.regions
            vm.set_user_memory_region(
                0, region.guest_addr, region.size, memory.host_addr(region)
            )
            with vm.create_vcpu(0) as vcpu:
                set_boot_cpu(vcpu, _CODE_ADDR)
                ioctl(vcpu.fd, KVM_RUN)
                (reason,) = _REASON(vcpu.kvm_run, KVM_RUN_EXIT_REASON)
                return bool(reason == KVM_EXIT_HLT)
    finally:
        memory.close()
