"""GuestMemory: the guest's RAM, mapped once into our address space."""

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from .errors import GuestAddressError, VmmError
from .kvm._libc import address_of, give_back, give_back_shared, map_over, populate

if TYPE_CHECKING:  # most runs have none
    from .page_runs import Run
    from .ram_image import RamImage

# <asm-generic/mman-common.h>; not in Python's mmap
MAP_NORESERVE: Final = 0x4000
MADV_WIPEONFORK: Final = 18
_PRIVATE: Final = mmap.MAP_PRIVATE | MAP_NORESERVE
HUGE_PAGE: Final = 2 << 20
ZEROED_MAX: Final = 1024
"""Runs of an image's pages that are mapped over, each a mapping of the 65,530 that our
process has at most."""


class Range(NamedTuple):
    """A run of guest physical addresses, in bytes."""

    guest_addr: int
    size: int


class Region(NamedTuple):
    """A range of RAM and where in our mapping it lies."""

    guest_addr: int
    size: int
    offset: int


class GuestMemory:
    """Zeroed RAM at the given ranges, each a multiple of 4096 bytes; or an image's.

    The host commits pages only as they are touched, huge ones where it has them; those
    of an image are shared until they are written to. It is this process's alone until
    `share` was called.
    To users it is a GuestRam: `view`, `read`, `write` and `discard`.
    Raises VmmError if the host doesn't give the address space.
    """

    def __init__(
        self, ranges: Iterable[Range], image: "RamImage | None" = None
    ) -> None:
        self._is_closed = False
        self.shared_fd: int | None = None
        """What `share` gives, once somebody has called it."""
        self._image: RamImage | None = None
        self._is_its_life = False  # all of it since `image`: not that which froze
        self._zeroed: list[Run] = []  # where the image's pages are mapped over
        self.regions: list[Region] = []
        size = 0
        for guest_addr, length in ranges:
            self.regions.append(Region(guest_addr, length, size))
            size += length
        self.size = size
        flags = mmap.MAP_ANONYMOUS | _PRIVATE
        try:
            self._mmap = mmap.mmap(-1, size + HUGE_PAGE, flags=flags)
        except OSError as error:
            raise VmmError(
                f"memory: the host refuses to map {size >> 20} MiB: {error.strerror}"
            ) from None
        # A child has no use for it, but may touch a view that it has inherited.
        self._mmap.madvise(MADV_WIPEONFORK)
        self._export = (ctypes.c_char * size).from_buffer(self._mmap)
        # KVM maps a huge page only where guest and host address are as far into it.
        skipped = -address_of(self._export) % HUGE_PAGE
        self._view = memoryview(self._mmap)[skipped : skipped + size]
        self._host_addr = address_of(self._export) + skipped
        if image is not None:
            self.become(image)
            return
        with suppress(OSError):  # a host kernel without them: EINVAL
            self._mmap.madvise(mmap.MADV_HUGEPAGE)

    def host_addr(self, region: Region) -> int:
        """The host virtual address that KVM is to map the region to."""
        return self._host_addr + region.offset

    def view(self, guest_addr: int, size: int) -> memoryview:
        """A writable view of guest [guest_addr, +size).

        Raises GuestAddressError unless all of it is RAM, and after `close()`.
        """
        at = self._offset(guest_addr, size)
        return self._view[at : at + size]

    def _offset(self, guest_addr: int, size: int) -> int:
        """Where that is in our mapping."""
        if self._is_closed:
            raise GuestAddressError("the machine is closed, and its RAM gone")
        for region in self.regions:
            start = guest_addr - region.guest_addr
            if 0 <= start <= region.size - size and size >= 0:
                return region.offset + start
        raise GuestAddressError(
            f"guest memory [{guest_addr:#x}, {guest_addr + size:#x}) is not RAM"
        )

    def write(
        self,
        guest_addr: int,
        data: bytes | bytearray | memoryview | ctypes.Structure,
    ) -> None:
        """Copy `data` into RAM."""
        source = memoryview(data).cast("B")
        self.view(guest_addr, len(source))[:] = source

    def read(self, guest_addr: int, size: int) -> bytes:
        """A copy of `size` bytes of RAM."""
        return bytes(self.view(guest_addr, size))

    def discard(self, guest_addr: int, size: int) -> None:
        """Give the pages that lie wholly within [guest_addr, +size) back to the host.

        They read as zero, and are committed again as they are touched. The guest may
        run meanwhile. Raises GuestAddressError as `view` does.
        """
        at = self._offset(guest_addr, size)
        start = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (at + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if start >= end:
            return
        if self.shared_fd is not None:
            give_back_shared(self._host_addr + start, end - start)
        elif self._image is None or not self._image.has_data(start, end):
            give_back(self._host_addr + start, end - start)
        else:  # whose pages would come back
            self._map_zeros(start, end)

    def _map_zeros(self, start: int, end: int) -> None:
        """Have zeros in the place of what the image has in [start, end)."""
        from .page_runs import merged

        zeroed = merged(self._zeroed, (start, end))
        if len(zeroed) <= ZEROED_MAX:
            address, flags = self._host_addr + start, mmap.MAP_ANONYMOUS
            with suppress(OSError):  # no more mappings
                map_over(address, end - start, flags | _PRIVATE)
                self._zeroed = zeroed
                return
        ctypes.memset(self._host_addr + start, 0, end - start)

    def load(self, fd: int, offset: int, size: int, guest_addr: int) -> None:
        """Read a part of a file straight into RAM, without a copy in between.

        Raises VmmError if the file has become shorter than that.
        """
        with self.view(guest_addr, size) as target:
            done = 0
            while done < size:
                count = os.preadv(fd, [target[done:]], offset + done)
                if count == 0:
                    raise VmmError(
                        f"the file ended {size - done} bytes early: it was changed "
                        "while we read it"
                    )
                done += count

    def share(self) -> int:
        """Have RAM in a file that other processes can map, a memfd; its descriptor.

        Each region is at its offset there. Before the machine starts: it is zero then.
        A machine that goes on from an image has that in private. Raises VmmError.
        """
        if self.shared_fd is not None:
            return self.shared_fd
        if self._image is not None:
            raise VmmError(
                "memory: a machine that goes on from a snapshot has RAM of its own, "
                "which no other process can serve"
            )
        from .ram_image import new_memfd

        fd = new_memfd("guest-ram", self.size)
        try:
            # Nobody may shorten it: touching what is missing then is a SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            map_over(self._host_addr, self.size, mmap.MAP_SHARED | MAP_NORESERVE, fd)
        except OSError as error:
            os.close(fd)
            raise VmmError(
                f"memory: {self.size >> 20} MiB can't be shared: {error.strerror}"
            ) from None
        with suppress(OSError):  # as the host's shmem_enabled says
            self._mmap.madvise(mmap.MADV_HUGEPAGE)
        self.shared_fd = fd
        return fd

    def freeze(self) -> "RamImage":
        """An image of what it has now; it goes on from there as one more clone.

        No vCPU may run. Raises VmmError where there is no memory for it.
        """
        if self.shared_fd is not None:
            raise VmmError("memory: it is shared with another process: no snapshot")
        from .ram_image import RamImage  # most runs never do

        image = RamImage.of(self._view, self._host_addr, self._image, self._zeroed)
        self.become(image)
        self._is_its_life = False
        return image

    def become(self, image: "RamImage") -> None:
        """Have what `image` has, whatever was written since. KVM follows."""
        start = self._host_addr - address_of(self._export)
        if image is self._image and not self._zeroed:
            self._teach()
            self._mmap.madvise(mmap.MADV_DONTNEED, start, self.size)
        else:
            if image is self._image:
                self._teach()
            self._map(image.fd, 0)
            self._image = image
        self._is_its_life = True

    def _teach(self) -> None:
        if self._image is not None and self._is_its_life:
            self._image.hot.learn(self._host_addr)

    def warm(self) -> None:
        """Get what a guest that goes on from an image is about to write to.

        Page by page, as it comes there, each takes an exit. It needn't wait for this.
        """
        if self._image is not None:
            for start, end in self._image.hot.runs:
                populate(self._host_addr + start, end - start)

    def _map(self, fd: int, flags: int) -> None:
        try:
            map_over(self._host_addr, self.size, flags | _PRIVATE, fd)
            self._zeroed = []
        except OSError as error:
            raise VmmError(
                f"memory: the host refuses to map {self.size >> 20} MiB: "
                f"{error.strerror}"
            ) from None

    def clear(self) -> None:
        """Give every page back to the host; all of RAM reads as zero again."""
        if self.shared_fd is not None:
            give_back_shared(self._host_addr, self.size)
        elif self._image is None:
            self._mmap.madvise(mmap.MADV_DONTNEED)
        else:  # whose pages would come back
            self._map(-1, mmap.MAP_ANONYMOUS)
            self._image = None

    def close(self) -> None:
        """Unmap the RAM. No vCPU may run any more. Idempotent.

        Whoever still has a view keeps the addresses, but none of the pages.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._teach()
        self._image = None
        self._view.release()
        del self._export  # an exported buffer would make mmap.close() fail
        try:
            self._mmap.close()
        except BufferError:  # it is unmapped with the last view
            if self.shared_fd is not None:
                map_over(self._host_addr, self.size, mmap.MAP_ANONYMOUS | _PRIVATE)
            self._mmap.madvise(mmap.MADV_DONTNEED)
        if self.shared_fd is not None:
            os.close(self.shared_fd)
