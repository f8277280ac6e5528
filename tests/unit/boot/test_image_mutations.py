"""Images with damaged headers: refused in good order, or loaded within their size.

Ten thousand in all by scripts/test --long. Whatever is raised but ImageError (one
line, exit 2) is a failure.
"""

import gzip
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_images import (
    CODE_OFFSET,
    MIB,
    bzimage,
    elf,
    elf32,
    flat,
    multiboot_header,
    pvh_elf,
    xen_note,
)
from support.lengths import cases

from vmm.boot.kernel import HEAD_SIZE, open_kernel
from vmm.config import BOOT_PROTOCOLS
from vmm.errors import ImageError
from vmm.memory import GuestMemory, Range

CASES = cases(100, 1430)  # of each of seven kinds
RAM = 32 * MIB

PAYLOAD = gzip.compress(pvh_elf(xen_note((16 * MIB).to_bytes(8, "little"))))
BZIMAGE = bzimage(
    PAYLOAD.ljust(-(-len(PAYLOAD) // 16) * 16, b"\0"), payload=(0, len(PAYLOAD))
)
MULTIBOOT = elf32(rest=multiboot_header(3) + b"\xf4" * 64)
PVH = pvh_elf(xen_note(b"2.6\0", 7) + xen_note((16 * MIB).to_bytes(4, "little")))

# What is written over a header: limits of each width, and numbers that mean something.
PATCHES = [
    *(bytes([value]) for value in (0, 1, 2, 4, 0x7F, 0x80, 0xFF)),
    *(struct.pack("<H", value) for value in (0, 0x20A, 0x20C, 0x7FFF, 0xFFFF)),
    *(
        struct.pack("<I", value)
        for value in (0, 1, 255, 256, 257, 4096, MIB - 1, MIB, 16 * MIB, RAM - 1)
    ),
    *(struct.pack("<I", value) for value in (1 << 31, (1 << 31) - 1, (1 << 32) - 1)),
    *(struct.pack("<Q", value) for value in (0, 1 << 32, 1 << 63, (1 << 64) - 1)),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image") / "kernel"


@pytest.fixture(scope="module")
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory([Range(0, RAM)])
    yield memory
    memory.close()


def damaged(contents: bytes, header: range, choices: bytes) -> tuple[bytes, str]:
    """`contents` with one to three places overwritten, one in eight of them cut.

    And the protocol to ask for. One draw decides all: many would take too long.
    """
    changed = bytearray(contents)
    for at in range(1, 1 + 2 * (1 + choices[0] % 3), 2):
        place = header[choices[at] * len(header) // 256]
        patch = PATCHES[choices[at + 1] % len(PATCHES)]
        changed[place : place + len(patch)] = patch
    if choices[7] < 32:
        del changed[choices[8] * len(contents) // 256 :]
    return bytes(changed), BOOT_PROTOCOLS[choices[0] // 3 % len(BOOT_PROTOCOLS)]


class Reads:
    """Counts what is asked of files."""

    def __init__(self) -> None:
        self.largest = 0
        self._pread = os.pread

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self.largest = max(self.largest, size)
        return self._pread(fd, size, offset)


def take(path: Path, contents: bytes, protocol: str, memory: GuestMemory) -> None:
    """Do with an image all that a run does with its headers."""
    path.write_bytes(contents)
    reads = Reads()
    with mock.patch("os.pread", reads.pread), suppress(ImageError):
        image = open_kernel(path, protocol)
        with image.file:
            assert image.start <= image.entry < image.end
            image.check_fits(RAM)
            image.load(memory)
    assert reads.largest <= max(len(contents), 2 * HEAD_SIZE)


KINDS = {
    "bzImage": (BZIMAGE, range(0x1F0, 0x268)),
    "its payload": (BZIMAGE, range(CODE_OFFSET, CODE_OFFSET + 64)),
    "ELF64": (elf(), range(120)),
    "ELF32": (elf32(rest=b"\xf4" * 64), range(84)),
    "multiboot ELF": (MULTIBOOT, range(96)),
    "multiboot flat": (flat(), range(8, 40)),
    "PVH note": (PVH, range(64, 216)),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=CASES,
    deadline=None,  # the machine may be busy
)
@given(choices=st.binary(min_size=9, max_size=9))
def test_damaged_image_is_refused_or_loaded_within_its_size(
    path: Path, memory: GuestMemory, kind: str, choices: bytes
) -> None:
    contents, protocol = damaged(*KINDS[kind], choices)
    take(path, contents, protocol, memory)


@settings(max_examples=cases(100, 500), deadline=None)
@given(contents=st.binary(max_size=1024), protocol=st.sampled_from(BOOT_PROTOCOLS))
def test_random_bytes_are_refused_or_loaded_within_their_size(
    path: Path, memory: GuestMemory, contents: bytes, protocol: str
) -> None:
    take(path, contents, protocol, memory)
