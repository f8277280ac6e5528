"""Payloads of bzImages, in each way that Linux packs them, and damaged."""

import bz2
import gzip
import lzma
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_images import MIB, bzimage, elf
from support.lengths import cases
from support.open_fds import open_fds

from vmm.boot import payload
from vmm.boot.image import KernelImage
from vmm.boot.kernel import open_kernel
from vmm.boot.payload import unpack_bzimage
from vmm.errors import ImageError

VMLINUX = elf()
SIZE = len(VMLINUX).to_bytes(4, "little")
AT = 48  # where in the code the payload starts


def program(name: str, *options: str, data: bytes = VMLINUX) -> bytes:
    return subprocess.run(
        [name, "-c", *options], input=data, capture_output=True, check=True
    ).stdout


PACKERS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(VMLINUX),
    "xz": lambda: lzma.compress(VMLINUX) + SIZE,
    "lzma": lambda: lzma.compress(VMLINUX, lzma.FORMAT_ALONE) + SIZE,
    "bzip2": lambda: bz2.compress(VMLINUX) + SIZE,
    "zstd": lambda: program("zstd", "-22", "--ultra") + SIZE,
    "lz4": lambda: program("lz4", "-l", "-9") + SIZE,
}


@cache
def packed_by(kind: str) -> bytes:
    """The kernel as a payload; zstd, as Linux has it, takes a third of a second."""
    return PACKERS[kind]()


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before


def image_of(folder: Path, packed: bytes, length: int | None = None) -> KernelImage:
    """A bzImage with this payload."""
    path = folder / "bzImage"
    code = (bytes(AT) + packed).ljust(4096, b"\0")
    place = AT, len(packed) if length is None else length
    path.write_bytes(bzimage(code, payload=place, cmdline_size=100))
    return open_kernel(path)


def refusal(folder: Path, packed: bytes, length: int | None = None) -> str:
    """What is said of a bad payload, after the file's name."""
    with pytest.raises(ImageError) as caught:
        unpack_bzimage(image_of(folder, packed, length))
    message = str(caught.value).removeprefix(f"kernel '{folder}/bzImage': ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", PACKERS)
def test_payload_is_the_kernel(kind: str, tmp_path: Path) -> None:
    with unpack_bzimage(image_of(tmp_path, packed_by(kind))).file as file:
        assert file.read(0, 1 << 20) == VMLINUX


def test_payload_of_several_mib_is_the_kernel(tmp_path: Path) -> None:
    vmlinux = VMLINUX + bytes(range(256)) * 6_000
    packed = gzip.compress(vmlinux)
    with unpack_bzimage(image_of(tmp_path, packed)).file as file:
        assert file.read(0, 4 * MIB) == vmlinux


def test_kernel_is_entered_as_elf_with_the_bzimages_limits(tmp_path: Path) -> None:
    packed = image_of(tmp_path, packed_by("gzip"))
    image = unpack_bzimage(packed)
    image.file.close()
    assert image.entry == image.start == 16 * MIB
    assert image.end == packed.end
    assert (image.cmdline_size, image.initrd_addr_max) == (100, 0x7FFF_FFFF)
    assert image.setup_header == packed.setup_header
    assert image.format == (
        "bzImage, boot protocol 2.15, gzip payload unpacked by the host"
    )


@pytest.mark.parametrize("kind", PACKERS)
def test_truncated_payload_is_refused(kind: str, tmp_path: Path) -> None:
    packed = packed_by(kind)
    assert f"its {kind} payload" in refusal(tmp_path, packed[:40] + SIZE)


@pytest.mark.parametrize("kind", PACKERS)
def test_payload_that_lacks_only_its_end_is_refused(kind: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, packed_by(kind)[:-8] + SIZE)
    assert message.startswith(f"its {kind} payload can't be unpacked: ")


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zstd"])
def test_payload_with_a_wrong_checksum_is_refused(kind: str, tmp_path: Path) -> None:
    packed = bytearray(packed_by(kind))
    packed[-6] ^= 0xFF
    message = refusal(tmp_path, bytes(packed))
    assert message.startswith(f"its {kind} payload can't be unpacked: ")


@pytest.mark.parametrize("kind", PACKERS)
def test_damaged_payload_is_refused(kind: str, tmp_path: Path) -> None:
    packed = bytearray(packed_by(kind))
    packed[8:40] = b"\xff" * 32
    assert f"its {kind} payload" in refusal(tmp_path, bytes(packed))


@pytest.mark.parametrize("kind", PACKERS)
def test_payload_that_grows_beyond_its_size_is_refused(
    kind: str, tmp_path: Path
) -> None:
    packed = packed_by(kind)[:-4] + (100).to_bytes(4, "little")
    assert refusal(tmp_path, packed) == (
        f"its {kind} payload unpacks to more, not 100 bytes"
    )


@pytest.mark.parametrize(("kind", "option"), [("zstd", "-1"), ("lz4", "-l")])
def test_program_that_has_much_more_to_say_is_ended(
    kind: str, option: str, tmp_path: Path
) -> None:
    packed = program(kind, option, data=bytes(4 * MIB))
    assert refusal(tmp_path, packed + SIZE) == (
        f"its {kind} payload unpacks to more, not {len(VMLINUX)} bytes"
    )


