"""Booting with modules: what PVH and multiboot have in common.

Both enter in 32-bit protected mode, with the address of a structure that lists the
modules, files put into memory as they are, each with a string.
"""

from ..devices.record import Record
from ..errors import ConfigError
from ..kvm.abi import kvm_regs
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory, Range
from .image import ImageFile, KernelImage, added_offset
from .layout import (
    BOOT_INFO_MAX,
    BOOT_PARAMS,
    CMDLINE,
    HIGH_MEMORY,
    MIB,
    PAGE_SIZE,
    STRINGS,
    STRINGS_MAX,
)
from .placement import Block, check_room, write_blocks
from .protected_mode import LOADER_CS, gdt32, set_protected_mode_cpu


class Module(Record):
    """A file to be put into memory, and what is said about it.

    `added` is an archive that follows the file's own.
    """

    file: ImageFile | None
    string: bytes = b""
    added: bytes = b""

    @property
    def name(self) -> str:
        """For messages."""
        return "files" if self.file is None else repr(self.file.path)

    @property
    def added_offset(self) -> int:
        """From the start."""
        size = 0 if self.file is None else self.file.size
        return added_offset(size) if self.added else size

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.added_offset + len(self.added)

    def load(self, memory: GuestMemory, guest_addr: int) -> None:
        """Put it into RAM."""
        if self.file is not None:
            self.file.load(memory, 0, self.file.size, guest_addr)
        if self.added:
            memory.write(guest_addr + self.added_offset, self.added)


class ModuleBoot(Record):
    """A boot by such a protocol, checked; it can be loaded any number of times."""

    kernel: KernelImage
    modules: list[Module]
    cmdline: bytes
    ram: list[Range]
    cpus: int
    acpi: bool = False
    """Whether there are ACPI tables, which somebody else puts at `layout.ACPI`."""

    def __post_init__(self) -> None:
        """Raises ConfigError or ImageError where something doesn't fit."""
        self.kernel.check_fits(self.ram[0].size)
        self.kernel.check_cmdline(self.cmdline)
        self.places()
        size = len(self._strings()[0])
        if size > STRINGS_MAX:
            raise ConfigError(
                f"modules: their strings have {size} bytes, and {STRINGS_MAX} are room"
            )
        size = len(self.info([0] * len(self.modules)))
        if size > BOOT_INFO_MAX:
            raise ConfigError(
                f"modules: {len(self.modules)} take {size} bytes to list, and "
                f"{BOOT_INFO_MAX} are room"
            )
        if self.kernel.start < HIGH_MEMORY:  # where what is ours lies
            check_room(self.kernel, self._blocks())

    def _blocks(self) -> list[Block]:
        """All that lies in RAM besides kernel, modules and what firmware leaves."""
        strings, addresses = self._strings()
        return [
            Block("the command line", CMDLINE, self.cmdline + b"\0"),
            Block("the modules' strings", STRINGS, strings),
            Block("the loader's information", BOOT_PARAMS, self.info(addresses)),
            gdt32(LOADER_CS),
        ]

    def places(self) -> list[Range]:
        """Where each module goes: one after another above the kernel.

        As loaders do: a kernel that maps its first few MiB finds them there.
        """
        low = self.ram[0].size
        at, found = self.kernel.floor, []
        for index, module in enumerate(self.modules):
            at = (at + PAGE_SIZE - 1) & -PAGE_SIZE
            if at + module.size > low:
                left = sum(item.size + PAGE_SIZE for item in self.modules[index:])
                raise ConfigError(
                    f"modules: {module.name}, {module.size} bytes at {at:#x}, ends "
                    f"beyond memory's {low:#x}: pass --memory "
                    f"{-(-(at + left) // MIB)}M or more"
                )
            found.append(Range(at, module.size))
            at += module.size
        return found

    def info(self, strings: list[int]) -> bytes:
        """The protocol's structure for BOOT_PARAMS; `strings` are the modules'."""
        raise NotImplementedError

    def registers(self) -> kvm_regs:
        """The registers that the protocol names."""
        raise NotImplementedError

    def _strings(self) -> tuple[bytes, list[int]]:
        """The modules' strings, and the guest address of each."""
        data, addresses = b"", []
        for module in self.modules:
            addresses.append(STRINGS + len(data))
            data += module.string + b"\0"
        return data, addresses

    def load(self, memory: GuestMemory) -> int:
        """Fill zeroed RAM; returns the entry point."""
        self.kernel.load(memory)
        for module, place in zip(self.modules, self.places(), strict=True):
            module.load(memory, place.guest_addr)
        write_blocks(memory, self._blocks())
        return self.kernel.entry

    def enter(self, vcpu: Vcpu, entry: int) -> None:
        """Set the first vCPU's registers."""
        regs = self.registers()
        regs.rip = entry
        set_protected_mode_cpu(vcpu, regs, LOADER_CS)
