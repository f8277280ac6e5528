"""LinuxBoot: what lies in RAM when the kernel is entered, and what doesn't fit."""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.kernel_images import MIB, bzimage, elf, program_header

from vmm.boot import layout
from vmm.boot.image import ImageFile
from vmm.boot.kernel import open_kernel
from vmm.boot.layout import BOOT_PARAMS, CMDLINE, GIB, PAGE_SIZE, ram_ranges
from vmm.boot.linux import LinuxBoot
from vmm.errors import ConfigError, ImageError, VmmError
from vmm.memory import GuestMemory

Make = Callable[..., LinuxBoot]
Load = Callable[[LinuxBoot], GuestMemory]


@pytest.fixture
def make_boot(tmp_path: Path) -> Iterator[Make]:
    """A LinuxBoot of these file contents, with what a test doesn't care about."""
    with ExitStack() as stack:

        def make(
            kernel: bytes = bzimage(),
            initrd: bytes | None = None,
            cmdline: bytes = b"console=ttyS0",
            memory_size: int = 64 * MIB,
            added: bytes = b"",
            acpi: bool = False,
        ) -> LinuxBoot:
            (tmp_path / "vmlinuz").write_bytes(kernel)
            image = open_kernel(tmp_path / "vmlinuz")
            stack.callback(image.file.close)
            initrd_file = None
            if initrd is not None:
                (tmp_path / "initrd").write_bytes(initrd)
                initrd_file = ImageFile("initrd", tmp_path / "initrd")
                stack.callback(initrd_file.close)
            ram = ram_ranges(memory_size)
            return LinuxBoot(image, initrd_file, cmdline, ram, 1, added, acpi)

        yield make


@pytest.fixture
def load() -> Iterator[Load]:
    """Loads a boot into RAM of its size."""
    with ExitStack() as stack:

        def load_it(boot: LinuxBoot) -> GuestMemory:
            memory = GuestMemory(boot.ram)
            stack.callback(memory.close)
            boot.load(memory)
            return memory

        yield load_it


def u32(memory: GuestMemory, address: int) -> int:
    value: int = struct.unpack("<I", memory.read(address, 4))[0]
    return value


def e820(memory: GuestMemory) -> list[tuple[int, int, int]]:
    count = memory.read(BOOT_PARAMS + 0x1E8, 1)[0]
    table = memory.read(BOOT_PARAMS + 0x2D0, 20 * count)
    return list(struct.iter_unpack("<QQI", table))


def suggested_memory(error: BaseException) -> int:
    """Bytes of the --memory that the message advises."""
    match = re.search(r"--memory (\d+)M", str(error))
    assert match is not None
    return int(match[1]) * MIB


# What is loaded


def test_kernel_code_is_at_its_address(make_boot: Make, load: Load) -> None:
    memory = load(make_boot(bzimage(b"\xaa" * 4096, pref_address=16 * MIB)))
    assert memory.read(16 * MIB, 4097) == b"\xaa" * 4096 + b"\0"


def test_elf_segment_is_at_its_address(make_boot: Make, load: Load) -> None:
    kernel = elf([program_header(20 * MIB, 4, 8192, offset=120)], entry=20 * MIB)
    memory = load(make_boot(kernel))
    assert memory.read(20 * MIB, 5) == b"\xf4" * 4 + b"\0"


def test_entry_is_the_kernels(make_boot: Make, load: Load) -> None:
    boot = make_boot(bzimage(pref_address=16 * MIB))
    assert boot.load(load(boot)) == 16 * MIB + 0x200


def test_it_can_be_loaded_again_after_discard(make_boot: Make, load: Load) -> None:
    boot = make_boot(initrd=b"initrd")
    memory = load(boot)
    before = memory.read(16 * MIB, 4096), memory.read(CMDLINE, 64)
    memory.clear()
    boot.load(memory)
    assert (memory.read(16 * MIB, 4096), memory.read(CMDLINE, 64)) == before