@pytest.mark.parametrize("kind", ["gzip", "xz", "lzma", "bzip2"])
def test_payload_that_says_it_grows_a_thousandfold_is_not_unpacked(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "_unpack", None)
    packed = packed_by(kind)[:-4] + (300 * MIB).to_bytes(4, "little")
    assert "is to unpack to 314572800: is it damaged?" in refusal(tmp_path, packed)


def test_payload_that_init_size_has_no_room_for_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "_unpack", None)
    packed = packed_by("gzip")[:-4] + (3 * MIB).to_bytes(4, "little")
    assert refusal(tmp_path, packed) == (
        "its gzip payload is to unpack to 3145728 bytes, and init_size has room for "
        "2097152: is it damaged?"
    )


def test_memory_is_looked_at_before_anything_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of(tmp_path, packed_by("gzip")).file.close()
    monkeypatch.setattr(payload, "_unpack", None)
    with pytest.raises(ImageError, match="memory of 17M is too small"):
        open_kernel(tmp_path / "bzImage", "pvh", ram_end=17 * MIB)


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2"])
def test_one_stream_is_unpacked_as_by_the_kernel(kind: str, tmp_path: Path) -> None:
    """Of empty ones there could be millions."""
    pack = {"gzip": gzip, "xz": lzma, "bzip2": bz2}[kind].compress
    packed = pack(b"") + pack(VMLINUX) + b"" * (kind == "gzip") + SIZE
    assert refusal(tmp_path, packed) == (
        f"its {kind} payload unpacks to 0, not {len(VMLINUX)} bytes"
    )


def test_lzma_window_larger_than_any_kernel_is_refused(tmp_path: Path) -> None:
    packed = bytearray(packed_by("lzma"))
    packed[1:5] = (1 << 31).to_bytes(4, "little")
    assert "Memory usage limit" in refusal(tmp_path, bytes(packed))


def test_payload_that_is_too_short_is_refused(tmp_path: Path) -> None:
    packed = packed_by("xz")[:-4] + (100_000).to_bytes(4, "little")
    assert refusal(tmp_path, packed) == (
        f"its xz payload unpacks to {len(VMLINUX)}, not 100000 bytes"
    )


@pytest.mark.parametrize("size", [0, payload.SIZE_MAX + 1])
def test_payload_of_an_impossible_size_is_refused(size: int, tmp_path: Path) -> None:
    packed = packed_by("xz")[:-4] + size.to_bytes(4, "little")
    assert f"is to unpack to {size}: is it damaged" in refusal(tmp_path, packed)


@pytest.mark.parametrize("length", [1, 4, 1 << 20, 0xFFFF_FFFF])
def test_payload_outside_of_the_file_is_refused(length: int, tmp_path: Path) -> None:
    message = refusal(tmp_path, packed_by("gzip"), length)
    assert f"its payload, {length} bytes at " in message


def test_a_bzimage_without_a_payload_stays_as_it_is(tmp_path: Path) -> None:
    image = image_of(tmp_path, b"code", 0)
    with image.file:
        assert unpack_bzimage(image) is image


def test_payload_that_is_no_elf_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"MZ" + VMLINUX[2:])
    assert refusal(tmp_path, packed) == "its gzip payload is no ELF kernel"


def test_payload_whose_elf_is_bad_is_refused_by_the_bzimages_name(
    tmp_path: Path,
) -> None:
    packed = gzip.compress(elf(machine=40))
    assert refusal(tmp_path, packed) == "a kernel for ARM, not for x86-64"


def test_unknown_packing_is_shown(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"unpack" + SIZE) == (
        "its payload is packed in a way we don't know (75 6e 70 61 63 6b): "
        "pass the vmlinux"
    )


def test_lzo_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"\x89LZO\0\r\n\x1a\n" + SIZE) == (
        "its payload is packed with LZO, which we don't unpack: pass the vmlinux"
    )


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_missing_decompressor_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packed_by(kind)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert refusal(tmp_path, packed) == (
        f"its payload is packed with {kind}, which is not installed: install {kind} "
        f"(Debian: apt-get install {kind}), or pass the vmlinux"
    )


def test_python_without_a_library_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packed_by("xz")
    monkeypatch.setitem(sys.modules, "lzma", None)
    message = refusal(tmp_path, packed)
    assert message.startswith("its xz payload can't be unpacked: import of lzma")


def test_host_without_room_for_it_is_told_of(tmp_path: Path) -> None:
    image = image_of(tmp_path, packed_by("gzip"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(VMLINUX) - 1, limit[1]))
    try:
        with pytest.raises(ImageError, match="File too large"):
            unpack_bzimage(image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "lzma"])
@settings(max_examples=cases(25, 1000))
@given(at=st.integers(6, 60), byte=st.integers(0, 255))
def test_no_damage_raises_another_error(
    kind: str, at: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packed = bytearray(packed_by(kind))
    packed[at] = byte
    folder = tmp_path_factory.mktemp("damaged")
    with suppress(ImageError):
        unpack_bzimage(image_of(folder, bytes(packed))).file.close()
