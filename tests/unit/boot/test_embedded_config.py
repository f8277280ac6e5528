"""A kernel's own configuration, found in its image."""

import gzip
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vmm.boot.embedded_config import embedded_config
from vmm.boot.image import ImageFile

CONFIG = b"""\
#
# Automatically generated file; DO NOT EDIT.
#
CONFIG_PCI=y
CONFIG_VIRTIO_PCI=m
# CONFIG_VIRTIO_MMIO is not set
CONFIG_LOCALVERSION="-a=b"
CONFIG_HZ=250
"""
MIB = 1 << 20


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def image(folder: Path, stack: ExitStack, content: bytes) -> ImageFile:
    path = folder / "vmlinux"
    path.write_bytes(content)
    file = ImageFile("kernel", path)
    stack.callback(file.close)
    return file


def marked(packed: bytes) -> bytes:
    return b"IKCFG_ST" + packed + b"IKCFG_ED"


@pytest.mark.parametrize("at", [0, 1, 4 * MIB - 4, 4 * MIB, 9 * MIB + 3])
def test_options_are_found_wherever_it_is(
    tmp_path: Path, stack: ExitStack, at: int
) -> None:
    content = bytes(at) + marked(gzip.compress(CONFIG)) + bytes(100)
    assert embedded_config(image(tmp_path, stack, content)) == {
        "PCI": "y",
        "VIRTIO_PCI": "m",
        "LOCALVERSION": '"-a=b"',
        "HZ": "250",
    }


@pytest.mark.parametrize(
    "content",
    [
        bytes(100),
        b"IKCFG_S",
        b"IKCFG_ST",
        marked(b"not gzip at all"),
        marked(gzip.compress(CONFIG)[:12] + b"\xff" * 40),
    ],
    ids=["none", "half a mark", "at the end", "no gzip", "damaged"],
)
def test_a_kernel_that_does_not_say(
    tmp_path: Path, stack: ExitStack, content: bytes
) -> None:
    assert not embedded_config(image(tmp_path, stack, content))


def test_a_bomb_is_cut_off(tmp_path: Path, stack: ExitStack) -> None:
    line = b"CONFIG_A=y\n"
    packed = gzip.compress(line * (64 * MIB // len(line)))
    assert embedded_config(image(tmp_path, stack, marked(packed))) == {"A": "y"}
