"""Boot protocols: which one an image is entered by, and what is refused."""

import re
import struct
from pathlib import Path

import pytest
from support.kernel_images import (
    MIB,
    bzimage,
    elf,
    elf32,
    flat,
    multiboot_header,
    program_header,
    program_header32,
    pvh_elf,
    xen_note,
)

from vmm.boot.image import KernelImage, Segment
from vmm.boot.kernel import open_kernel
from vmm.errors import ImageError

ENTRY = 16 * MIB + 8
PVH_ENTRY = ENTRY.to_bytes(4, "little")


def opened(folder: Path, contents: bytes, protocol: str = "auto") -> KernelImage:
    """What a file with these contents is; its file is closed again."""
    path = folder / "kernel"
    path.write_bytes(contents)
    image = open_kernel(path, protocol)
    image.file.close()
    return image


def linux_elf(note: bytes = b"") -> bytes:
    """Linked for the upper 2 GiB and entered by a physical address, as a vmlinux."""
    image = bytearray(pvh_elf(note))
    image[64 + 16 : 64 + 24] = (0xFFFF_FFFF_8100_0000).to_bytes(8, "little")
    return bytes(image)


def ring3_note(kind: int = 1) -> bytes:
    """As kernels with CONFIG_RING3_KERNEL have it."""
    return struct.pack("<III8s", 6, 4, kind, b"ring3") + (1).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("contents", "linux", "ring3"),
    [
        (linux_elf(ring3_note() + xen_note(PVH_ENTRY)), True, True),
        (linux_elf(ring3_note(kind=2) + xen_note(PVH_ENTRY)), True, False),
        (linux_elf(xen_note(PVH_ENTRY)), True, False),
        (pvh_elf(ring3_note()), False, False),
        (elf(), False, False),
    ],
)
def test_a_linux_in_ring_3_is_known_by_its_note(
    tmp_path: Path, contents: bytes, linux: bool, ring3: bool
) -> None:
    image = opened(tmp_path, contents)
    assert (image.linux, image.ring3) == (linux, ring3)


CHOSEN = {
    "bzImage": (bzimage(), "auto", "linux64", 16 * MIB + 0x200),
    "bzImage by its 32-bit entry": (bzimage(), "linux32", "linux32", 16 * MIB),
    "32-bit bzImage": (bzimage(xloadflags=4), "auto", "linux32", 16 * MIB),
    "bzImage of Linux 3.7": (bzimage(version=0x20B), "auto", "linux32", 16 * MIB),
    "vmlinux with a note": (linux_elf(xen_note(PVH_ENTRY)), "auto", "linux64", 1 << 24),
    "vmlinux by PVH": (linux_elf(xen_note(PVH_ENTRY)), "pvh", "pvh", ENTRY),
    "ELF without notes": (elf(), "auto", "linux64", 16 * MIB),
    "other ELF with a note": (pvh_elf(xen_note(PVH_ENTRY)), "auto", "pvh", ENTRY),
    "the same by its entry": (
        pvh_elf(xen_note(PVH_ENTRY)),
        "linux64",
        "linux64",
        16 * MIB,
    ),
    "note of 8 bytes": (pvh_elf(xen_note(PVH_ENTRY + bytes(4))), "pvh", "pvh", ENTRY),
    "note behind another": (
        pvh_elf(xen_note(b"2.6\0", 7) + xen_note(PVH_ENTRY)),
        "auto",
        "pvh",
        ENTRY,
    ),
    "ELF with another's note": (
        pvh_elf(xen_note(b"2.6\0", 7)),
        "auto",
        "linux64",
        1 << 24,
    ),
    "32-bit ELF": (elf32(rest=bytes(64)), "auto", "linux32", 16 * MIB),
    "32-bit ELF with a header": (
        elf32(rest=multiboot_header(3), entry=ENTRY),
        "auto",
        "multiboot",
        ENTRY,
    ),
    "the same by the Linux entry": (
        elf32(rest=multiboot_header(3), entry=ENTRY),
        "linux32",
        "linux32",
        ENTRY,
    ),
    "header with a wrong checksum": (
        elf32(rest=multiboot_header(3)[:-1] + b"x"),
        "auto",
        "linux32",
        16 * MIB,
    ),
    "flat image": (flat(), "auto", "multiboot", MIB + 64),
}


@pytest.mark.parametrize(
    ("contents", "asked", "protocol", "entry"), CHOSEN.values(), ids=CHOSEN
)
def test_image_is_entered_by_what_it_offers(
    tmp_path: Path, contents: bytes, asked: str, protocol: str, entry: int
) -> None:
    image = opened(tmp_path, contents, asked)
    assert (image.protocol, image.entry) == (protocol, entry)