def test_setup_header_is_in_boot_params(make_boot: Make, load: Load) -> None:
    kernel = bzimage(init_size=3 * MIB)
    memory = load(make_boot(kernel))
    page = memory.read(BOOT_PARAMS, 4096)
    assert page[0x230:0x250] == kernel[0x230:0x250]
    assert page[0x258:0x26C] == kernel[0x258:0x26C]


@pytest.mark.parametrize(("acpi", "rsdp"), [(True, layout.ACPI), (False, 0)])
def test_boot_params_point_at_the_acpi_tables_if_there_are_any(
    make_boot: Make, load: Load, acpi: bool, rsdp: int
) -> None:
    memory = load(make_boot(acpi=acpi))
    assert struct.unpack("<Q", memory.read(BOOT_PARAMS + 0x70, 8)) == (rsdp,)


def test_the_memory_map_reserves_the_acpi_tables(make_boot: Make, load: Load) -> None:
    start, end = layout.ACPI, layout.ACPI + layout.ACPI_SIZE
    assert [
        kind
        for base, size, kind in e820(load(make_boot(acpi=True)))
        if base < end and start < base + size
    ] == [2]


def test_nothing_of_the_setup_code_is_in_boot_params(
    make_boot: Make, load: Load
) -> None:
    kernel = bytearray(bzimage())
    kernel[0:0x1F1] = b"\xcc" * 0x1F1
    kernel[0x202 + 0x6A : 0x290] = b"\xcc" * (0x290 - 0x26C)
    memory = load(make_boot(bytes(kernel)))
    assert b"\xcc" not in memory.read(BOOT_PARAMS, 4096)


def test_elf_gets_the_header_fields_that_the_kernel_checks(
    make_boot: Make, load: Load
) -> None:
    memory = load(make_boot(elf()))
    assert memory.read(BOOT_PARAMS + 0x1FE, 2) == b"\x55\xaa"
    assert memory.read(BOOT_PARAMS + 0x202, 4) == b"HdrS"


def test_loader_is_an_undefined_one_without_heap(make_boot: Make, load: Load) -> None:
    memory = load(make_boot(bzimage(loadflags=0x81)))
    assert memory.read(BOOT_PARAMS + 0x210, 2) == b"\xff\x01"


def test_command_line_ends_in_nul(make_boot: Make, load: Load) -> None:
    memory = load(make_boot(cmdline=b"quiet"))
    assert u32(memory, BOOT_PARAMS + 0x228) == CMDLINE
    assert memory.read(CMDLINE, 6) == b"quiet\0"


def test_random_seed_differs_each_time(make_boot: Make, load: Load) -> None:
    boot = make_boot()
    seeds = [load(boot).read(layout.SETUP_DATA, 48) for _ in range(2)]
    header = struct.pack("<QII", 0, 9, 32)  # no next node, SETUP_RNG_SEED
    assert [seed[:16] for seed in seeds] == [header, header]
    assert seeds[0][16:] != seeds[1][16:]


def test_boot_params_point_at_the_seed(make_boot: Make, load: Load) -> None:
    memory = load(make_boot())
    assert u32(memory, BOOT_PARAMS + 0x250) == layout.SETUP_DATA


def test_the_seed_splits_no_ram(make_boot: Make, load: Load) -> None:
    """Linux makes an entry of its map of what it finds within RAM."""
    kinds = [
        kind
        for base, size, kind in e820(load(make_boot()))
        if base <= layout.SETUP_DATA < base + size
    ]
    assert kinds == [2]


# The memory map


def test_memory_map_has_base_memory_hole_and_the_rest(
    make_boot: Make, load: Load
) -> None:
    assert e820(load(make_boot(memory_size=64 * MIB))) == [
        (0x1000, 0x9EC00, 1),  # without the BIOS data area
        (0x9FC00, 0x60400, 2),
        (MIB, 63 * MIB, 1),
    ]


