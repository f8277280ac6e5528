"""KVM's ABI: numbers and structs under the kernel's own names.

Everything here copies <linux/kvm.h> and <asm/kvm.h> (x86-64); a test compiles
those headers and compares. API numbers are sections of the kernel's
Documentation/virt/kvm/api.rst.
"""

from ctypes import (
    Array,
    Structure,
    Union,
    c_int16,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from typing import Final

# <asm-generic/ioctl.h>: direction(2) size(14) type(8) nr(8)
_IOC_WRITE: Final = 1
_IOC_READ: Final = 2
KVMIO: Final = 0xAE


def _ioc(direction: int, nr: int, size: int) -> int:
    return direction << 30 | size << 16 | KVMIO << 8 | nr


def _IO(nr: int) -> int:
    return _ioc(0, nr, 0)


def _IOW(nr: int, size: int) -> int:
    return _ioc(_IOC_WRITE, nr, size)


def _IOR(nr: int, size: int) -> int:
    return _ioc(_IOC_READ, nr, size)


def _IOWR(nr: int, size: int) -> int:
    return _ioc(_IOC_READ | _IOC_WRITE, nr, size)


class kvm_userspace_memory_region(Structure):
    _fields_ = [
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    ]


class kvm_pit_config(Structure):
    _fields_ = [("flags", c_uint32), ("pad", c_uint32 * 15)]


class kvm_irqfd(Structure):
    _fields_ = [
        ("fd", c_uint32),
        ("gsi", c_uint32),
        ("flags", c_uint32),
        ("resamplefd", c_uint32),
        ("pad", c_uint8 * 16),
    ]


class kvm_irq_level(Structure):
    _fields_ = [("irq", c_uint32), ("level", c_uint32)]


class kvm_pic_state(Structure):
    imr: int
    irq_base: int
    elcr: int
    elcr_mask: int
    _fields_ = [
        (name, c_uint8)
        for name in (
            "last_irr irr imr isr priority_add irq_base read_reg_select poll "
            "special_mask init_state auto_eoi rotate_on_auto_eoi "
            "special_fully_nested_mode init4 elcr elcr_mask"
        ).split()
    ]


class kvm_irqchip(Structure):
    """`chip` holds a kvm_pic_state, or the IOAPIC's."""

    _fields_ = [
        ("chip_id", c_uint32),
        ("pad", c_uint32),
        ("chip", c_uint8 * 512),
    ]


class kvm_irq_routing_irqchip(Structure):
    _fields_ = [("irqchip", c_uint32), ("pin", c_uint32)]


class kvm_irq_routing_msi(Structure):
    _fields_ = [
        ("address_lo", c_uint32),
        ("address_hi", c_uint32),
        ("data", c_uint32),
        ("devid", c_uint32),
    ]


class _kvm_irq_routing_target(Union):
    """The union `u`, of what is of use here."""

    _fields_ = [
        ("irqchip", kvm_irq_routing_irqchip),
        ("msi", kvm_irq_routing_msi),
        ("pad", c_uint32 * 8),
    ]


class kvm_irq_routing_entry(Structure):
    gsi: int
    type: int
    _fields_ = [
        ("gsi", c_uint32),
        ("type", c_uint32),
        ("flags", c_uint32),
        ("pad", c_uint32),
        ("u", _kvm_irq_routing_target),
    ]


KVM_MAX_IRQ_ROUTES: Final = 4096  # include/linux/kvm_host.h; 1024 before Linux 4.14


class kvm_irq_routing(Structure):
    """Header and room for as many routes as KVM takes."""

    nr: int
    _fields_ = [
        ("nr", c_uint32),
        ("flags", c_uint32),
        ("entries", kvm_irq_routing_entry * KVM_MAX_IRQ_ROUTES),
    ]


class kvm_ioeventfd(Structure):
    _fields_ = [
        ("datamatch", c_uint64),
        ("addr", c_uint64),
        ("len", c_uint32),
        ("fd", c_int32),
        ("flags", c_uint32),
        ("pad", c_uint8 * 36),
    ]


class kvm_coalesced_mmio_zone(Structure):
    _fields_ = [("addr", c_uint64), ("size", c_uint32), ("pio", c_uint32)]


class kvm_enable_cap(Structure):
    _fields_ = [
        ("cap", c_uint32),
        ("flags", c_uint32),
        ("args", c_uint64 * 4),
        ("pad", c_uint8 * 64),
    ]


class kvm_msr_filter_range(Structure):
    _fields_ = [
        ("flags", c_uint32),
        ("nmsrs", c_uint32),
        ("base", c_uint32),
        ("bitmap", c_void_p),
    ]


KVM_MSR_FILTER_MAX_RANGES: Final = 16


class kvm_msr_filter(Structure):
    _fields_ = [
        ("flags", c_uint32),
        ("ranges", kvm_msr_filter_range * KVM_MSR_FILTER_MAX_RANGES),
    ]


class kvm_mp_state(Structure):
    mp_state: int
    _fields_ = [("mp_state", c_uint32)]


class kvm_regs(Structure):
    rip: int
    rflags: int
    rsi: int
    rsp: int
    r11: int
    _fields_ = [
        (name, c_uint64)
        for name in (
            "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"
        ).split()
    ]


class kvm_segment(Structure):
    _fields_ = [
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        ("type", c_uint8),
        ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8),
        ("s", c_uint8),
        ("l", c_uint8),
        ("g", c_uint8),
        ("avl", c_uint8),
        ("unusable", c_uint8),
        ("padding", c_uint8),
    ]


