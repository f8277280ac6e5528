"""Payloads of bzImages, in each way that Linux packs them, and damaged."""

import bz2
import gzip
import lzma
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_images import MIB, bzimage, elf
from open_fds import open_fds

from vmm.boot import payload
from vmm.boot.image import KernelImage
from vmm.boot.kernel import open_kernel
from vmm.boot.payload import unpack_bzimage
from vmm.errors import ImageError

VMLINUX = elf()
SIZE = len(VMLINUX).to_bytes(4, "little")
AT = 48  # where in the code the payload starts


def program(name: str, *options: str) -> bytes:
    return subprocess.run(
        [name, "-c", *options], input=VMLINUX, capture_output=True, check=True
    ).stdout


PACKERS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(VMLINUX),
    "xz": lambda: lzma.compress(VMLINUX) + SIZE,
    "lzma": lambda: lzma.compress(VMLINUX, lzma.FORMAT_ALONE) + SIZE,
    "bzip2": lambda: bz2.compress(VMLINUX) + SIZE,
    "zstd": lambda: program("zstd", "-22", "--ultra") + SIZE,
    "lz4": lambda: program("lz4", "-l", "-9") + SIZE,
}


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
    return str(caught.value).removeprefix(f"kernel '{folder}/bzImage': ")


@pytest.mark.parametrize("kind", PACKERS)
def test_payload_is_the_kernel(kind: str, tmp_path: Path) -> None:
    with unpack_bzimage(image_of(tmp_path, PACKERS[kind]())).file as file:
        assert file.read(0, 1 << 20) == VMLINUX


def test_kernel_is_entered_as_elf_with_the_bzimages_limits(tmp_path: Path) -> None:
    packed = image_of(tmp_path, PACKERS["gzip"]())
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
    packed = PACKERS[kind]()
    assert f"its {kind} payload" in refusal(tmp_path, packed[:40] + SIZE)


@pytest.mark.parametrize("kind", PACKERS)
def test_damaged_payload_is_refused(kind: str, tmp_path: Path) -> None:
    packed = bytearray(PACKERS[kind]())
    packed[8:40] = b"\xff" * 32
    assert f"its {kind} payload" in refusal(tmp_path, bytes(packed))


@pytest.mark.parametrize("kind", PACKERS)
def test_payload_that_grows_beyond_its_size_is_refused(
    kind: str, tmp_path: Path
) -> None:
    packed = PACKERS[kind]()[:-4] + (100).to_bytes(4, "little")
    assert refusal(tmp_path, packed) == (
        f"its {kind} payload unpacks to more, not 100 bytes"
    )


def test_payload_that_is_too_short_is_refused(tmp_path: Path) -> None:
    packed = PACKERS["xz"]()[:-4] + (100_000).to_bytes(4, "little")
    assert refusal(tmp_path, packed) == (
        f"its xz payload unpacks to {len(VMLINUX)}, not 100000 bytes"
    )


@pytest.mark.parametrize("size", [0, payload.SIZE_MAX + 1])
def test_payload_of_an_impossible_size_is_refused(size: int, tmp_path: Path) -> None:
    packed = PACKERS["xz"]()[:-4] + size.to_bytes(4, "little")
    assert f"is to unpack to {size} bytes" in refusal(tmp_path, packed)


@pytest.mark.parametrize("length", [0, 4, 1 << 20, 0xFFFF_FFFF])
def test_payload_outside_of_the_file_is_refused(length: int, tmp_path: Path) -> None:
    message = refusal(tmp_path, PACKERS["gzip"](), length)
    assert f"its payload, {length} bytes at " in message


def test_payload_that_is_no_elf_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"MZ" + VMLINUX[2:])
    assert refusal(tmp_path, packed) == "its gzip payload is no ELF kernel"


def test_payload_whose_elf_is_bad_is_refused_by_the_bzimages_name(
    tmp_path: Path,
) -> None:
    packed = gzip.compress(elf(machine=40))
    assert refusal(tmp_path, packed) == "a kernel for ARM, not for x86-64"


def test_unknown_packing_is_shown(tmp_path: Path) -> None:
    message = refusal(tmp_path, b"\x89LZO\0\r" + SIZE)
    assert message.startswith("its payload is packed in a way we don't know (89 4c 5a")


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_missing_decompressor_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = PACKERS[kind]()
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert refusal(tmp_path, packed) == (
        f"its payload is packed with {kind}, which is not installed: install {kind} "
        f"(Debian: apt-get install {kind}), or pass the vmlinux"
    )
