"""Everything a boot loader does: put kernel, initrd and tables into RAM."""

from ..devices.record import Record
from ..errors import ConfigError
from ..kvm.abi import kvm_regs
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory, Range
from .bootparam import boot_params, rng_seed
from .cpu_state import boot_blocks, set_boot_cpu
from .image import LINUX64, ImageFile, KernelImage, added_offset
from .layout import (
    ACPI,
    BOOT_PARAMS,
    CMDLINE,
    HIGH_MEMORY,
    MIB,
    MMIO_HOLE,
    PAGE_SIZE,
    SETUP_DATA,
)
from .placement import Block, check_room, write_blocks


class LinuxBoot(Record):
    """A boot that has been checked and can be loaded any number of times."""

    kernel: KernelImage
    initrd: ImageFile | None
    cmdline: bytes
    ram: list[Range]
    cpus: int
    added: bytes = b""
    """An archive that follows the initrd's own."""
    acpi: bool = False
    """Whether there are ACPI tables, which somebody else puts at `layout.ACPI`."""

    def __post_init__(self) -> None:
        """Raises ConfigError or ImageError where something doesn't fit."""
        self.kernel.check_fits(self.ram[0].size)
        self.kernel.check_cmdline(self.cmdline)
        self._initrd_range()
        if self.kernel.start < HIGH_MEMORY:  # where what is ours lies
            check_room(self.kernel, self._blocks())

    def _blocks(self) -> list[Block]:
        """All that lies in RAM besides kernel, initrd and what firmware leaves."""
        rsdp = ACPI if self.acpi else 0
        params = boot_params(self.kernel, self.ram, self._initrd_range(), rsdp)
        if self.kernel.protocol == LINUX64:
            tables = boot_blocks()
        else:
            from .protected_mode import gdt32  # most runs have no use for it

            tables = [gdt32()]
        return [
            Block("the command line", CMDLINE, self.cmdline + b"\0"),
            Block("the random seed", SETUP_DATA, rng_seed()),
            Block("boot_params", BOOT_PARAMS, bytes(params)),
            *tables,
        ]

    def _initrd_range(self) -> Range | None:
        """As high as the kernel allows, out of the way of its decompression."""
        size = self._added_offset + len(self.added)
        if size == 0:
            return None
        ceiling = min(self.kernel.initrd_addr_max + 1, MMIO_HOLE)
        room = ceiling - self.kernel.floor - PAGE_SIZE
        if size > room:
            raise self._initrd_error(
                f"{size} bytes are more than the {max(room, 0)} that "
                f"{self.kernel.file.path!r} takes, whatever the memory"
            )
        top = min(ceiling, self.ram[0].size)
        start = (top - size) & -PAGE_SIZE
        if start < self.kernel.floor:
            needed = -(-(self.kernel.floor + size + PAGE_SIZE) // MIB)
            raise self._initrd_error(
                f"its {-(-size // MIB)} MiB don't fit above the kernel in "
                f"memory of {sum(part.size for part in self.ram) // MIB}M: "
                f"pass --memory {needed}M or more"
            )
        return Range(start, size)

    @property
    def _added_offset(self) -> int:
        """From the initrd's start."""
        size = 0 if self.initrd is None else self.initrd.size
        return added_offset(size) if self.added else size

    def _initrd_error(self, problem: str) -> ConfigError:
        if self.initrd is None:
            return ConfigError(f"files: {problem}")
        added = f"with {len(self.added)} bytes of files added, " if self.added else ""
        return self.initrd.error(added + problem)

    def load(self, memory: GuestMemory) -> int:
        """Fill zeroed RAM; returns the entry point."""
        self.kernel.load(memory)
        initrd = self._initrd_range()
        if self.initrd is not None and initrd is not None:
            self.initrd.load(memory, 0, self.initrd.size, initrd.guest_addr)
        if self.added and initrd is not None:
            memory.write(initrd.guest_addr + self._added_offset, self.added)
        write_blocks(memory, self._blocks())
        return self.kernel.entry

    def enter(self, vcpu: Vcpu, entry: int) -> None:
        """Set the first vCPU's registers; `load` came before."""
        if self.kernel.protocol == LINUX64:
            set_boot_cpu(vcpu, entry)
            return
        from .protected_mode import set_protected_mode_cpu

        set_protected_mode_cpu(vcpu, kvm_regs(rip=entry, rsi=BOOT_PARAMS))

    def close(self) -> None:
        """Close the image files."""
        self.kernel.file.close()
        if self.initrd is not None:
            self.initrd.close()
