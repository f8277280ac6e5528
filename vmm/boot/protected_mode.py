"""The first vCPU's state where a protocol enters in 32-bit protected mode.

Sources: boot.rst, "32-bit Boot Protocol"; Xen's docs/misc/pvh.pandoc, "x86/HVM
direct boot ABI"; Multiboot Specification 0.6.96, section 3.2. They agree on flat
segments, no paging and interrupts off; each names its own registers besides. Linux
alone names selectors, too. Kernels that have the others' in their interrupt gates have
those of QEMU and GRUB 2: pc-bios/optionrom/{multiboot,pvh}.S, GRUB's PROT_MODE_CSEG.
"""

import struct
from typing import Final

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

LOADER_CS: Final = 0x08  # code, then data, then a TSS


def code_segment32() -> kvm_segment:
    """Flat 32-bit code."""
    return kvm_segment(
        limit=0xFFFF_FFFF, selector=BOOT_CS, type=0xB, present=1, s=1, db=1, g=1
    )


def gdt32(cs: int = BOOT_CS) -> Block:
    """The GDT, with code at `cs` and the others behind it."""
    segments = code_segment32(), data_segment(), task_segment()
    gdt = [0] * (cs // 8) + [descriptor(segment) for segment in segments]
    return Block("the GDT", GDT, struct.pack(f"<{len(gdt)}Q", *gdt))


def set_protected_mode_cpu(vcpu: Vcpu, regs: kvm_regs, cs: int = BOOT_CS) -> None:
    """Enter at `regs`' RIP; `gdt32` is in RAM, with the same `cs`."""
    code, data, task = code_segment32(), data_segment(), task_segment()
    code.selector, data.selector, task.selector = cs, cs + 8, cs + 16
    sregs = vcpu.get_sregs()
    sregs.cs, sregs.tr = code, task
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
    sregs.gdt.base, sregs.gdt.limit = GDT, cs + 3 * 8 - 1
    sregs.idt.base, sregs.idt.limit = 0, 0
    sregs.cr0 = CR0_PE | CR0_ET
    sregs.cr3 = sregs.cr4 = sregs.efer = 0
    vcpu.set_sregs(sregs)
    regs.rflags = RFLAGS_RESERVED
    vcpu.set_regs(regs)
