"""A vCPU: its registers, and the kvm_run page it shares with the kernel."""

import errno
import mmap
from collections.abc import Sequence
from contextlib import suppress
from ctypes import addressof, c_uint64

from ..errors import KvmError
from ._fd import KvmFd
from ._libc import ioctl
from .abi import (
    KVM_GET_DEVICE_ATTR,
    KVM_GET_MP_STATE,
    KVM_GET_MSRS,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_GET_STATS_FD,
    KVM_GET_TSC_KHZ,
    KVM_GET_VCPU_EVENTS,
    KVM_GUESTDBG_ENABLE,
    KVM_GUESTDBG_SINGLESTEP,
    KVM_GUESTDBG_USE_HW_BP,
    KVM_HAS_DEVICE_ATTR,
    KVM_KVMCLOCK_CTRL,
    KVM_SET_CPUID2,
    KVM_SET_DEVICE_ATTR,
    KVM_SET_GUEST_DEBUG,
    KVM_SET_MSRS,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_VCPU_EVENTS,
    KVM_TRANSLATE,
    KVM_VCPU_TSC_CTRL,
    KVM_VCPU_TSC_OFFSET,
    kvm_cpuid2,
    kvm_device_attr,
    kvm_guest_debug,
    kvm_mp_state,
    kvm_msr_entry,
    kvm_msrs,
    kvm_regs,
    kvm_sregs,
    kvm_translation,
    kvm_vcpu_events,
)
from .coalesced import PAGE_SIZE, CoalescedRing
from .stats import read_stats

DR7_L0 = 1 << 0  # breakpoint 0, on execution: Intel SDM volume 3, figure 18-1


