"""What of ours lies in guest memory beside the kernel, and that it gets on with it."""

from collections.abc import Iterable
from typing import NamedTuple

from ..memory import GuestMemory
from .image import KernelImage


class Block(NamedTuple):
    """Bytes that we put at `guest_addr` for the kernel to find there."""

    what: str
    guest_addr: int
    data: bytes

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.guest_addr + len(self.data)


def check_room(kernel: KernelImage, blocks: Iterable[Block]) -> None:
    """Raises ImageError, naming both, where the kernel would lie over one of them."""
    for block in blocks:
        for start, size in kernel.occupied:
            if max(start, block.guest_addr) < min(start + size, block.end):
                raise kernel.file.error(
                    f"what it has at [{start:#x}, {start + size:#x}) lies over "
                    f"{block.what}, at [{block.guest_addr:#x}, {block.end:#x}): "
                    "link it to other addresses"
                )


def write_blocks(memory: GuestMemory, blocks: Iterable[Block]) -> None:
    """Put each where it belongs."""
    for block in blocks:
        memory.write(block.guest_addr, block.data)
