"""Kernel images: what is loaded where, and how each wrong file is refused."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from support.kernel_images import CODE_OFFSET, MIB, bzimage, elf, program_header
from support.open_fds import open_fds

from vmm.boot.image import ImageFile, KernelImage, Segment
from vmm.boot.kernel import open_kernel
from vmm.errors import ImageError

Open = Callable[[bytes], KernelImage]


@pytest.fixture
def open_bytes(tmp_path: Path) -> Open:
    """Opens a kernel that has these contents; for one that can be opened."""

    def open_it(contents: bytes) -> KernelImage:
        path = tmp_path / "kernel"
        path.write_bytes(contents)
        image = open_kernel(path)
        image.file.close()
        return image

    return open_it


# bzImage


def test_bzimage_is_loaded_at_its_preferred_address(open_bytes: Open) -> None:
    image = open_bytes(bzimage(b"\x90" * 4096, pref_address=16 * MIB))
    assert image.segments == [Segment(16 * MIB, CODE_OFFSET, 4096)]


def test_bzimage_is_entered_0x200_after_its_start(open_bytes: Open) -> None:
    assert open_bytes(bzimage(pref_address=MIB)).entry == MIB + 0x200


def test_bzimage_needs_init_size(open_bytes: Open) -> None:
    image = open_bytes(bzimage(pref_address=MIB, init_size=5 * MIB))
    assert (image.start, image.end) == (MIB, 6 * MIB)


def test_bzimage_limits_are_its_headers(open_bytes: Open) -> None:
    image = open_bytes(bzimage(cmdline_size=255, initrd_addr_max=0x37FF_FFFF))
    assert (image.cmdline_size, image.initrd_addr_max) == (255, 0x37FF_FFFF)


def test_bzimage_setup_header_ends_where_its_jump_goes(open_bytes: Open) -> None:
    contents = bzimage()
    assert open_bytes(contents).setup_header == contents[0x1F1 : 0x202 + 0x6A]


def test_setup_sects_0_means_4(open_bytes: Open) -> None:
    contents = bytearray(bzimage())
    contents[0x1F1] = 0
    assert open_bytes(bytes(contents)).segments[0].file_offset == CODE_OFFSET


def test_code_may_lack_what_syssize_rounds_up(open_bytes: Open) -> None:
    assert open_bytes(bzimage()[:-15]).segments[0].file_size == 4096 - 15


# ELF


def test_elf_segments_go_to_their_physical_addresses(open_bytes: Open) -> None:
    headers = [
        program_header(16 * MIB, 64, 4096, offset=0),
        program_header(0, 0, 0),
        program_header(1, 2, 3, kind=4),  # PT_NOTE
        program_header(32 * MIB, 32, 32, offset=8),
    ]
    image = open_bytes(elf(headers))
    assert image.segments == [Segment(16 * MIB, 0, 64), Segment(32 * MIB, 8, 32)]


def test_elf_needs_its_bss(open_bytes: Open) -> None:
    image = open_bytes(elf([program_header(16 * MIB, 64, 3 * MIB)]))
    assert (image.start, image.end) == (16 * MIB, 19 * MIB)


def test_elf_is_entered_at_e_entry(open_bytes: Open) -> None:
    assert open_bytes(elf(entry=16 * MIB + 64)).entry == 16 * MIB + 64


def test_elf_has_no_setup_header(open_bytes: Open) -> None:
    assert open_bytes(elf()).setup_header == b""


# What is refused

AARCH64_IMAGE = bytes(0x38) + b"ARM\x64" + bytes(64)
REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"#!/bin/sh\n", "neither a bzImage, an ELF file nor"),
    "zeros": (bytes(8192), "neither a bzImage, an ELF file nor"),
    "cpio": (b"070701" + bytes(200), "is a cpio archive: pass it with --initrd"),
    "gzip": (b"\x1f\x8b" + bytes(99), "is gzip-compressed: decompress it"),
    "xz": (b"\xfd7zXZ\0" + bytes(99), "is xz-compressed"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(99), "is zstd-compressed"),
    "bzip2": (b"BZh9" + bytes(99), "is bzip2-compressed"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(99), "is lz4-compressed"),
    "lz4 legacy": (b"\x02\x21\x4c\x18" + bytes(99), "is lz4-compressed"),
    "AArch64 Image": (AARCH64_IMAGE, "a kernel for AArch64, not for x86-64"),
    "bzImage cut in its header": (bzimage()[:0x230], "setup header ends after 560"),
    "bzImage cut in its setup code": (bzimage()[:2000], "truncated: 4656 bytes"),
    "bzImage cut in its code": (bzimage()[:-16], "truncated: 16 bytes of its 6656"),
    "bzImage of 2.6.30": (bzimage(version=0x0209), "boot protocol 2.09 is too old"),
    "bzImage that ends before its entry": (
        bzimage(b"\x90" * 0x200),
        "entry point 0x1000200 lies outside of its code [0x1000000, 0x1000200)",
    ),
    "zImage": (bzimage(loadflags=0), "loadflags lacks LOADED_HIGH: is it a zImage?"),
    "bzImage over our tables": (bzimage(pref_address=4096), "pref_address 0x1000"),
    "ELF cut in its header": (elf()[:63], "the ELF header ends after 63 bytes"),
    "ELF cut in its table": (elf()[:119], "its program headers are missing"),
    "ELF cut in its code": (elf()[:150], "segment at 0x1000000 ends 226 bytes after"),
    "i386 ELF": (elf(machine=3), "a kernel for 32-bit x86, not for x86-64"),
    "AArch64 ELF": (elf(machine=183), "a kernel for AArch64, not for x86-64"),
    "RISC-V ELF": (elf(machine=243), "a kernel for RISC-V, not for x86-64"),
    "other ELF": (elf(machine=258), "a kernel for ELF machine 258, not for x86-64"),
    "big-endian ELF": (elf(ident=b"\x7fELF\x02\x02\x01"), "a big-endian kernel"),
    "x32 ELF": (elf(ident=b"\x7fELF\x01\x01\x01"), "a 32-bit ELF file for x86-64"),
    "object file": (elf(phentsize=0, phnum=0), "no usable program headers (0 of 0"),
    "too many headers": (elf(phnum=257), "no usable program headers (257 of 56"),
    "table beyond the file": (elf(phoff=1 << 64 - 1), "program headers are missing"),
    "no segment": (elf([program_header(0, 0, 0)]), "has no PT_LOAD segment"),
    "filesz above memsz": (elf([program_header(MIB, 9, 8)]), "an impossible size"),
    "segment that wraps": (
        elf([program_header((1 << 64) - 1, 2, 2)]),
        "an impossible size",
    ),
    "segments that overlap": (
        elf([program_header(17 * MIB, 1, 8), program_header(16 * MIB, 1, MIB + 1)]),
        "segments [0x1000000, 0x1100001) and [0x1100000, 0x1100008) overlap",
    ),
    "entry between segments": (
        elf(
            [program_header(16 * MIB, 1, 8), program_header(18 * MIB, 1, 8)],
            entry=17 * MIB,
        ),
        "entry point 0x1100000 lies outside of its segments",
    ),
    "virtual entry": (
        elf(entry=0xFFFF_FFFF_8100_0000),
        "entry point 0xffffffff81000000 lies outside of its segments",
    ),
}


@pytest.mark.parametrize(("contents", "problem"), REFUSED.values(), ids=REFUSED)
def test_wrong_file_is_refused_by_name_and_reason(
    contents: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(contents)
    with pytest.raises(ImageError, match=re.escape(problem)) as caught:
        open_kernel(path)
    assert str(caught.value).startswith(f"kernel '{path}': ")
    assert "\n" not in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"kernel '.*/none': no such file"):
        open_kernel(tmp_path / "none")


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a directory, not a file"):
        open_kernel(tmp_path)


def test_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match=r"is a pipe, not a file: put what"):
        open_kernel(tmp_path / "fifo")


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    # Root may read everything, so the refusal itself is made up.
    (tmp_path / "vmlinux").write_bytes(elf())
    denied = mock.patch("os.open", side_effect=PermissionError(13, "Permission denied"))
    with denied, pytest.raises(ImageError, match="permission denied"):
        open_kernel(tmp_path / "vmlinux")


def test_file_that_fails_to_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(elf())
    failing = mock.patch("os.pread", side_effect=OSError(5, "Input/output error"))
    with failing, pytest.raises(ImageError, match="vmlinux': can't be read: Input"):
        open_kernel(tmp_path / "vmlinux")


def test_file_of_a_refused_kernel_is_closed(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(bytes(100))
    before = open_fds()
    with pytest.raises(ImageError):
        open_kernel(tmp_path / "vmlinux")
    assert open_fds() == before


def test_replacing_the_file_on_disk_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"old")
    with ImageFile("initrd", path) as file:
        path.unlink()
        path.write_bytes(b"new")
        assert file.read(0, 3) == b"old"


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"x")
    file = ImageFile("initrd", tmp_path / "initrd")
    file.close()
    file.close()
