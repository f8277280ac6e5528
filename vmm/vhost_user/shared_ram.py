"""SharedRam: the guest's RAM as a front end shares it, by descriptors to be mapped."""

import mmap
from typing import TYPE_CHECKING, NamedTuple

from ..devices.errors import NotRam
from .protocol import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence


class SharedRegion(NamedTuple):
    """A range of RAM, mapped; its user addresses are the front end's own."""

    guest_addr: int
    size: int
    user_addr: int
    view: memoryview


def map_region(
    fd: int, guest_addr: int, size: int, user_addr: int, mmap_offset: int
) -> SharedRegion:
    """Map a region, whose descriptor may then be closed. Raises ProtocolError.

    A front end that makes the file shorter afterwards ends us by SIGBUS.
    """
    if size == 0:
        raise ProtocolError("a region of 0 bytes")
    before = mmap_offset % mmap.ALLOCATIONGRANULARITY
    try:
        mapping = mmap.mmap(fd, before + size, offset=mmap_offset - before)
    except (OSError, ValueError, OverflowError) as error:
        raise ProtocolError(
            f"{size:#x} bytes at offset {mmap_offset:#x} can't be mapped: {error}"
        ) from None
    view = memoryview(mapping)[before:]
    return SharedRegion(guest_addr, size, user_addr, view)


class SharedRam:
    """A GuestRam of what was last put into `regions`.

    Views of former ones stay valid, of memory that may be nobody's any more.
    """

    def __init__(self) -> None:
        self.regions: Sequence[SharedRegion] = ()

    def view(self, guest_addr: int, size: int) -> memoryview:
        for region in self.regions:
            start = guest_addr - region.guest_addr
            if 0 <= start <= start + size <= region.size:
                return region.view[start : start + size]
        raise NotRam(f"[{guest_addr:#x}, {guest_addr + size:#x}) is not RAM")

    def read(self, guest_addr: int, size: int) -> bytes:
        return bytes(self.view(guest_addr, size))

    def write(self, guest_addr: int, data: bytes | bytearray | memoryview) -> None:
        source = memoryview(data).cast("B")
        self.view(guest_addr, len(source))[:] = source

    def discard(self, guest_addr: int, size: int) -> None:
        """By zeros: the memory is its front end's, which may have it on huge pages."""
        view, page = self.view(guest_addr, size), mmap.PAGESIZE
        start, end = -guest_addr % page, size - (guest_addr + size) % page
        view[start:end] = bytes(max(0, end - start))

    def guest_addr(self, user_addr: int) -> int:
        """Where the front end's address is for the guest. Raises ProtocolError."""
        for region in self.regions:
            start = user_addr - region.user_addr
            if 0 <= start < region.size:
                return region.guest_addr + start
        raise ProtocolError(f"user address {user_addr:#x} is in no region")
