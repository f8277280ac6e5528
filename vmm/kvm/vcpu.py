"""A vCPU: its registers, and the kvm_run page it shares with the kernel."""

import mmap

from ._fd import KvmFd
from ._libc import ioctl
from .abi import (
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_SET_CPUID2,
    KVM_SET_MSRS,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_TRANSLATE,
    kvm_cpuid2,
    kvm_msrs,
    kvm_regs,
    kvm_sregs,
    kvm_translation,
)


class Vcpu(KvmFd):
    """One virtual CPU. Its ioctls belong to the thread that runs it (API 2).

    `run` views the shared kvm_run area: `struct kvm_run`, then the data page of
    port I/O, at the offset that the exit names.
    """

    def __init__(self, fd: int, index: int, mmap_size: int) -> None:
        super().__init__(fd)
        self.index = index
        try:
            self._mmap = mmap.mmap(fd, mmap_size)
        except BaseException:
            super().close()
            raise
        self.run = memoryview(self._mmap)

    def close(self) -> None:
        """Unmap kvm_run and close the descriptor."""
        if self.fd >= 0:
            self.run.release()
            # Dropped, not closed: the traceback of a device that raised may still
            # hold a view, which would make mmap.close() fail.
            del self._mmap
        super().close()

    def get_regs(self) -> kvm_regs:
        """The general registers, RIP and RFLAGS."""
        regs = kvm_regs()
        ioctl(self.fd, KVM_GET_REGS, regs)
        return regs

    def set_regs(self, regs: kvm_regs) -> None:
        """Replace the general registers, RIP and RFLAGS."""
        ioctl(self.fd, KVM_SET_REGS, regs)

    def get_sregs(self) -> kvm_sregs:
        """The segment, table and control registers, EFER and the APIC base."""
        sregs = kvm_sregs()
        ioctl(self.fd, KVM_GET_SREGS, sregs)
        return sregs

    def set_sregs(self, sregs: kvm_sregs) -> None:
        """Replace the segment, table and control registers."""
        ioctl(self.fd, KVM_SET_SREGS, sregs)

    def set_cpuid2(self, cpuid: kvm_cpuid2) -> None:
        """Define what the CPUID instruction answers, before the first run."""
        ioctl(self.fd, KVM_SET_CPUID2, cpuid)

    def set_msrs(self, msrs: kvm_msrs) -> int:
        """Write MSRs in order; returns how many KVM took before one it refused."""
        return ioctl(self.fd, KVM_SET_MSRS, msrs)

    def translate(self, linear_addr: int) -> int | None:
        """The guest physical address of a virtual one; None where none is mapped."""
        translation = kvm_translation(linear_address=linear_addr)
        ioctl(self.fd, KVM_TRANSLATE, translation)
        return translation.physical_address if translation.valid else None