class kvm_dtable(Structure):
    base: int
    limit: int
    _fields_ = [
        ("base", c_uint64),
        ("limit", c_uint16),
        ("padding", c_uint16 * 3),
    ]


class kvm_sregs(Structure):
    cs: kvm_segment
    ds: kvm_segment
    es: kvm_segment
    fs: kvm_segment
    gs: kvm_segment
    ss: kvm_segment
    tr: kvm_segment
    gdt: kvm_dtable
    idt: kvm_dtable
    cr0: int
    cr3: int
    cr4: int
    efer: int
    _fields_ = [
        *((name, kvm_segment) for name in "cs ds es fs gs ss tr ldt".split()),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        *((name, c_uint64) for name in "cr0 cr2 cr3 cr4 cr8 efer apic_base".split()),
        ("interrupt_bitmap", c_uint64 * 4),
    ]


class kvm_cpuid_entry2(Structure):
    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int
    _fields_ = [
        (name, c_uint32) for name in "function index flags eax ebx ecx edx".split()
    ] + [("padding", c_uint32 * 3)]


KVM_MAX_CPUID_ENTRIES: Final = 256  # arch/x86/include/asm/kvm_host.h


class kvm_cpuid2(Structure):
    """Header and room for every entry that KVM can have."""

    nent: int
    _fields_ = [
        ("nent", c_uint32),
        ("padding", c_uint32),
        ("entries", kvm_cpuid_entry2 * KVM_MAX_CPUID_ENTRIES),
    ]


class kvm_translation(Structure):
    physical_address: int
    valid: int
    _fields_ = [
        ("linear_address", c_uint64),
        ("physical_address", c_uint64),
        ("valid", c_uint8),
        ("writeable", c_uint8),
        ("usermode", c_uint8),
        ("pad", c_uint8 * 5),
    ]


