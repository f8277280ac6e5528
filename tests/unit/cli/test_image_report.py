"""`vmm doctor IMAGE`: what an image is, and how it would be booted."""

import gzip
import json
import os
import struct
from pathlib import Path

import pytest
from support.kernel_images import (
    MIB,
    bzimage,
    elf,
    flat,
    multiboot_header,
    pvh_elf,
    xen_note,
)

from vmm.cli import image_report
from vmm.cli import main as cli
from vmm.cli.image_report import ImageReport, examine_image, lines
from vmm.errors import ImageError, KvmUnavailable

NOTE = xen_note((16 * MIB + 4).to_bytes(4, "little"))


def report_of(folder: Path, contents: bytes) -> ImageReport:
    path = folder / "kernel"
    path.write_bytes(contents)
    return examine_image(str(path))


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with VMX or SVM, whatever this one is."""
    monkeypatch.setattr(image_report, "host_kind", lambda: "hardware")


def packed_bzimage() -> bytes:
    """A bzImage whose payload is an ELF kernel with a note, and a version."""
    payload = gzip.compress(pvh_elf(NOTE))
    code = payload.ljust(4096, b"\0")
    contents = bytearray(bzimage(code, payload=(0, len(payload))))
    struct.pack_into("<H", contents, 0x20E, 0x300)
    contents[0x500 : 0x500 + 14] = b"6.1.0 (me) #1\0"
    return bytes(contents)


def test_bzimage_offers_all_that_it_and_its_payload_have(tmp_path: Path) -> None:
    report = report_of(tmp_path, packed_bzimage())
    assert report.booted_by == "linux64"
    assert report.protocols == {
        "linux64": 16 * MIB + 0x200,
        "linux32": 16 * MIB,
        "pvh": 16 * MIB + 4,
    }
    assert report.refusals == {"multiboot": "a bzImage has no multiboot header"}
    assert report.version == "6.1.0 (me) #1"
    assert report.payload.startswith("gzip, ")
    assert report.memory == (16 * MIB, 18 * MIB)
    assert report.notes == ["Xen 18: 04 00 00 01"]
    assert report.here == "linux64 at 0x1000200 (bzImage, boot protocol 2.15)"


def test_image_over_something_of_ours_is_told_not_to_boot(tmp_path: Path) -> None:
    report = report_of(tmp_path, flat((0x508, 0x500, 0, 0, 0x540)))
    assert report.here.startswith("can't be booted: what it has at [0x500, 0x600)")


def test_on_pvm_the_payload_is_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_report, "host_kind", lambda: "pvm")
    report = report_of(tmp_path, packed_bzimage())
    assert "gzip payload unpacked by the host" in report.here


def test_damaged_payload_is_told_and_the_rest_as_well(tmp_path: Path) -> None:
    report = report_of(tmp_path, bzimage(payload=(0, 999_999)))
    assert "999999 bytes at" in report.payload
    assert "999999 bytes at" in report.refusals["pvh"]
    assert "linux64" in report.protocols


def test_elf_has_its_banner_and_not_the_format_of_it(tmp_path: Path) -> None:
    banner = b"Linux version %s (%s)\0Linux version 6.1.0 (me)\nmore"
    assert report_of(tmp_path, elf() + banner).version == "6.1.0 (me)"


def test_version_and_notes_are_safe_to_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    title = b"\x1b]0;owned\x07\xc2\x9b2J"
    shown = r"\x1b]0;owned\x07\x9b2J"
    note = (
        struct.pack("<III", len(title) + 1, 4, 1) + title.ljust(16, b"\0") + NOTE[-4:]
    )
    image = pvh_elf(NOTE + note) + b"\0Linux version 6" + title + b"\n##[x]\n"
    report = report_of(tmp_path, image)
    assert report.version == f"6{shown}"
    assert report.notes[1] == f"{shown} 1: 04 00 00 01"
    hostile = tmp_path / "ker\x1b[2Jnel"
    hostile.write_bytes(image)
    assert cli.main(["doctor", str(hostile)]) == 0
    told = capsys.readouterr().out
    assert r"ker\x1b[2Jnel" in told
    assert all(char == "\n" or char.isprintable() for char in told)


def test_multiboot_image_tells_its_flags_and_ranges(tmp_path: Path) -> None:
    report = report_of(tmp_path, flat())
    assert (report.booted_by, report.multiboot_flags) == ("multiboot", 0x10003)
    assert report.loads == [(MIB, 0, 256)]
    assert list(report.protocols) == ["multiboot"]


def test_host_without_kvm_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_kvm() -> str:
        raise KvmUnavailable("none")

    monkeypatch.setattr(image_report, "host_kind", no_kvm)
    assert report_of(tmp_path, elf()).here == "there is no KVM to boot it on"


def test_printable_values_of_notes_are_text(tmp_path: Path) -> None:
    notes = xen_note(b"2.6\0", 7) + xen_note(bytes(17), 9) + NOTE
    report = report_of(tmp_path, pvh_elf(notes))
    assert report.notes[:2] == ["Xen 7: '2.6'", f"Xen 9: {bytes(16).hex(' ')} ..."]


def test_of_many_notes_the_first_are_listed(tmp_path: Path) -> None:
    report = report_of(tmp_path, pvh_elf(xen_note(b"2.6\0", 7) * 100 + NOTE))
    assert report.notes == ["Xen 7: '2.6'"] * 64 + ["... and more"]


def test_of_a_sparse_file_the_begin_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(elf())
    os.truncate(path, 200 << 30)
    monkeypatch.setattr(image_report, "_SEARCHED_MAX", 8 * MIB)
    read, pread = 0, os.pread

    def count(fd: int, size: int, offset: int) -> bytes:
        nonlocal read
        read += size
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", count)
    assert examine_image(str(path)).version == ""
    assert read < 10 * MIB


def test_bzimage_without_a_payload_is_not_called_damaged(tmp_path: Path) -> None:
    report = report_of(tmp_path, bzimage())
    assert report.payload == ""
    assert report.refusals["pvh"].startswith("has no PVH entry: it names no payload")


def test_what_no_run_would_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="require what we don't know: 0x8 "):
        report_of(tmp_path, multiboot_header(8))


def test_report_for_people_says_each_protocol(tmp_path: Path) -> None:
    text = "\n".join(lines(report_of(tmp_path, pvh_elf(NOTE))))
    assert "boots by    pvh, entered at 0x1000004" in text
    assert "  linux64   entry 0x1000000" in text
    assert "  linux32   not offered: a 64-bit ELF file has no 32-bit entry" in text
    assert "--memory 17M or more" in text


def test_command_prints_it_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(packed_bzimage())
    assert cli.main(["doctor", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(path)
    assert report["protocols"]["pvh"] == 16 * MIB + 4


def test_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"#!/bin/sh\n")
    assert cli.main(["doctor", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"vmm: error: kernel '{path}': neither a bzImage, an ELF file nor a multiboot "
        "image\n"
    )
