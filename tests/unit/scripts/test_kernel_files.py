"""What the software machine takes out of a kernel package."""

from __future__ import annotations

import gzip
import lzma
import struct
from typing import TYPE_CHECKING

import pytest

from scripts.with_kvm.kernel_files import depends, loading_order, vmlinux

if TYPE_CHECKING:
    from pathlib import Path

ELF = b"\x7fELF" + bytes(range(200))


def bzimage(payload: bytes) -> bytes:
    """Return an image with one setup sector after the boot sector."""
    image = bytearray(1024 + 16)
    image[0x1F1] = 1
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + payload + b"tail"


def test_xz_payload_with_its_size_behind_it_is_unpacked() -> None:
    payload = lzma.compress(ELF) + struct.pack("<I", len(ELF))
    assert vmlinux(bzimage(payload)) == ELF


def test_gzip_payload_whose_size_is_its_own_trailer_is_unpacked() -> None:
    assert vmlinux(bzimage(gzip.compress(ELF))) == ELF


def test_unknown_payload_leaves_the_bzimage() -> None:
    image = bzimage(b"\x28\xb5\x2f\xfd zstd")
    assert vmlinux(image) == image


def test_modinfo_depends_are_read() -> None:
    assert depends(b"\0license=GPL\0depends=kvm,ccp\0name=kvm_amd\0") == ["kvm", "ccp"]


def test_module_that_needs_none_depends_on_none() -> None:
    assert depends(b"\0license=GPL\0depends=\0name=kvm\0") == []


def test_loading_order_puts_needs_first_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "kvm-amd.ko").write_bytes(b"\0depends=kvm,ccp\0")
    (tmp_path / "kvm.ko").write_bytes(b"\0depends=irqbypass\0")
    (tmp_path / "ccp.ko").write_bytes(b"\0depends=\0")
    (tmp_path / "irqbypass.ko.xz").write_bytes(lzma.compress(b"\0depends=\0"))
    order = [path.name for path in loading_order(tmp_path, ["kvm_amd", "kvm"])]
    assert order == ["irqbypass.ko", "kvm.ko", "ccp.ko", "kvm-amd.ko"]


def test_module_that_the_package_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="kvm_amd"):
        loading_order(tmp_path, ["kvm-amd"])
