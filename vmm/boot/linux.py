"""Everything a boot loader does: put kernel, initrd and tables into RAM."""

from ..devices.record import Record
from ..errors import ConfigError
from ..memory import GuestMemory, Range
from .bootparam import boot_params, rng_seed
from .cpu_state import write_tables
from .image import ImageFile, KernelImage
from .layout import (
    BOOT_PARAMS,
    CMDLINE,
    CMDLINE_MAX,
    EBDA,
    MIB,
    MMIO_HOLE,
    PAGE_SIZE,
    SETUP_DATA,
    ram_ranges,
)
from .mptable import mp_table


class LinuxBoot(Record):
    """A boot that has been checked and can be loaded any number of times."""

    kernel: KernelImage
    initrd: ImageFile | None
    cmdline: bytes
    memory_size: int
    cpus: int

    def __post_init__(self) -> None:
        """Raises ConfigError or ImageError where something doesn't fit."""
        low = ram_ranges(self.memory_size)[0].size
        self.kernel.check_fits(low)
        limit = min(self.kernel.cmdline_size, CMDLINE_MAX - 1)
        if len(self.cmdline) > limit:
            raise ConfigError(
                f"cmdline: {len(self.cmdline)} bytes are more than the {limit} "
                f"that {self.kernel.file.path!r} takes"
            )
        if b"\0" in self.cmdline:
            raise ConfigError("cmdline: has a NUL byte, which would end it")
        self._initrd_range()

    def _initrd_range(self) -> Range | None:
        """As high as the kernel allows, out of the way of its decompression."""
        if self.initrd is None:
            return None
        low = ram_ranges(self.memory_size)[0].size
        ceiling = min(self.kernel.initrd_addr_max + 1, MMIO_HOLE)
        room = ceiling - self.kernel.end - PAGE_SIZE
        if self.initrd.size > room:
            raise self.initrd.error(
                f"{self.initrd.size} bytes are more than the {max(room, 0)} that "
                f"{self.kernel.file.path!r} takes, whatever the memory"
            )
        top = min(ceiling, low)
        start = (top - self.initrd.size) & -PAGE_SIZE
        if start < self.kernel.end:
            needed = -(-(self.kernel.end + self.initrd.size + PAGE_SIZE) // MIB)
            raise self.initrd.error(
                f"its {-(-self.initrd.size // MIB)} MiB don't fit above the kernel in "
                f"memory of {self.memory_size // MIB}M: pass --memory {needed}M or more"
            )
        return Range(start, self.initrd.size)

    def load(self, memory: GuestMemory) -> int:
        """Fill zeroed RAM; returns the entry point."""
        self.kernel.load(memory)
        initrd = self._initrd_range()
        if self.initrd is not None and initrd is not None:
            self.initrd.load(memory, 0, initrd.size, initrd.guest_addr)
        memory.write(CMDLINE, self.cmdline + b"\0")
        memory.write(SETUP_DATA, rng_seed())
        params = boot_params(self.kernel, ram_ranges(self.memory_size), initrd)
        memory.write(BOOT_PARAMS, params)
        memory.write(EBDA, mp_table(EBDA, self.cpus))
        write_tables(memory)
        return self.kernel.entry

    def close(self) -> None:
        """Close the image files."""
        self.kernel.file.close()
        if self.initrd is not None:
            self.initrd.close()