def test_memory_above_3_5_gib_goes_on_at_4_gib(make_boot: Make, load: Load) -> None:
    memory = load(make_boot(memory_size=5 * GIB))
    assert e820(memory)[2:] == [
        (MIB, 0xE000_0000 - MIB, 1),
        (4 * GIB, 5 * GIB - 0xE000_0000, 1),
    ]


def test_exactly_3_5_gib_stays_below_the_hole(make_boot: Make, load: Load) -> None:
    memory = load(make_boot(memory_size=0xE000_0000))
    assert e820(memory)[2:] == [(MIB, 0xE000_0000 - MIB, 1)]


# The initrd


def initrd_of(memory: GuestMemory) -> tuple[int, int]:
    return u32(memory, BOOT_PARAMS + 0x218), u32(memory, BOOT_PARAMS + 0x21C)


def test_initrd_is_page_aligned_at_the_top_of_memory(
    make_boot: Make, load: Load
) -> None:
    memory = load(make_boot(initrd=b"R" * 5000))
    assert initrd_of(memory) == (64 * MIB - 2 * PAGE_SIZE, 5000)
    assert memory.read(64 * MIB - 2 * PAGE_SIZE, 5001) == b"R" * 5000 + b"\0"


def test_initrd_stays_below_initrd_addr_max(make_boot: Make, load: Load) -> None:
    kernel = bzimage(initrd_addr_max=0x01FF_FFFF)
    memory = load(make_boot(kernel, initrd=b"R" * PAGE_SIZE))
    assert initrd_of(memory) == (32 * MIB - PAGE_SIZE, PAGE_SIZE)


def test_initrd_stays_below_the_hole(make_boot: Make, load: Load) -> None:
    kernel = bzimage(initrd_addr_max=0xFFFF_FFFF)
    memory = load(make_boot(kernel, initrd=b"R", memory_size=5 * GIB))
    assert initrd_of(memory) == (0xE000_0000 - PAGE_SIZE, 1)


def test_without_initrd_its_fields_are_zero(make_boot: Make, load: Load) -> None:
    assert initrd_of(load(make_boot())) == (0, 0)


@pytest.mark.parametrize(("size", "zeros"), [(5, 7), (6, 6), (7, 5), (8, 4)])
def test_added_files_follow_the_initrd_at_a_multiple_of_four_after_four_zeros(
    make_boot: Make, load: Load, size: int, zeros: int
) -> None:
    memory = load(make_boot(initrd=b"R" * size, added=b"A" * 8))
    start, whole = initrd_of(memory)
    assert (start, whole) == (64 * MIB - PAGE_SIZE, size + zeros + 8)
    expected = b"R" * size + b"\0" * zeros + b"A" * 8 + b"\0"
    assert memory.read(start, whole + 1) == expected


def test_added_files_alone_are_the_initrd(make_boot: Make, load: Load) -> None:
    memory = load(make_boot(added=b"A" * 8))
    assert initrd_of(memory) == (64 * MIB - PAGE_SIZE, 8)
    assert memory.read(64 * MIB - PAGE_SIZE, 9) == b"A" * 8 + b"\0"


def test_added_files_are_loaded_again_after_discard(
    make_boot: Make, load: Load
) -> None:
    boot = make_boot(initrd=b"R" * 4, added=b"A" * 4)
    memory = load(boot)
    memory.clear()
    boot.load(memory)
    assert memory.read(64 * MIB - PAGE_SIZE, 12) == b"RRRR\0\0\0\0AAAA"


# What doesn't fit


def test_too_little_memory_says_how_much_is_needed(make_boot: Make) -> None:
    kernel = bzimage(pref_address=16 * MIB, init_size=20 * MIB)
    with pytest.raises(ImageError, match="needs at least 36M to start") as caught:
        make_boot(kernel, memory_size=32 * MIB)
    make_boot(kernel, memory_size=suggested_memory(caught.value))


