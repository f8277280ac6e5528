"""Kernel configurations and the payload of a bzImage."""

import re

import pytest
from guestbuild.errors import BuildError
from guestbuild.linux import check_settings, payload, settings
from guestbuild.workshop import GUEST_DIR


def bzimage(packed: bytes, setup_sectors: int = 2) -> bytes:
    """Return a bzImage whose payload is `packed` and the size that follows it."""
    image = bytearray((setup_sectors + 1) * 512 + 100)
    image[0x1F1] = setup_sectors
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x24C] = (100).to_bytes(4, "little")
    image[0x24C:0x250] = (len(packed) + 4).to_bytes(4, "little")
    return bytes(image) + packed + b"size" + b"what follows"


@pytest.mark.parametrize(
    ("packed", "program"),
    [
        (b"\xfd7zXZ\0rest", "xz"),
        (b"\x02\x21\x4c\x18rest", "lz4"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
    ],
)
def test_payload_is_cut_out_without_its_size(packed: bytes, program: str) -> None:
    assert payload(bzimage(packed)) == (program, packed)


def test_setup_sectors_zero_means_four() -> None:
    image = bytearray(bzimage(b"\xfd7zXZ\0rest", setup_sectors=4))
    image[0x1F1] = 0
    assert payload(bytes(image)) == ("xz", b"\xfd7zXZ\0rest")


def test_payload_of_another_file_is_refused() -> None:
    with pytest.raises(BuildError, match="no bzImage"):
        payload(b"\x7fELF" + bytes(2000))


def test_payload_packed_otherwise_is_refused_with_its_first_bytes() -> None:
    with pytest.raises(BuildError, match="unknown way: 1f8b0800"):
        payload(bzimage(b"\x1f\x8b\x08\x00rest"))


def test_settings_takes_the_last_line_of_an_option() -> None:
    lines = ["CONFIG_NET=y", "# a comment", "", "# CONFIG_NET is not set"]
    assert settings(lines) == {"CONFIG_NET": "# CONFIG_NET is not set"}


def test_option_that_kconfig_dropped_is_refused() -> None:
    wanted = settings(["CONFIG_DEVPORT=y"])
    with pytest.raises(BuildError, match="CONFIG_DEVPORT=y"):
        check_settings(wanted, {})


def test_option_that_kconfig_selected_is_refused() -> None:
    wanted = settings(["# CONFIG_DEBUG_KERNEL is not set"])
    with pytest.raises(BuildError, match="CONFIG_DEBUG_KERNEL=y"):
        check_settings(wanted, settings(["CONFIG_DEBUG_KERNEL=y"]))


def test_option_that_does_not_exist_counts_as_not_set() -> None:
    check_settings(settings(["# CONFIG_GONE is not set"]), {})


@pytest.mark.parametrize(
    "name", ["tiny.config", "full.config", "ring3.config", "full-ring3.config"]
)
def test_fragment_has_only_options_and_comments(name: str) -> None:
    lines = (GUEST_DIR / "linux" / name).read_text().splitlines()
    odd = [
        line for line in lines if not re.fullmatch(r"(#( .*)?|CONFIG_\w+=\S+|)", line)
    ]
    assert odd == []


@pytest.mark.parametrize(
    "name", ["tiny.config", "full.config", "ring3.config", "full-ring3.config"]
)
def test_fragment_sets_no_option_twice(name: str) -> None:
    lines = (GUEST_DIR / "linux" / name).read_text().splitlines()
    options = [option for line in lines for option in settings([line])]
    assert len(options) == len(set(options))