class Vcpu(KvmFd):
    """One virtual CPU. Its ioctls belong to the thread that runs it (API 2).

    `kvm_run` views the area that it shares with KVM: `struct kvm_run`, then the data
    page of port I/O, at the offset that the exit names.
    """

    def __init__(self, fd: int, index: int, mmap_size: int) -> None:
        super().__init__(fd)
        self.index = index
        try:
            self._mmap = mmap.mmap(fd, mmap_size)
        except BaseException:
            super().close()
            raise
        self.kvm_run = memoryview(self._mmap)
        self.posted: CoalescedRing | None = None
        """The VM's coalesced writes, for the one vCPU that takes them."""

    def close(self) -> None:
        """Unmap kvm_run and close the descriptor."""
        if self.fd >= 0:
            posted, self.posted = self.posted, None
            if posted is not None:
                posted.close()
            self.kvm_run.release()
            # The mapping has a descriptor of its own. The traceback of a device that
            # raised may still hold a view: then they go when it does.
            with suppress(BufferError):
                self._mmap.close()
            del self._mmap
        super().close()

    def take_posted(self, page: int) -> None:
        """Make this the vCPU that takes coalesced writes.

        `page` is what KVM_CAP_COALESCED_MMIO says: where in kvm_run their ring is.
        """
        start = page * PAGE_SIZE
        self.posted = CoalescedRing(self.kvm_run[start : start + PAGE_SIZE])

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

    def get_mp_state(self) -> int:
        """Whether it runs, halts or waits to be started: KVM_MP_STATE_..."""
        state = kvm_mp_state()
        ioctl(self.fd, KVM_GET_MP_STATE, state)
        return state.mp_state

    def set_cpuid2(self, cpuid: kvm_cpuid2) -> None:
        """Define what the CPUID instruction answers, before the first run."""
        ioctl(self.fd, KVM_SET_CPUID2, cpuid)

    def get_tsc_khz(self) -> int:
        """How fast the guest's TSC counts; needs KVM_CAP_GET_TSC_KHZ.

        Raises KvmError, EIO, where the host's own TSC is unstable.
        """
        return ioctl(self.fd, KVM_GET_TSC_KHZ)

    @property
    def has_tsc_offset(self) -> bool:
        """Whether the next two are there: Linux 5.16."""
        try:
            ioctl(self.fd, KVM_HAS_DEVICE_ATTR, _tsc_offset(c_uint64()))
        except KvmError:
            return False
        return True

    def get_tsc_offset(self) -> int:
        """What is added to the host's TSC, modulo 2**64."""
        offset = c_uint64()
        ioctl(self.fd, KVM_GET_DEVICE_ATTR, _tsc_offset(offset))
        return offset.value

    def set_tsc_offset(self, offset: int) -> None:
        """Replace it. PVM takes it and goes on without."""
        value = c_uint64(offset)
        ioctl(self.fd, KVM_SET_DEVICE_ATTR, _tsc_offset(value))

    def tell_of_pause(self) -> None:
        """Tell a guest that has kvm-clock: its watchdogs forgive what comes late."""
        try:
            ioctl(self.fd, KVM_KVMCLOCK_CTRL)
        except KvmError as error:
            if error.errno != errno.EINVAL:  # it has none
                raise

    def get_msrs(self, indices: Sequence[int]) -> list[int]:
        """The values of up to KVM_MAX_MSR_ENTRIES MSRs, to the first that KVM lacks."""
        msrs = kvm_msrs(nmsrs=len(indices))
        for slot, index in enumerate(indices):
            msrs.entries[slot].index = index
        count = ioctl(self.fd, KVM_GET_MSRS, msrs)
        return [msrs.entries[slot].data for slot in range(count)]

    def set_msrs(self, values: Sequence[tuple[int, int]]) -> int:
        """Write up to KVM_MAX_MSR_ENTRIES MSRs, given as index and value, in order.

        Returns how many KVM took before one it refused.
        """
        msrs = kvm_msrs(nmsrs=len(values))
        for slot, (index, value) in enumerate(values):
            msrs.entries[slot] = kvm_msr_entry(index=index, data=value)
        return ioctl(self.fd, KVM_SET_MSRS, msrs)

    def inject_exception(self, vector: int) -> None:
        """Raise an exception without error code at the next entry."""
        events = kvm_vcpu_events()
        ioctl(self.fd, KVM_GET_VCPU_EVENTS, events)
        events.exception[:3] = [1, vector, 0]  # injected, nr, has_error_code
        ioctl(self.fd, KVM_SET_VCPU_EVENTS, events)

    def set_breakpoint(self, address: int | None) -> None:
        """Stop with KVM_EXIT_DEBUG before the instruction at `address` runs.

        There is one breakpoint at most; None takes it away. Ends stepping, too.
        """
        debug = kvm_guest_debug()
        if address is not None:
            debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP
            debug.arch[0], debug.arch[7] = address, DR7_L0
        ioctl(self.fd, KVM_SET_GUEST_DEBUG, debug)

    def step(self) -> None:
        """Stop with KVM_EXIT_DEBUG after each instruction, until `set_breakpoint`."""
        debug = kvm_guest_debug(control=KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)
        ioctl(self.fd, KVM_SET_GUEST_DEBUG, debug)

    def stats(self) -> dict[str, int]:
        """KVM's own counters of this vCPU, by name; needs KVM_CAP_BINARY_STATS_FD."""
        return read_stats(ioctl(self.fd, KVM_GET_STATS_FD))

    def translate(self, linear_addr: int) -> int | None:
        """The guest physical address of a virtual one; None where none is mapped."""
        translation = kvm_translation(linear_address=linear_addr)
        ioctl(self.fd, KVM_TRANSLATE, translation)
        return translation.physical_address if translation.valid else None


def _tsc_offset(value: c_uint64) -> kvm_device_attr:
    """The attribute, to be read into `value` or written from it."""
    return kvm_device_attr(
        group=KVM_VCPU_TSC_CTRL, attr=KVM_VCPU_TSC_OFFSET, addr=addressof(value)
    )
