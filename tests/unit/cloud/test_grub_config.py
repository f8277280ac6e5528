"""grub.cfg: which entry GRUB would boot, with which files and words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.cloud.entry import BootEntry, read_environment
from vmm.cloud.grub import GrubConfig

# As Debian 12's grub-mkconfig writes it, shortened.
DEBIAN = """\
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
function gfxmode {
	set gfxpayload="${1}"
}
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'simple' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	search --no-floppy --fs-uuid --set=root 11111111-2222
	echo	'Loading Linux 6.1.0-57-cloud-amd64 ...'
	linux	/boot/vmlinuz-2 root=/dev/vda1 ro console=tty0 console=ttyS0,115200
	initrd	/boot/initrd.img-2
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'advanced' {
	menuentry 'Debian GNU/Linux, with Linux 2' --class os $menuentry_id_option 'two' {
		linux	/boot/vmlinuz-2 root=/dev/vda1 ro
		initrd	/boot/initrd.img-2
	}
	menuentry 'Debian GNU/Linux, with Linux 1' --class os --id one {
		linux	/boot/vmlinuz-1 root=/dev/vda1 ro single
		initrd	/boot/early.cpio /boot/initrd.img-1
	}
}
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
	fwsetup
}
"""
TWO = BootEntry(
    kernel="/boot/vmlinuz-2",
    initrds=("/boot/initrd.img-2",),
    cmdline="root=/dev/vda1 ro console=tty0 console=ttyS0,115200",
)


def with_default(value: str) -> BootEntry | None:
    return GrubConfig(DEBIAN.replace('"0"', f'"{value}"'), {}).entry()


def test_first_entry_is_booted_with_its_own_words() -> None:
    assert GrubConfig(DEBIAN, {}).entry() == TWO


@pytest.mark.parametrize(
    "default",
    ["1>1", "1>one", "advanced>Debian GNU/Linux, with Linux 1", "advanced>one"],
)
def test_default_is_found_by_number_title_and_id(default: str) -> None:
    entry = with_default(default)
    assert entry is not None
    assert entry.kernel == "/boot/vmlinuz-1"
    assert entry.initrds == ("/boot/early.cpio", "/boot/initrd.img-1")
    assert entry.cmdline == "root=/dev/vda1 ro single"


@pytest.mark.parametrize("default", ["2", "uefi-firmware", "7", "nobody", ">", "1>>"])
def test_default_that_boots_no_linux_is_the_first_that_does(default: str) -> None:
    entry = with_default(default)
    assert entry is not None
    assert entry.kernel == "/boot/vmlinuz-2"


def test_default_of_a_submenu_is_its_first_entry() -> None:
    entry = with_default("advanced")
    assert entry is not None
    assert entry.cmdline == "root=/dev/vda1 ro"


def test_saved_entry_comes_from_grubenv() -> None:
    environment = read_environment(
        "# GRUB Environment Block\nsaved_entry=advanced>one\n#########"
    )
    entry = GrubConfig(DEBIAN.replace('"0"', '"${saved_entry}"'), environment).entry()
    assert entry is not None
    assert entry.kernel == "/boot/vmlinuz-1"


def test_variables_are_what_was_set_or_nothing() -> None:
    text = """\
set opts="ro quiet"
menuentry x {
linux ($root)/vmlinuz root=UUID=1 $opts ${unknown} last
initrd $tuned_initrd ($root)/initrd
}
"""
    assert GrubConfig(text, {}).entry() == BootEntry(
        kernel="/vmlinuz", initrds=("/initrd",), cmdline="root=UUID=1 ro quiet last"
    )


def test_line_that_goes_on_is_one() -> None:
    text = "menuentry x {\nlinux /k a \\\n  b\n}\n"
    entry = GrubConfig(text, {}).entry()
    assert entry is not None
    assert entry.cmdline == "a b"


@pytest.mark.parametrize(
    "text",
    ["", "menuentry x {\n}\n", "menuentry x {\nchainloader /efi\n}\n", "linux /k\n"],
)
def test_menu_without_a_linux_has_no_entry(text: str) -> None:
    assert GrubConfig(text, {}).entry() is None


def test_blscfg_says_that_entries_are_elsewhere() -> None:
    assert GrubConfig("insmod blscfg\nblscfg\n", {}).uses_bls
    assert not GrubConfig(DEBIAN, {}).uses_bls


WORDS = st.sampled_from(
    [
        *("menuentry", "submenu", "x", "{", "}", "linux", "/k", "'", '"', "set"),
        *("a=$b", "default=0>0", "--id", "initrd", "\\", "$", "${", "#", ";"),
    ]
)


@given(st.lists(st.lists(WORDS, max_size=6).map(" ".join)).map("\n".join))
def test_no_text_makes_it_raise(text: str) -> None:
    """Images are foreign."""
    entry = GrubConfig(text, {}).entry()
    assert entry is None or entry.kernel.startswith("/")


def test_submenus_without_end_are_no_recursion() -> None:
    text = "submenu x {\n" * 100_000
    assert GrubConfig(text, {}).entry() is None
