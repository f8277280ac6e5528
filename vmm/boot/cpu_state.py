"""The first vCPU's state at the kernel's 64-bit entry.

Source: boot.rst, "64-bit Boot Protocol": long mode, paging on with an identity
map, flat __BOOT_CS (0x10) and __BOOT_DS (0x18), interrupts off, RSI pointing at
boot_params. Bit names are the Intel SDM's, volume 3 chapters 2 to 4.
"""

import struct
from collections.abc import Sequence
from typing import Final

from ..kvm.abi import kvm_regs, kvm_segment
from ..kvm.vcpu import Vcpu
from .layout import (
    BOOT_PARAMS,
    BOOT_STACK,
    BOOT_STACK_TOP,
    GDT,
    GIB,
    PAGE_SIZE,
    PML4,
)
from .placement import Block

CR0_PE: Final = 1 << 0
CR0_ET: Final = 1 << 4
CR0_NE: Final = 1 << 5
CR0_PG: Final = 1 << 31
CR4_PAE: Final = 1 << 5
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
RFLAGS_RESERVED: Final = 1 << 1  # always set

PTE_PRESENT_RW: Final = 0b11
PDE_PAGE_SIZE: Final = 1 << 7  # the entry maps 2 MiB
LARGE_PAGE: Final = 2 << 20
IDENTITY_MAPPED: Final = 4 * GIB

BOOT_CS: Final = 0x10
BOOT_DS: Final = 0x18
BOOT_TSS: Final = 0x20

MSR_IA32_MISC_ENABLE: Final = 0x1A0
MISC_ENABLE_FAST_STRING: Final = 1 << 0
MSR_MTRR_DEF_TYPE: Final = 0x2FF
MTRR_ENABLED_WRITE_BACK: Final = 1 << 11 | 6


def code_segment() -> kvm_segment:
    """Flat 64-bit code."""
    return kvm_segment(
        limit=0xFFFF_FFFF, selector=BOOT_CS, type=0xB, present=1, s=1, l=1, g=1
    )


def data_segment() -> kvm_segment:
    """Flat read-write data."""
    return kvm_segment(
        limit=0xFFFF_FFFF, selector=BOOT_DS, type=0x3, present=1, s=1, db=1, g=1
    )


def task_segment() -> kvm_segment:
    """A busy TSS, at 0; VMX refuses to enter without. A 32-bit one looks the same."""
    return kvm_segment(limit=0x67, selector=BOOT_TSS, type=0xB, present=1)


def descriptor(segment: kvm_segment) -> int:
    """`segment` as the GDT has it (SDM volume 3, figure 3-8)."""
    base: int = segment.base
    limit: int = segment.limit
    if segment.g:
        limit >>= 12
    flags: int = segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7
    flags |= segment.avl << 12 | segment.l << 13 | segment.db << 14 | segment.g << 15
    return (
        limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | flags << 40
        | (limit >> 16 & 0xF) << 48
        | (base >> 24 & 0xFF) << 56
    )


def boot_blocks() -> list[Block]:
    """GDT, page tables that map the first 4 GiB, and a stack."""
    segments = code_segment(), data_segment(), task_segment()
    gdt = [0, 0, *map(descriptor, segments), 0]  # a 64-bit TSS takes two entries
    return [
        Block("the GDT", GDT, struct.pack(f"<{len(gdt)}Q", *gdt)),
        Block("the page tables", PML4, _page_tables()),
        Block("the stack", BOOT_STACK, bytes(PAGE_SIZE)),
    ]


def _page_tables() -> bytes:
    pdpt, directory = PML4 + PAGE_SIZE, PML4 + 2 * PAGE_SIZE
    directories = range(
        directory, directory + IDENTITY_MAPPED // GIB * PAGE_SIZE, PAGE_SIZE
    )
    pages = range(0, IDENTITY_MAPPED, LARGE_PAGE)
    return (
        _entries([pdpt], PTE_PRESENT_RW).ljust(PAGE_SIZE, b"\0")
        + _entries(directories, PTE_PRESENT_RW).ljust(PAGE_SIZE, b"\0")
        + _entries(pages, PTE_PRESENT_RW | PDE_PAGE_SIZE)
    )


def _entries(addresses: Sequence[int], flags: int) -> bytes:
    entries = (address | flags for address in addresses)
    return struct.pack(f"<{len(addresses)}Q", *entries)


def set_boot_cpu(vcpu: Vcpu, entry: int) -> None:
    """Set every register that the protocol names; `boot_blocks` are in RAM."""
    sregs = vcpu.get_sregs()
    sregs.cs = code_segment()
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data_segment()
    sregs.tr = task_segment()
    sregs.gdt.base, sregs.gdt.limit = GDT, 6 * 8 - 1
    sregs.idt.base, sregs.idt.limit = 0, 0
    sregs.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG
    sregs.cr3 = PML4
    sregs.cr4 = CR4_PAE
    sregs.efer = EFER_LME | EFER_LMA
    vcpu.set_sregs(sregs)
    vcpu.set_regs(
        kvm_regs(rip=entry, rsi=BOOT_PARAMS, rsp=BOOT_STACK_TOP, rflags=RFLAGS_RESERVED)
    )


def set_boot_msrs(vcpu: Vcpu) -> None:
    """What firmware leaves in the MSRs of every CPU.

    Fast strings, or Linux on Intel doesn't use `rep movsb`; write-back as the
    default memory type, or it turns the PAT off. A KVM that refuses one of them
    boots all the same.
    """
    vcpu.set_msrs(
        [
            (MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
            (MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
        ]
    )
