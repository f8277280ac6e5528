"""The first vCPU's state where a protocol enters in 32-bit protected mode.

Sources: boot.rst, "32-bit Boot Protocol"; Xen's docs/misc/pvh.pandoc, "x86/HVM
direct boot ABI"; Multiboot Specification 0.6.96, section 3.2. They agree on flat
segments, no paging and interrupts off; each names its own registers besides.
"""

import struct

from ..kvm.abi import kvm_regs, kvm_segment
from ..kvm.vcpu import Vcpu
from .cpu_state import (
    BOOT_CS,
    CR0_ET,
    CR0_PE,
    RFLAGS_RESERVED,
    data_segment,
    descriptor,
    task_segment,
)
from .layout import GDT
from .placement import Block


def code_segment32() -> kvm_segment:
    """Flat 32-bit code."""
    return kvm_segment(
        limit=0xFFFF_FFFF, selector=BOOT_CS, type=0xB, present=1, s=1, db=1, g=1
    )


def gdt32() -> Block:
    """The GDT: the Linux protocol promises one."""
    segments = code_segment32(), data_segment(), task_segment()
    gdt = [0, 0, *map(descriptor, segments)]
    return Block("the GDT", GDT, struct.pack(f"<{len(gdt)}Q", *gdt))


def set_protected_mode_cpu(vcpu: Vcpu, regs: kvm_regs) -> None:
    """Enter at `regs`' RIP; `gdt32` is in RAM."""
    sregs = vcpu.get_sregs()
    sregs.cs = code_segment32()
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data_segment()
    sregs.tr = task_segment()
    sregs.gdt.base, sregs.gdt.limit = GDT, 5 * 8 - 1
    sregs.idt.base, sregs.idt.limit = 0, 0
    sregs.cr0 = CR0_PE | CR0_ET
    sregs.cr3 = sregs.cr4 = sregs.efer = 0
    vcpu.set_sregs(sregs)
    regs.rflags = RFLAGS_RESERVED
    vcpu.set_regs(regs)
