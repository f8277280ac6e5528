"""Multiboot 1: what GRUB gives a kernel, given by us.

Source: Multiboot Specification 0.6.96, sections 3.2 and 3.3.
"""

import struct
from typing import Final

from ..kvm.abi import kvm_regs
from .bootparam import e820_table
from .layout import BOOT_PARAMS, CMDLINE, EBDA, HIGH_MEMORY
from .modules import ModuleBoot

BOOTLOADER_MAGIC: Final = 0x2BADB002
LOADER_NAME: Final = b"minivmm\0"

INFO_MEMORY: Final = 1 << 0
INFO_CMDLINE: Final = 1 << 2
INFO_MODS: Final = 1 << 3
INFO_MEM_MAP: Final = 1 << 6
INFO_BOOT_LOADER_NAME: Final = 1 << 9
FLAGS: Final = (
    INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MEM_MAP | INFO_BOOT_LOADER_NAME
)

# flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms,
# mmap_length, mmap_addr, drives_length, drives_addr, config_table,
# boot_loader_name, apm_table, vbe_*, framebuffer_*
_INFO: Final = struct.Struct("<7I16x2I12xI48x")
_MODULE: Final = struct.Struct("<IIII")  # mod_start, mod_end, string, reserved
_MMAP: Final = struct.Struct("<IQQI")  # size of what follows, address, length, type
_MMAP_SIZE: Final = _MMAP.size - 4
_KIB: Final = 1024


class MultibootBoot(ModuleBoot):
    """A boot by multiboot. The map's types are those of e820."""

    def info(self, strings: list[int]) -> bytes:
        """The information structure, the modules, the memory map, our name."""
        modules = b"".join(
            _MODULE.pack(at, at + size, string, 0)
            for (at, size), string in zip(self.places(), strings, strict=True)
        )
        entries = [_MMAP.pack(_MMAP_SIZE, *entry) for entry in e820_table(self.ram)]
        memory_map = b"".join(entries)
        mods_addr = BOOT_PARAMS + _INFO.size
        mmap_addr = mods_addr + len(modules)
        head = _INFO.pack(
            FLAGS,
            EBDA // _KIB,
            (self.ram[0].size - HIGH_MEMORY) // _KIB,
            0,
            CMDLINE,
            len(strings),
            mods_addr,
            len(memory_map),
            mmap_addr,
            mmap_addr + len(memory_map),
        )
        return head + modules + memory_map + LOADER_NAME

    def registers(self) -> kvm_regs:
        """EAX has the loader's magic, EBX the information's address."""
        return kvm_regs(rax=BOOTLOADER_MAGIC, rbx=BOOT_PARAMS)