class kvm_msr_entry(Structure):
    data: int
    _fields_ = [("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64)]


KVM_MAX_MSR_ENTRIES: Final = 256  # arch/x86/kvm/x86.c: in one call


class kvm_msrs(Structure):
    """Header and room for as many MSRs as KVM takes at once."""

    _fields_ = [
        ("nmsrs", c_uint32),
        ("pad", c_uint32),
        ("entries", kvm_msr_entry * KVM_MAX_MSR_ENTRIES),
    ]


class kvm_msr_list(Structure):
    """The numbers of MSRs, with room for more than any KVM has."""

    nmsrs: int
    _fields_ = [("nmsrs", c_uint32), ("indices", c_uint32 * 1024)]


class kvm_vcpu_events(Structure):
    """`exception` holds injected, nr, has_error_code, pending, error_code."""

    exception: Array[c_uint8]
    _fields_ = [
        ("exception", c_uint8 * 8),
        ("interrupt", c_uint8 * 4),
        ("nmi", c_uint8 * 4),
        ("sipi_vector", c_uint32),
        ("flags", c_uint32),
        ("smi", c_uint8 * 4),
        ("triple_fault", c_uint8),
        ("reserved", c_uint8 * 26),
        ("exception_has_payload", c_uint8),
        ("exception_payload", c_uint64),
    ]


class kvm_xcr(Structure):
    _fields_ = [("xcr", c_uint32), ("reserved", c_uint32), ("value", c_uint64)]


class kvm_xcrs(Structure):
    nr_xcrs: int
    _fields_ = [
        ("nr_xcrs", c_uint32),
        ("flags", c_uint32),
        ("xcrs", kvm_xcr * 16),
        ("padding", c_uint64 * 16),
    ]


class kvm_xsave(Structure):
    """In KVM_GET_XSAVE2's answer more may follow."""

    _fields_ = [("region", c_uint32 * 1024)]


class kvm_debugregs(Structure):
    _fields_ = [
        ("db", c_uint64 * 4),
        ("dr6", c_uint64),
        ("dr7", c_uint64),
        ("flags", c_uint64),
        ("reserved", c_uint64 * 9),
    ]


class kvm_lapic_state(Structure):
    _fields_ = [("regs", c_uint8 * 1024)]


class kvm_guest_debug(Structure):
    """`arch` holds x86's debug registers, DR0 to DR7."""

    _fields_ = [
        ("control", c_uint32),
        ("pad", c_uint32),
        ("arch", c_uint64 * 8),
    ]


class kvm_clock_data(Structure):
    clock: int
    flags: int
    realtime: int
    host_tsc: int
    _fields_ = [
        ("clock", c_uint64),
        ("flags", c_uint32),
        ("pad0", c_uint32),
        ("realtime", c_uint64),
        ("host_tsc", c_uint64),
        ("pad", c_uint32 * 4),
    ]


class kvm_pit_channel_state(Structure):
    mode: int
    _fields_ = [
        ("count", c_uint32),
        ("latched_count", c_uint16),
        *(
            (name, c_uint8)
            for name in (
                "count_latched status_latched status read_state write_state "
                "write_latch rw_mode mode bcd gate"
            ).split()
        ),
        ("count_load_time", c_int64),
    ]


class kvm_pit_state2(Structure):
    channels: Array[kvm_pit_channel_state]
    _fields_ = [
        ("channels", kvm_pit_channel_state * 3),
        ("flags", c_uint32),
        ("reserved", c_uint32 * 9),
    ]


class kvm_device_attr(Structure):
    """`addr` is where the attribute's value is, in our memory."""

    _fields_ = [
        ("flags", c_uint32),
        ("group", c_uint32),
        ("attr", c_uint64),
        ("addr", c_uint64),
    ]


class kvm_stats_header(Structure):
    name_size: int
    num_desc: int
    desc_offset: int
    data_offset: int
    _fields_ = [
        (name, c_uint32)
        for name in (
            "flags name_size num_desc id_offset desc_offset data_offset".split()
        )
    ]


class kvm_stats_desc(Structure):
    """Followed by `name`, as long as the header's name_size."""

    offset: int
    _fields_ = [
        ("flags", c_uint32),
        ("exponent", c_int16),
        ("size", c_uint16),
        ("offset", c_uint32),
        ("bucket_size", c_uint32),
    ]


_CPUID2_HEADER: Final = kvm_cpuid2.entries.offset  # entries[] is a flexible array
_MSRS_HEADER: Final = kvm_msrs.entries.offset
_MSR_LIST_HEADER: Final = kvm_msr_list.indices.offset
_IRQ_ROUTING_HEADER: Final = kvm_irq_routing.entries.offset

# ioctls on /dev/kvm
KVM_GET_API_VERSION: Final = _IO(0x00)  # API 4.1
KVM_CREATE_VM: Final = _IO(0x01)  # API 4.2
KVM_GET_MSR_INDEX_LIST: Final = _IOWR(0x02, _MSR_LIST_HEADER)  # API 4.3
KVM_CHECK_EXTENSION: Final = _IO(0x03)  # API 4.4
KVM_GET_VCPU_MMAP_SIZE: Final = _IO(0x04)  # API 4.5
KVM_GET_SUPPORTED_CPUID: Final = _IOWR(0x05, _CPUID2_HEADER)  # API 4.46
# ioctls on a VM
KVM_CREATE_VCPU: Final = _IO(0x41)  # API 4.7
KVM_SET_USER_MEMORY_REGION: Final = _IOW(
    0x46, sizeof(kvm_userspace_memory_region)
)  # API 4.35
KVM_SET_TSS_ADDR: Final = _IO(0x47)  # API 4.36
KVM_SET_IDENTITY_MAP_ADDR: Final = _IOW(0x48, sizeof(c_uint64))  # API 4.41
KVM_CREATE_IRQCHIP: Final = _IO(0x60)  # API 4.24
KVM_IRQ_LINE: Final = _IOW(0x61, sizeof(kvm_irq_level))  # API 4.25
KVM_GET_IRQCHIP: Final = _IOWR(0x62, sizeof(kvm_irqchip))  # API 4.26
KVM_SET_IRQCHIP: Final = _IOR(0x63, sizeof(kvm_irqchip))  # API 4.27, and it reads it
KVM_REGISTER_COALESCED_MMIO: Final = _IOW(
    0x67, sizeof(kvm_coalesced_mmio_zone)
)  # API 4.116
KVM_UNREGISTER_COALESCED_MMIO: Final = _IOW(
    0x68, sizeof(kvm_coalesced_mmio_zone)
)  # API 4.116
KVM_SET_GSI_ROUTING: Final = _IOW(0x6A, _IRQ_ROUTING_HEADER)  # API 4.52
KVM_IRQFD: Final = _IOW(0x76, sizeof(kvm_irqfd))  # API 4.75
KVM_CREATE_PIT2: Final = _IOW(0x77, sizeof(kvm_pit_config))  # API 4.71
KVM_IOEVENTFD: Final = _IOW(0x79, sizeof(kvm_ioeventfd))  # API 4.59
KVM_SET_CLOCK: Final = _IOW(0x7B, sizeof(kvm_clock_data))  # API 4.30
KVM_GET_CLOCK: Final = _IOR(0x7C, sizeof(kvm_clock_data))  # API 4.29
KVM_GET_PIT2: Final = _IOR(0x9F, sizeof(kvm_pit_state2))  # API 4.72
KVM_SET_PIT2: Final = _IOW(0xA0, sizeof(kvm_pit_state2))  # API 4.73
KVM_ENABLE_CAP: Final = _IOW(0xA3, sizeof(kvm_enable_cap))  # API 4.37
KVM_X86_SET_MSR_FILTER: Final = _IOW(0xC6, sizeof(kvm_msr_filter))  # API 4.97
# ioctls on a vCPU
KVM_RUN: Final = _IO(0x80)  # API 4.10
KVM_GET_REGS: Final = _IOR(0x81, sizeof(kvm_regs))  # API 4.11
KVM_SET_REGS: Final = _IOW(0x82, sizeof(kvm_regs))  # API 4.12
KVM_GET_SREGS: Final = _IOR(0x83, sizeof(kvm_sregs))  # API 4.13
KVM_SET_SREGS: Final = _IOW(0x84, sizeof(kvm_sregs))  # API 4.14
KVM_TRANSLATE: Final = _IOWR(0x85, sizeof(kvm_translation))  # API 4.15
KVM_GET_MSRS: Final = _IOWR(0x88, _MSRS_HEADER)  # API 4.18
KVM_SET_MSRS: Final = _IOW(0x89, _MSRS_HEADER)  # API 4.19
KVM_GET_LAPIC: Final = _IOR(0x8E, sizeof(kvm_lapic_state))  # API 4.57
KVM_SET_LAPIC: Final = _IOW(0x8F, sizeof(kvm_lapic_state))  # API 4.58
KVM_SET_CPUID2: Final = _IOW(0x90, _CPUID2_HEADER)  # API 4.20
KVM_GET_MP_STATE: Final = _IOR(0x98, sizeof(kvm_mp_state))  # API 4.38
KVM_SET_MP_STATE: Final = _IOW(0x99, sizeof(kvm_mp_state))  # API 4.39
KVM_SET_GUEST_DEBUG: Final = _IOW(0x9B, sizeof(kvm_guest_debug))  # API 4.87
KVM_GET_VCPU_EVENTS: Final = _IOR(0x9F, sizeof(kvm_vcpu_events))  # API 4.31
KVM_SET_VCPU_EVENTS: Final = _IOW(0xA0, sizeof(kvm_vcpu_events))  # API 4.32
KVM_GET_DEBUGREGS: Final = _IOR(0xA1, sizeof(kvm_debugregs))  # API 4.33
KVM_SET_DEBUGREGS: Final = _IOW(0xA2, sizeof(kvm_debugregs))  # API 4.34
KVM_GET_TSC_KHZ: Final = _IO(0xA3)  # API 4.56
KVM_GET_XSAVE: Final = _IOR(0xA4, sizeof(kvm_xsave))  # API 4.42
KVM_SET_XSAVE: Final = _IOW(0xA5, sizeof(kvm_xsave))  # API 4.43
KVM_GET_XCRS: Final = _IOR(0xA6, sizeof(kvm_xcrs))  # API 4.44
KVM_SET_XCRS: Final = _IOW(0xA7, sizeof(kvm_xcrs))  # API 4.45
KVM_KVMCLOCK_CTRL: Final = _IO(0xAD)  # API 4.71
KVM_GET_STATS_FD: Final = _IO(0xCE)  # API 4.133
KVM_GET_XSAVE2: Final = _IOR(0xCF, sizeof(kvm_xsave))  # API 4.134
# ioctls on whatever has attributes; on a vCPU: Documentation/virt/kvm/devices/vcpu.rst
KVM_SET_DEVICE_ATTR: Final = _IOW(0xE1, sizeof(kvm_device_attr))  # API 4.80
KVM_GET_DEVICE_ATTR: Final = _IOW(0xE2, sizeof(kvm_device_attr))  # API 4.80
KVM_HAS_DEVICE_ATTR: Final = _IOW(0xE3, sizeof(kvm_device_attr))  # API 4.81

KVM_API_VERSION: Final = 12  # "applications should refuse to run" on any other
KVM_IRQFD_FLAG_DEASSIGN: Final = 1 << 0
KVM_IRQ_ROUTING_IRQCHIP: Final = 1
KVM_IRQ_ROUTING_MSI: Final = 2
KVM_IRQCHIP_PIC_MASTER: Final = 0
KVM_IRQCHIP_PIC_SLAVE: Final = 1
KVM_IRQCHIP_IOAPIC: Final = 2
KVM_IOAPIC_NUM_PINS: Final = 24
KVM_IOEVENTFD_FLAG_DATAMATCH: Final = 1 << 0
KVM_IOEVENTFD_FLAG_PIO: Final = 1 << 1
KVM_IOEVENTFD_FLAG_DEASSIGN: Final = 1 << 2
KVM_PIT_SPEAKER_DUMMY: Final = 1
KVM_CPUID_FLAG_SIGNIFCANT_INDEX: Final = 1 << 0  # the kernel's spelling

KVM_CLOCK_HOST_TSC: Final = 1 << 3

KVM_VCPU_TSC_CTRL: Final = 0
KVM_VCPU_TSC_OFFSET: Final = 0

KVM_GUESTDBG_ENABLE: Final = 0x0000_0001
KVM_GUESTDBG_SINGLESTEP: Final = 0x0000_0002
KVM_GUESTDBG_USE_HW_BP: Final = 0x0002_0000
KVM_MSR_FILTER_WRITE: Final = 1 << 1
KVM_MSR_FILTER_DEFAULT_ALLOW: Final = 0 << 0
KVM_MSR_EXIT_REASON_FILTER: Final = 1 << 2

# KVM_CHECK_EXTENSION arguments
KVM_CAP_IRQCHIP: Final = 0
KVM_CAP_USER_MEMORY: Final = 3
KVM_CAP_SET_TSS_ADDR: Final = 4
KVM_CAP_EXT_CPUID: Final = 7
KVM_CAP_NR_VCPUS: Final = 9  # recommended at most
KVM_CAP_NR_MEMSLOTS: Final = 10
KVM_CAP_COALESCED_MMIO: Final = 15  # where its ring is in kvm_run, in pages
KVM_CAP_IRQ_ROUTING: Final = 25  # how many routes a VM may have
KVM_CAP_IRQFD: Final = 32
KVM_CAP_PIT2: Final = 33
KVM_CAP_IOEVENTFD: Final = 36
KVM_CAP_SET_IDENTITY_MAP_ADDR: Final = 37
KVM_CAP_GET_TSC_KHZ: Final = 61
KVM_CAP_MAX_VCPUS: Final = 66
KVM_CAP_TSC_DEADLINE_TIMER: Final = 72
KVM_CAP_IMMEDIATE_EXIT: Final = 136
KVM_CAP_COALESCED_PIO: Final = 162
KVM_CAP_X86_USER_SPACE_MSR: Final = 188
KVM_CAP_X86_MSR_FILTER: Final = 189
KVM_CAP_BINARY_STATS_FD: Final = 203
KVM_CAP_XSAVE2: Final = 208  # bytes of KVM_GET_XSAVE2's answer; 0: as KVM_GET_XSAVE's

# kvm_run (API 5), decoded by offset because the exit path builds no objects
KVM_RUN_IMMEDIATE_EXIT: Final = 1
KVM_RUN_EXIT_REASON: Final = 8
KVM_RUN_UNION: Final = 32  # where the exit's own struct starts
KVM_RUN_MMIO_DATA: Final = 40

KVM_EXIT_UNKNOWN: Final = 0
KVM_EXIT_IO: Final = 2
KVM_EXIT_DEBUG: Final = 4
KVM_EXIT_HLT: Final = 5
KVM_EXIT_MMIO: Final = 6
KVM_EXIT_IRQ_WINDOW_OPEN: Final = 7
KVM_EXIT_SHUTDOWN: Final = 8
KVM_EXIT_FAIL_ENTRY: Final = 9
KVM_EXIT_INTR: Final = 10
KVM_EXIT_INTERNAL_ERROR: Final = 17
KVM_EXIT_SYSTEM_EVENT: Final = 24
KVM_EXIT_X86_WRMSR: Final = 30

KVM_MP_STATE_RUNNABLE: Final = 0
KVM_MP_STATE_UNINITIALIZED: Final = 1
KVM_MP_STATE_INIT_RECEIVED: Final = 2
KVM_MP_STATE_HALTED: Final = 3
KVM_MP_STATE_SIPI_RECEIVED: Final = 4

KVM_SYSTEM_EVENT_SHUTDOWN: Final = 1
KVM_SYSTEM_EVENT_RESET: Final = 2
KVM_SYSTEM_EVENT_CRASH: Final = 3

KVM_INTERNAL_ERROR_EMULATION: Final = 1
KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES: Final = 1 << 0
