"""PVH: Xen's direct boot, which Linux, FreeBSD and others know under any hypervisor.

Sources: Xen's docs/misc/pvh.pandoc, "x86/HVM direct boot ABI", and
xen/include/public/arch-x86/hvm/start_info.h.
"""

import struct
from typing import Final

from ..kvm.abi import kvm_regs
from .bootparam import e820_table
from .layout import ACPI, BOOT_PARAMS, CMDLINE
from .modules import ModuleBoot

XEN_HVM_START_MAGIC_VALUE: Final = 0x336EC578
VERSION: Final = 1  # has the memory map

# magic, version, flags, nr_modules, modlist_paddr, cmdline_paddr, rsdp_paddr,
# memmap_paddr, memmap_entries, reserved
_START_INFO: Final = struct.Struct("<IIIIQQQQII")
_MODLIST_ENTRY: Final = struct.Struct("<QQQQ")  # paddr, size, cmdline_paddr, reserved
_MEMMAP_ENTRY: Final = struct.Struct("<QQII")  # addr, size, type, reserved


class PvhBoot(ModuleBoot):
    """A boot by PVH. The map's types are those of e820."""

    def info(self, strings: list[int]) -> bytes:
        """hvm_start_info, then the list of modules, then the memory map."""
        modules = zip(self.places(), strings, strict=True)
        modlist = b"".join(
            _MODLIST_ENTRY.pack(at, size, string, 0) for (at, size), string in modules
        )
        table = e820_table(self.ram)
        memmap = b"".join(_MEMMAP_ENTRY.pack(*entry, 0) for entry in table)
        modlist_paddr = BOOT_PARAMS + _START_INFO.size
        start_info = _START_INFO.pack(
            XEN_HVM_START_MAGIC_VALUE,
            VERSION,
            0,
            len(strings),
            modlist_paddr if strings else 0,
            CMDLINE,
            ACPI if self.acpi else 0,
            modlist_paddr + len(modlist),
            len(table),
            0,
        )
        return start_info + modlist + memmap

    def registers(self) -> kvm_regs:
        """EBX has the start info's address."""
        return kvm_regs(rbx=BOOT_PARAMS)
