"""RawDisk: a disk whose bytes are those of a file, one by one."""

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .disk_file import DiskFile, checked_size
from .file_io import punch_hole, read_at, write_at, write_zeros

if TYPE_CHECKING:
    from .overlay import FrozenDisk


class RawDisk:
    """A BlockBackend. Closes `file` when it is closed."""

    def __init__(self, file: DiskFile, *, is_read_only: bool) -> None:
        """Raises OSError if its size can't be that of a disk."""
        self.file = file
        self.is_read_only = is_read_only
        self.block_size = file.block_size
        self.physical_block_size = file.physical_block_size
        self.size = checked_size(file)

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        read_at(self.file.fd, views, offset)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        write_at(self.file.fd, views, offset)

    def flush(self) -> None:
        os.fdatasync(self.file.fd)

    def discard(self, offset: int, size: int) -> None:
        punch_hole(self.file.fd, offset, size)  # where that can be

    def write_zeroes(self, offset: int, size: int, may_discard: bool) -> None:
        write_zeros(self.file.fd, offset, size, may_punch=may_discard)

    def resize(self, size: int | None) -> None:
        """Have `size`, or what the host has made of it. Raises OSError."""
        if size is not None and size != self.file.size():
            if self.file.is_device or self.is_read_only:
                raise OSError(errno.EPERM, "it isn't ours to resize")
            os.truncate(self.file.fd, size)
        self.size = checked_size(self.file)

    def freeze(self) -> "FrozenDisk | None":
        """It as it is; None: it is written to, and nothing keeps that."""
        from .overlay import untouched

        return untouched(self.file.share()) if self.is_read_only else None

    def become(self, frozen: "FrozenDisk") -> None:
        """It is read-only, or there is nothing that it could become."""

    def close(self) -> None:
        """Idempotent."""
        self.file.close()