def test_flat_image_is_loaded_as_its_header_says(tmp_path: Path) -> None:
    addresses = (4 * MIB + 4, 4 * MIB, 4 * MIB + 100, 4 * MIB + 8192, 4 * MIB + 64)
    image = opened(tmp_path, flat(addresses))
    assert image.segments == [Segment(4 * MIB, 4, 100)]
    assert (image.start, image.end) == (4 * MIB, 4 * MIB + 8192)


def test_flat_image_without_ends_is_the_rest_of_the_file(tmp_path: Path) -> None:
    image = opened(tmp_path, flat())
    assert image.segments == [Segment(MIB, 0, 256)]
    assert image.end == MIB + 256


def test_virtual_entry_of_a_multiboot_elf_is_made_physical(tmp_path: Path) -> None:
    contents = bytearray(elf32(rest=multiboot_header(3), entry=0xC000_0008))
    contents[52 + 8 : 52 + 12] = (0xC000_0000).to_bytes(4, "little")  # p_vaddr
    assert opened(tmp_path, bytes(contents)).entry == ENTRY


def test_video_mode_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    (warning,) = opened(tmp_path, flat(flags=7)).warnings
    assert "asks for a video mode (multiboot flags 0x10007, bit 2)" in warning


def test_flags_that_may_be_ignored_are(tmp_path: Path) -> None:
    contents = elf32(rest=multiboot_header(0xFFFE_0003))
    assert opened(tmp_path, contents).protocol == "multiboot"


def test_image_below_1_mib_is_taken(tmp_path: Path) -> None:
    """What of ours it must not lie over, the boot knows: see test_placement.py."""
    image = opened(tmp_path, flat((0x7C08, 0x7C00, 0, 0x9000, 0x7C40)))
    assert (image.start, image.end, image.entry) == (0x7C00, 0x9000, 0x7C40)


def multiboot2_header(checksum: int = 0) -> bytes:
    """Without tags but the last."""
    words = 0xE85250D6, 0, 24, -(0xE85250D6 + 24) + checksum & 0xFFFF_FFFF, 0, 8
    return struct.pack("<6I", *words)


@pytest.mark.parametrize(
    "contents",
    [
        elf32(rest=bytes(4) + multiboot2_header()),
        elf([program_header(16 * MIB, 16, 16, offset=120)])[:120] + multiboot2_header(),
        bytes(16384) + multiboot2_header(),
    ],
    ids=["32-bit ELF", "64-bit ELF", "flat"],
)
def test_kernel_of_multiboot_2_alone_is_named(tmp_path: Path, contents: bytes) -> None:
    with pytest.raises(ImageError, match="has a multiboot 2 header alone"):
        opened(tmp_path, contents)


@pytest.mark.parametrize("front", [elf32(), bytes(64)], ids=["ELF", "flat"])
def test_multiboot_header_too_far_behind_is_named(tmp_path: Path, front: bytes) -> None:
    """Where ld puts it by itself: each kind of segment has a page."""
    contents = front.ljust(0x2034, b"\0") + multiboot_header(3)
    with pytest.raises(ImageError, match="has its multiboot header at 0x2034, where"):
        opened(tmp_path, contents)


BOTH = multiboot_header(3) + multiboot2_header()


@pytest.mark.parametrize(
    ("contents", "asked", "protocol"),
    [
        (elf32(rest=BOTH), "auto", "multiboot"),
        (elf32(rest=bytes(4) + multiboot2_header()), "linux32", "linux32"),
        (elf32(rest=bytes(4) + multiboot2_header(1)), "auto", "linux32"),
        (elf32(rest=multiboot2_header()), "auto", "linux32"),  # not at 8 bytes
        (pvh_elf(xen_note(PVH_ENTRY)) + multiboot2_header(), "auto", "pvh"),
        (linux_elf(xen_note(b"2.6\0", 7)) + multiboot2_header(), "auto", "linux64"),
    ],
    ids=["both", "asked for", "checksum", "unaligned", "PVH", "Linux"],
)
def test_kernel_that_offers_more_than_multiboot_2_is_entered_by_that(
    tmp_path: Path, contents: bytes, asked: str, protocol: str
) -> None:
    assert opened(tmp_path, contents, asked).protocol == protocol


