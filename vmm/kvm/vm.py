"""A VM: memory slots, the in-kernel interrupt controllers and timer, irqfds."""

from collections.abc import Sequence
from ctypes import addressof, c_uint8, c_uint64, memmove, sizeof

from ..devices.doorbell import Doorbell
from ._fd import KvmFd
from ._libc import ioctl
from .abi import (
    KVM_CAP_X86_USER_SPACE_MSR,
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_PIT2,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_GET_CLOCK,
    KVM_GET_IRQCHIP,
    KVM_GET_PIT2,
    KVM_IOEVENTFD,
    KVM_IOEVENTFD_FLAG_DATAMATCH,
    KVM_IOEVENTFD_FLAG_DEASSIGN,
    KVM_IOEVENTFD_FLAG_PIO,
    KVM_IRQ_LINE,
    KVM_IRQFD,
    KVM_IRQFD_FLAG_DEASSIGN,
    KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_FILTER_DEFAULT_ALLOW,
    KVM_MSR_FILTER_WRITE,
    KVM_PIT_SPEAKER_DUMMY,
    KVM_REGISTER_COALESCED_MMIO,
    KVM_SET_CLOCK,
    KVM_SET_GSI_ROUTING,
    KVM_SET_IDENTITY_MAP_ADDR,
    KVM_SET_IRQCHIP,
    KVM_SET_PIT2,
    KVM_SET_TSS_ADDR,
    KVM_SET_USER_MEMORY_REGION,
    KVM_UNREGISTER_COALESCED_MMIO,
    KVM_X86_SET_MSR_FILTER,
    kvm_clock_data,
    kvm_coalesced_mmio_zone,
    kvm_enable_cap,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irq_routing,
    kvm_irq_routing_entry,
    kvm_irqchip,
    kvm_irqfd,
    kvm_msr_filter,
    kvm_msr_filter_range,
    kvm_pic_state,
    kvm_pit_config,
    kvm_pit_state2,
    kvm_userspace_memory_region,
)
from .vcpu import Vcpu


