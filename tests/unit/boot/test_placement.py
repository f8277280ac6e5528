"""Kernels with parts below 1 MiB: they lie wherever nothing of ours does."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.kernel_images import MIB, elf, elf32, multiboot_header, program_header
from support.kernel_images import program_header32 as header32

from vmm import MachineConfig
from vmm.boot import layout
from vmm.boot.linux import LinuxBoot
from vmm.boot.placement import Block, check_room
from vmm.errors import ImageError
from vmm.host.quirks import Quirks
from vmm.machine.builder import Boot, open_boot

Make = Callable[..., Boot]


@pytest.fixture
def make_boot(tmp_path: Path) -> Iterator[Make]:
    """A boot of a kernel with one segment at 1 MiB and one below."""
    with ExitStack() as stack:

        def make(
            protocol: str, low: int, size: int = 16, files: bytes | None = None
        ) -> Boot:
            if protocol == "linux64":
                head = [program_header(MIB, 16, 64), program_header(low, 0, size)]
                contents = elf(head, entry=MIB)
            else:
                heads = [header32(MIB, 16, 64), header32(low, 0, size)]
                rest = multiboot_header(0) + bytes(64)
                contents = elf32(heads, entry=MIB, rest=rest)
            kernel = tmp_path / "kernel"
            kernel.write_bytes(contents)
            initrd = None
            if files is not None:
                initrd = tmp_path / "initrd"
                initrd.write_bytes(files)
            config = MachineConfig(
                kernel=kernel,
                initrd=initrd,
                boot_protocol=protocol,  # type: ignore[arg-type]
                memory="64M",
                cmdline="x" * 100,
            )
            return open_boot(config, Quirks(), stack)

        yield make


PROTOCOLS = ["linux64", "linux32", "multiboot"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("low", "size"),
    [
        (0x600, 0x5A00),
        (0x7C00, 0x200),
        (0x8000, 0x1000),
        (0x10000, 0x10000),
        (0x40000, 0x40000),
        (0xA0000, 0x30000),
        (0xFF000, 0x1000),
    ],
)
def test_part_where_nothing_of_ours_lies_is_taken(
    make_boot: Make, protocol: str, low: int, size: int
) -> None:
    assert make_boot(protocol, low, size).kernel.start == low


OURS = {
    "the GDT": (layout.GDT, PROTOCOLS),
    "the page tables": (layout.PML4 + 0x5FF0, ["linux64"]),
    "the stack": (layout.BOOT_STACK, ["linux64"]),
    "the command line": (layout.CMDLINE, PROTOCOLS),
    "boot_params": (layout.BOOT_PARAMS, ["linux64", "linux32"]),
    "the loader's information": (layout.BOOT_PARAMS, ["multiboot"]),
    "the random seed": (layout.SETUP_DATA, ["linux64", "linux32"]),
}


@pytest.mark.parametrize(
    ("what", "low", "protocol"),
    [(what, low, one) for what, (low, those) in OURS.items() for one in those],
)
def test_part_over_something_of_ours_is_refused_and_both_are_named(
    make_boot: Make, what: str, low: int, protocol: str
) -> None:
    with pytest.raises(ImageError, match=f"lies over {what}, at .*: link it") as caught:
        make_boot(protocol, low)
    assert f"what it has at [{low:#x}, {low + 16:#x})" in str(caught.value)


def test_part_over_the_modules_strings_is_refused(make_boot: Make) -> None:
    low = layout.STRINGS
    assert make_boot("multiboot", low).kernel.start == low  # there are none
    with pytest.raises(ImageError, match="lies over the modules' strings"):
        make_boot("multiboot", low, files=b"m")


def test_acpi_tables_take_as_much_as_they_have(make_boot: Make) -> None:
    kernel = make_boot("multiboot", 0xFF000, 0x1000).kernel
    check_room(kernel, [Block("the ACPI tables", layout.ACPI, bytes(0x1F000))])
    with pytest.raises(ImageError, match=r"ACPI tables, at \[0xe0000, 0xff001\)"):
        check_room(kernel, [Block("the ACPI tables", layout.ACPI, bytes(0x1F001))])


@pytest.mark.parametrize("protocol", ["linux32", "multiboot"])
def test_what_goes_with_a_kernel_below_1_mib_goes_above(
    tmp_path: Path, protocol: str
) -> None:
    heads = [header32(0x8000, 16, 64, offset=84)]
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(elf32(heads, entry=0x8000, rest=multiboot_header(0) + bytes(64)))
    initrd.write_bytes(os.urandom(MIB // 2))
    config = MachineConfig(
        kernel=kernel,
        initrd=initrd,
        boot_protocol=protocol,  # type: ignore[arg-type]
        memory="2M",
    )
    with ExitStack() as stack:
        boot = open_boot(config, Quirks(), stack)
        if isinstance(boot, LinuxBoot):
            place = boot._initrd_range()
            assert place is not None
        else:
            (place,) = boot.places()
        assert place.guest_addr >= MIB
