"""Kernel images: what every format comes down to before it is loaded."""

import os
from collections.abc import Sequence
from typing import Final, Self

from ..devices.record import Record
from ..errors import ConfigError, ImageError, VmmError
from ..input_file import open_regular
from ..memory import GuestMemory, Range
from .layout import CMDLINE_MAX, HIGH_MEMORY, MIB, MMIO_HOLE

# How a kernel may be entered: what the --boot-protocol of `vmm run` takes.
LINUX64: Final = "linux64"
LINUX32: Final = "linux32"
PVH: Final = "pvh"
MULTIBOOT: Final = "multiboot"


class ImageFile:
    """An image file held open, so that replacing it on disk changes nothing.

    Raises ImageError, naming the role and the path, if it isn't a readable,
    non-empty regular file. A descriptor that is passed is read, and closed, in
    place of what is at the path.
    """

    def __init__(
        self, role: str, path: str | os.PathLike[str], fd: int | None = None
    ) -> None:
        self.role = role
        self.path = os.fspath(path)
        self.fd = self._open() if fd is None else fd
        self.size = os.fstat(self.fd).st_size
        if self.size == 0:
            self.close()
            raise self.error("is empty")

    def _open(self) -> int:
        try:
            return open_regular(self.path)
        except OSError as error:
            raise self.error(str(error.strerror).lower()) from None

    def error(self, problem: str) -> ImageError:
        """An ImageError that names this file."""
        return ImageError(f"{self.role} {self.path!r}: {problem}")

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; fewer at the end. Raises ImageError."""
        if offset >= self.size:  # it may be far beyond what pread takes
            return b""
        try:
            return os.pread(self.fd, min(size, self.size - offset), offset)
        except OSError as error:
            raise self.error(f"can't be read: {error.strerror}") from None

    def load(
        self, memory: GuestMemory, offset: int, size: int, guest_addr: int
    ) -> None:
        """Read a part straight into RAM. Raises ImageError if it isn't there now."""
        try:
            memory.load(self.fd, offset, size, guest_addr)
        except (OSError, VmmError) as error:
            raise self.error(f"can't be loaded: {error}") from None

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def added_offset(size: int) -> int:
    """Where an archive begins behind an initrd of `size` bytes, from its start.

    Linux wants a multiple of four, and skips zeros between archives. Its LZ4, which
    doesn't know its own end, takes four of them for it (since Linux 5.8), but fails
    where the next archive follows at once. Sources: buffer-format.rst in
    Documentation/driver-api/early-userspace; lib/decompress_unlz4.c.
    """
    return size + -size % 4 + 4 if size else 0


class Segment(Record):
    """`file_size` bytes at `file_offset` that belong at guest `guest_addr`."""

    guest_addr: int
    file_offset: int
    file_size: int


class KernelImage(Record):
    """A kernel, parsed: what to load where, where to enter, what it can take.

    Limits are bytes and inclusive. `end` is the first address after all that the
    kernel uses before it looks at the memory map: its segments, its .bss, and the
    room it decompresses into; `ranges` are what of it is used, where there are gaps.
    `entry` is a physical address, at which `protocol` enters it. `linux` and `ring3`
    say whether it is a Linux, and one that runs in ring 3 (CONFIG_RING3_KERNEL), as
    far as can be seen without unpacking it. `warnings` are what it may miss here.
    """

    file: ImageFile
    format: str
    segments: Sequence[Segment]
    entry: int
    start: int
    end: int
    cmdline_size: int
    initrd_addr_max: int
    setup_header: bytes = b""
    protocol: str = LINUX64
    linux: bool = False
    ring3: bool = False
    ranges: Sequence[Range] = ()
    warnings: Sequence[str] = ()

    @property
    def occupied(self) -> Sequence[Range]:
        """All of memory where nothing else may lie when it starts."""
        return self.ranges or [Range(self.start, self.end - self.start)]

    @property
    def floor(self) -> int:
        """From where on an initrd or a module may lie: above the kernel and 1 MiB."""
        return max(self.end, HIGH_MEMORY)

    def check_fits(self, ram_end: int) -> None:
        """Raises ImageError, saying how much it needs, unless RAM holds it all."""
        if self.end > MMIO_HOLE:
            raise self.file.error(
                f"it ends at {self.end:#x}, and RAM has a hole from "
                f"{MMIO_HOLE:#x} on: it must be linked to lower physical addresses"
            )
        if self.end > ram_end:
            needed = -(-self.end // MIB)
            raise self.file.error(
                f"memory of {ram_end // MIB}M is too small: this kernel needs at "
                f"least {needed}M to start; pass --memory {needed + 32}M or more"
            )

    def check_cmdline(self, cmdline: bytes) -> None:
        """Raises ConfigError unless the kernel takes this command line."""
        limit = min(self.cmdline_size, CMDLINE_MAX - 1)
        if len(cmdline) > limit:
            raise ConfigError(
                f"cmdline: {len(cmdline)} bytes are more than the {limit} "
                f"that {self.file.path!r} takes"
            )
        if b"\0" in cmdline:
            raise ConfigError("cmdline: has a NUL byte, which would end it")

    def load(self, memory: GuestMemory) -> None:
        """Copy the segments into RAM."""
        for segment in self.segments:
            self.file.load(
                memory, segment.file_offset, segment.file_size, segment.guest_addr
            )