FAR = multiboot_header(3)
REFUSED = {
    "pvh of an ELF without": (elf(), "pvh", "no note XEN_ELFNOTE_PHYS32_ENTRY"),
    "multiboot of an ELF without": (elf(), "multiboot", "no multiboot header in its"),
    "multiboot of a bzImage": (bzimage(), "multiboot", "has no multiboot header"),
    "header beyond 8192": (bytes(8192) + FAR, "multiboot", "in its first 8192 bytes"),
    "header not at a multiple of 4": (b"x" + FAR, "multiboot", "no multiboot header"),
    "linux64 of a 32-bit bzImage": (
        bzimage(xloadflags=4),
        "linux64",
        "boot protocol 2.15 without XLF_KERNEL_64",
    ),
    "linux64 of a 32-bit ELF": (elf32(rest=FAR), "linux64", "has no 64-bit entry"),
    "linux32 of a 64-bit ELF": (elf(), "linux32", "has no 32-bit entry"),
    "pvh of a bzImage without payload": (bzimage(), "pvh", "it names no payload"),
    "unknown requirement": (
        flat(flags=0x8003),
        "auto",
        "flags 0x18003 require what we don't know: 0x8000",
    ),
    "flat image without addresses": (
        bytes(8) + FAR + bytes(20),
        "auto",
        "flags 0x3 have no addresses (bit 16)",
    ),
    "addresses cut": (multiboot_header(1 << 16), "auto", "no room for addresses"),
    "flat load_addr above its header": (
        flat((MIB, MIB + 4, 0, 0, MIB)),
        "auto",
        "load_addr 0x100004 and header_addr 0x100000 don't go with a header at 0x8",
    ),
    "flat load_addr before the file": (
        flat((MIB + 9, MIB, 0, 0, MIB)),
        "auto",
        "load_addr 0x100000 and header_addr 0x100009",
    ),
    "flat image larger than the file": (
        flat((MIB + 8, MIB, MIB + 257, 0, MIB)),
        "auto",
        "would be 257 bytes from 0x0 on of a file of 256",
    ),
    "flat image of no bytes": (
        flat((MIB + 8, MIB, MIB, 0, MIB)),
        "auto",
        "would be 0 bytes",
    ),
    "flat bss before the end": (
        flat((MIB + 8, MIB, 0, MIB + 255, MIB)),
        "auto",
        "bss_end_addr 0x1000ff lies before the end of what is loaded, 0x100100",
    ),
    "flat entry outside": (
        flat((MIB + 8, MIB, 0, 0, MIB + 256)),
        "auto",
        "entry_addr 0x100100 lies outside of its image [0x100000, 0x100100)",
    ),
    "PVH entry outside": (
        pvh_elf(xen_note(bytes(4))),
        "auto",
        "entry point 0x0 lies outside of its segments [0x1000000, 0x1002000)",
    ),
    "PVH entry of 5 bytes": (
        pvh_elf(xen_note(bytes(5))),
        "auto",
        "its PVH entry has 5 bytes, not 4 or 8",
    ),
    "note cut": (
        pvh_elf(xen_note(PVH_ENTRY), size=19),
        "auto",
        "a note of 4 and 4 bytes ends after the 19",
    ),
    "notes beyond the file": (
        pvh_elf(xen_note(PVH_ENTRY), size=900),
        "auto",
        "its notes, 900 bytes at 176 of",
    ),
    "notes of a gigabyte": (
        pvh_elf(xen_note(PVH_ENTRY), size=1 << 30),
        "auto",
        "its notes have 1073741824 bytes, more than 262144",
    ),
    "notes of many segments over each other": (
        elf(
            [program_header(16 * MIB, 16, 16)]
            + [program_header(0, 2000, 0, kind=4)] * 200
        ),
        "auto",
        "its notes have 400000 bytes, more than 262144",
    ),
    "32-bit segments that overlap": (
        elf32([program_header32(MIB, 1, 9), program_header32(MIB + 8, 1, 1)]),
        "auto",
        "segments [0x100000, 0x100009) and [0x100008, 0x100009) overlap",
    ),
}


@pytest.mark.parametrize(
    ("contents", "asked", "problem"), REFUSED.values(), ids=REFUSED
)
def test_what_an_image_does_not_offer_is_refused_with_the_numbers(
    tmp_path: Path, contents: bytes, asked: str, problem: str
) -> None:
    with pytest.raises(ImageError, match=re.escape(problem)) as caught:
        opened(tmp_path, contents, asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gap", [0xE000_0000, 0xFEC0_0000, 0x1_0000_0000])
def test_segment_in_the_mmio_hole_is_refused(tmp_path: Path, gap: int) -> None:
    headers = [program_header(16 * MIB, 1, 8), program_header(gap, 1, 8)]
    image = opened(tmp_path, elf(headers))
    with pytest.raises(ImageError, match="RAM has a hole from 0xe0000000 on"):
        image.check_fits(0xE000_0000)