class Vm(KvmFd):
    """One virtual machine. Its methods are its ioctls; all raise KvmError.

    Closing the VM while one of its vCPUs is open is fine: the kernel keeps it
    until the last descriptor is gone.
    """

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        super().__init__(fd)
        self._vcpu_mmap_size = vcpu_mmap_size

    def set_tss_addr(self, address: int) -> None:
        """Place the three pages Intel needs for real mode; below 4 GiB, off RAM."""
        ioctl(self.fd, KVM_SET_TSS_ADDR, address)

    def set_identity_map_addr(self, address: int) -> None:
        """Place the page Intel needs for unpaged mode; before any vCPU is made."""
        ioctl(self.fd, KVM_SET_IDENTITY_MAP_ADDR, c_uint64(address))

    def create_irqchip(self) -> None:
        """Put the two PICs, the IOAPIC (GSI 0-23) and a LAPIC per vCPU in KVM."""
        ioctl(self.fd, KVM_CREATE_IRQCHIP)

    def create_pit2(self) -> None:
        """Put the i8254 timer in KVM, with port 0x61 answered there as well."""
        ioctl(self.fd, KVM_CREATE_PIT2, kvm_pit_config(flags=KVM_PIT_SPEAKER_DUMMY))

    def get_pic(self, chip_id: int) -> kvm_pic_state:
        """The state of a PIC: KVM_IRQCHIP_PIC_MASTER or _SLAVE."""
        chip = kvm_irqchip(chip_id=chip_id)
        ioctl(self.fd, KVM_GET_IRQCHIP, chip)
        return kvm_pic_state.from_buffer_copy(chip.chip)

    def set_pic(self, chip_id: int, state: kvm_pic_state) -> None:
        """Replace the state of a PIC."""
        chip = kvm_irqchip(chip_id=chip_id)
        memmove(chip.chip, addressof(state), sizeof(state))
        ioctl(self.fd, KVM_SET_IRQCHIP, chip)

    def get_pit2(self) -> kvm_pit_state2:
        """The state of the i8254, but for where its counters are."""
        state = kvm_pit_state2()
        ioctl(self.fd, KVM_GET_PIT2, state)
        return state

    def set_pit2(self, state: kvm_pit_state2) -> None:
        """Replace it: all periods begin anew, and ticks that are due are dropped."""
        ioctl(self.fd, KVM_SET_PIT2, state)

    def get_clock(self) -> int:
        """What kvm-clock says now, in nanoseconds."""
        data = kvm_clock_data()
        ioctl(self.fd, KVM_GET_CLOCK, data)
        return data.clock

    def set_clock(self, clock_ns: int) -> None:
        """Let kvm-clock go on from there."""
        ioctl(self.fd, KVM_SET_CLOCK, kvm_clock_data(clock=clock_ns))

    def set_irq_line(self, gsi: int, high: bool) -> None:
        """Set the level of interrupt line `gsi`, as all that isn't KVM's drives it."""
        ioctl(self.fd, KVM_IRQ_LINE, kvm_irq_level(irq=gsi, level=high))

    def set_user_memory_region(
        self, slot: int, guest_addr: int, size: int, host_addr: int
    ) -> None:
        """Back guest physical [guest_addr, +size) by host memory, page-aligned."""
        region = kvm_userspace_memory_region(slot, 0, guest_addr, size, host_addr)
        ioctl(self.fd, KVM_SET_USER_MEMORY_REGION, region)

    def set_gsi_routing(self, routes: Sequence[kvm_irq_routing_entry]) -> None:
        """Replace the table of what each GSI does, KVM_MAX_IRQ_ROUTES at most.

        KVM waits until nobody uses the old one any more, up to milliseconds.
        """
        table = kvm_irq_routing(nr=len(routes))
        for at, route in enumerate(routes):
            table.entries[at] = route
        ioctl(self.fd, KVM_SET_GSI_ROUTING, table)

    def assign_irqfd(self, eventfd: int, gsi: int) -> None:
        """Let each write to `eventfd` pulse interrupt line `gsi` once."""
        ioctl(self.fd, KVM_IRQFD, kvm_irqfd(eventfd, gsi))

    def deassign_irqfd(self, eventfd: int, gsi: int) -> None:
        """Undo `assign_irqfd`; pending edges are delivered first."""
        ioctl(self.fd, KVM_IRQFD, kvm_irqfd(eventfd, gsi, KVM_IRQFD_FLAG_DEASSIGN))

    def assign_ioeventfd(self, eventfd: int, bell: Doorbell) -> None:
        """Let the guest's writes to a doorbell signal `eventfd`, without an exit."""
        ioctl(self.fd, KVM_IOEVENTFD, _ioeventfd(eventfd, bell, 0))

    def deassign_ioeventfd(self, eventfd: int, bell: Doorbell) -> None:
        """Undo `assign_ioeventfd`: the writes reach the device again."""
        flags = KVM_IOEVENTFD_FLAG_DEASSIGN
        ioctl(self.fd, KVM_IOEVENTFD, _ioeventfd(eventfd, bell, flags))

    def register_coalesced_pio(self, port: int) -> None:
        """Collect writes to a port in the ring that every vCPU's kvm_run shows."""
        zone = kvm_coalesced_mmio_zone(addr=port, size=1, pio=1)
        ioctl(self.fd, KVM_REGISTER_COALESCED_MMIO, zone)

    def unregister_coalesced_pio(self, port: int) -> None:
        """Undo `register_coalesced_pio`."""
        zone = kvm_coalesced_mmio_zone(addr=port, size=1, pio=1)
        ioctl(self.fd, KVM_UNREGISTER_COALESCED_MMIO, zone)

    def trap_msr_write(self, index: int) -> None:
        """Exit with KVM_EXIT_X86_WRMSR when a guest writes this MSR.

        Needs KVM_CAP_X86_MSR_FILTER. Who handles the exit writes the MSR.
        """
        cap = kvm_enable_cap(cap=KVM_CAP_X86_USER_SPACE_MSR)
        cap.args[0] = KVM_MSR_EXIT_REASON_FILTER
        ioctl(self.fd, KVM_ENABLE_CAP, cap)
        denied = c_uint8(0)  # a bitmap for one MSR, which KVM copies
        filters = kvm_msr_filter(flags=KVM_MSR_FILTER_DEFAULT_ALLOW)
        filters.ranges[0] = kvm_msr_filter_range(
            flags=KVM_MSR_FILTER_WRITE, nmsrs=1, base=index, bitmap=addressof(denied)
        )
        ioctl(self.fd, KVM_X86_SET_MSR_FILTER, filters)

    def create_vcpu(self, index: int) -> Vcpu:
        """A new vCPU; `index` becomes its APIC id."""
        return Vcpu(ioctl(self.fd, KVM_CREATE_VCPU, index), index, self._vcpu_mmap_size)


def _ioeventfd(eventfd: int, bell: Doorbell, flags: int) -> kvm_ioeventfd:
    if bell.is_pio:
        flags |= KVM_IOEVENTFD_FLAG_PIO
    if bell.value is not None:
        flags |= KVM_IOEVENTFD_FLAG_DATAMATCH
    return kvm_ioeventfd(bell.value or 0, bell.base, bell.size, eventfd, flags)
