"""Images on the host's disk, and what is read from a backend of one."""

import os
from pathlib import Path

from vmm.disk.opening import Backend

KIB = 1024


def an_image(path: Path, size: int = 64 * KIB, seed: bytes = b"") -> bytes:
    """Make one of bytes that tell one place from another; return them."""
    data = seed.ljust(size, b".") if seed else os.urandom(size)
    path.write_bytes(data)
    return data


def read(backend: Backend, offset: int = 0, size: int | None = None) -> bytes:
    """What a guest reads there, in views of odd sizes."""
    size = backend.size - offset if size is None else size
    data = bytearray(size)
    whole = memoryview(data)
    backend.read([whole[:100], whole[100:101], whole[101:]], offset)
    return bytes(data)


def write(backend: Backend, offset: int, data: bytes) -> None:
    views = memoryview(data)
    backend.write([views[:7], views[7:]], offset)