def test_kernel_fits_in_exactly_what_it_needs(make_boot: Make) -> None:
    kernel = bzimage(pref_address=16 * MIB, init_size=20 * MIB)
    make_boot(kernel, memory_size=36 * MIB)


def test_kernel_above_the_hole_is_told_no_memory_helps(make_boot: Make) -> None:
    kernel = elf([program_header(4 * GIB, 1, 1)], entry=4 * GIB)
    with pytest.raises(ImageError, match="linked to lower physical addresses"):
        make_boot(kernel, memory_size=8 * GIB)


def test_too_large_initrd_says_how_much_is_needed(make_boot: Make) -> None:
    initrd = bytes(15 * MIB)
    with pytest.raises(ImageError, match=r"initrd .*15 MiB don't fit") as caught:
        make_boot(initrd=initrd, memory_size=32 * MIB)
    make_boot(initrd=initrd, memory_size=suggested_memory(caught.value))


def test_too_large_added_files_say_how_much_is_needed(make_boot: Make) -> None:
    added = bytes(15 * MIB)
    with pytest.raises(ConfigError, match=r"files: .*15 MiB don't fit") as caught:
        make_boot(added=added, memory_size=32 * MIB)
    make_boot(added=added, memory_size=suggested_memory(caught.value))


def test_too_large_added_files_are_told_from_the_initrd(make_boot: Make) -> None:
    with pytest.raises(
        ImageError, match=r"initrd .*with 15728640 bytes of files added"
    ):
        make_boot(initrd=b"R", added=bytes(15 * MIB), memory_size=32 * MIB)


def test_initrd_above_the_kernels_limit_is_told_no_memory_helps(
    make_boot: Make,
) -> None:
    kernel = bzimage(initrd_addr_max=20 * MIB - 1)
    with pytest.raises(ImageError, match="whatever the memory"):
        make_boot(kernel, initrd=bytes(3 * MIB), memory_size=64 * MIB)


def test_command_line_as_long_as_the_kernel_takes(make_boot: Make) -> None:
    make_boot(bzimage(cmdline_size=100), cmdline=b"x" * 100)


def test_longer_command_line_names_both_lengths(make_boot: Make) -> None:
    with pytest.raises(ConfigError, match="cmdline: 101 bytes are more than the 100"):
        make_boot(bzimage(cmdline_size=100), cmdline=b"x" * 101)


def test_command_line_stays_within_its_place(make_boot: Make) -> None:
    kernel = bzimage(cmdline_size=1 << 20)
    with pytest.raises(ConfigError, match="more than the 65535"):
        make_boot(kernel, cmdline=b"x" * 0x10000)


def test_elf_takes_2047_bytes_of_command_line(make_boot: Make) -> None:
    with pytest.raises(ConfigError, match="2048 bytes are more than the 2047"):
        make_boot(elf(), cmdline=b"x" * 2048)


def test_nul_in_the_command_line_is_refused(make_boot: Make) -> None:
    with pytest.raises(ConfigError, match="cmdline: has a NUL byte"):
        make_boot(cmdline=b"quiet\0panic=1")


def test_file_that_shrank_since_is_an_error(make_boot: Make, load: Load) -> None:
    boot = make_boot(initrd=b"R" * 100)
    assert boot.initrd is not None
    Path(boot.initrd.path).write_bytes(b"R")
    with pytest.raises(VmmError, match="ended 99 bytes early"):
        load(boot)


# The 32-bit protocol


def test_32_bit_kernel_is_entered_at_its_start_without_page_tables(
    make_boot: Make, load: Load
) -> None:
    boot = make_boot(bzimage(xloadflags=4))
    memory = load(boot)
    assert boot.kernel.entry == 16 * MIB
    assert memory.read(layout.PML4, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert memory.read(layout.GDT + 16, 8) == bytes.fromhex("ffff0000009bcf00")
