"""Boot loader entries, as Fedora and systemd-boot have them."""

import pytest

from vmm.cloud.bls import bls_entry, default_name
from vmm.cloud.entry import BootEntry

NAMES = ["id-6.9.1.conf", "id-6.10.0.conf", "id-0-rescue.conf", "README", "x.conf~"]


def test_newest_kernel_is_the_default() -> None:
    assert default_name(NAMES, "0") == "id-6.10.0.conf"


def test_default_may_be_named() -> None:
    assert default_name(NAMES, "id-6.9.1") == "id-6.9.1.conf"
    assert default_name(NAMES, "1") == "id-6.9.1.conf"


@pytest.mark.parametrize("default", ["", "nobody", "99"])
def test_default_that_is_not_there_is_the_newest(default: str) -> None:
    assert default_name(NAMES, default) == "id-6.10.0.conf"


def test_folder_without_entries_has_no_default() -> None:
    assert default_name(["README"], "0") is None


def test_entry_has_kernel_initrds_and_options() -> None:
    text = """\
title Fedora Linux (6.10.0) 40 (Cloud Edition)
# linux /no
version 6.10.0
linux /vmlinuz-6.10.0
initrd /initramfs-6.10.0.img $tuned_initrd
initrd /more.img
options root=UUID=1 ro $kernelopts
options console=ttyS0
"""
    assert bls_entry(text, {"kernelopts": "quiet rhgb"}) == BootEntry(
        kernel="/vmlinuz-6.10.0",
        initrds=("/initramfs-6.10.0.img", "/more.img"),
        cmdline="root=UUID=1 ro quiet rhgb console=ttyS0",
    )


@pytest.mark.parametrize(
    "text", ["", "title x\nefi /x.efi\n", "linux\n", "linux $no\n"]
)
def test_entry_without_a_linux_is_none(text: str) -> None:
    assert bls_entry(text, {}) is None
