"""Symbols: names of functions, from System.map and from ELF."""

import os
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lengths import cases

from vmm.debug.symbols import Symbols, symbols_of
from vmm.errors import ConfigError

BASE = 0xFFFF_FFFF_8100_0000
SYSTEM_MAP = f"""\
0000000000000000 D fixed_percpu_data
{BASE:016x} T _text
{BASE + 0x100:016x} T panic
{BASE + 0x100:016x} D alias_in_data
{BASE + 0x180:016x} t local.part.0
{BASE + 0x200:016x} D some_data
{BASE + 0x300:016x} T entry_SYSCALL_64
"""


def elf(*symbols: tuple[str, int, int]) -> bytes:
    """A 64-bit ELF file with a code and a data section; name, section, address."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in symbols)
    table = bytes(24)
    for name, section, address in symbols:
        at = names.index(name.encode() + b"\0")
        table += struct.pack("<IBBHQQ", at, 0, 0, section, address, 0)
    start = 64 + 5 * 64
    sections = [
        (0, 0, 0, 0, 0),  # null
        (1, 0x6, 0, 0, 0),  # code: SHF_ALLOC | SHF_EXECINSTR
        (1, 0x3, 0, 0, 0),  # data: SHF_WRITE | SHF_ALLOC
        (2, 0, start, len(table), 4),  # SHT_SYMTAB
        (3, 0, start + len(table), len(names), 0),  # SHT_STRTAB
    ]
    header = b"\x7fELF\x02\x01\x01".ljust(40, b"\0") + struct.pack("<Q", 64)
    header += struct.pack("<IHHHHHH", 0, 64, 0, 0, 64, len(sections), 0)
    for kind, flags, offset, size, link in sections:
        header += struct.pack(
            "<IIQQQQIIQQ", 0, kind, flags, 0, offset, size, link, 0, 0, 0
        )
    return header + table + names


@pytest.fixture
def system_map(tmp_path: Path) -> Path:
    path = tmp_path / "System.map-6.1"
    path.write_text(SYSTEM_MAP)
    return path


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (BASE, "_text+0x0/0x100"),
        (BASE + 0xFF, "_text+0xff/0x100"),
        (BASE + 0x100, "panic+0x0/0x80"),
        (BASE + 0x190, "local.part.0+0x10/0x80"),
        (BASE + 0x200, None),  # data
        (BASE + 0x310, "entry_SYSCALL_64+0x10"),  # the last, of unknown size
        (BASE + 0x300 + (1 << 20), None),
        (BASE - 1, None),
        (0x10, None),  # a small number is no per-CPU variable
    ],
)
def test_an_address_is_named_by_its_function(
    system_map: Path, address: int, name: str | None
) -> None:
    assert Symbols.load(system_map).find(address) == name


def test_no_symbol_lies_below_the_first(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text("0000000000001000 T start\n")
    assert Symbols.load(path).find(0xFFF) is None


def test_lstar_tells_how_far_kaslr_has_moved_the_kernel(system_map: Path) -> None:
    symbols = Symbols.load(system_map)
    symbols.slide_to(BASE + 0x300 + 0x1C0_0000)
    assert symbols.find(BASE + 0x1C0_0110) == "panic+0x10/0x80"


@pytest.mark.parametrize("lstar", [0, BASE + 0x300, BASE + 0x301, BASE - (1 << 21)])
def test_lstar_that_says_nothing_changes_nothing(system_map: Path, lstar: int) -> None:
    symbols = Symbols.load(system_map)
    symbols.slide_to(lstar)
    assert symbols.find(BASE) == "_text+0x0/0x100"


def test_elf_symbols_of_code_are_found_and_others_bound_them(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(
        elf(("main", 1, 0x1000), ("data", 2, 0x1040), ("absent", 0, 0x1020))
    )
    symbols = Symbols.load(path)
    assert symbols.find(0x1030) == "main+0x30/0x40"
    assert symbols.find(0x1050) is None


BAD = {
    "neither": (b"buy milk\n", "neither a System.map nor an ELF file: 'buy milk'"),
    "binary": (b"\x00\xff" * 100, "neither a System.map nor an ELF file"),
    "address": (b"xyz T main\n", "neither a System.map nor an ELF file: 'xyz T main'"),
    "empty": (b"", "is empty"),
    "short": (b"\x7fELF\x02", "not a 64-bit ELF file"),
    "32-bit": (b"\x7fELF\x01".ljust(64, b"\0"), "not a 64-bit ELF file"),
    "no headers": (b"\x7fELF\x02".ljust(64, b"\0"), "no usable section headers"),
    "stripped": (elf()[:128].replace(b"\x05\0\0\0", b"\x01\0\0\0"), "was stripped"),
    "cut": (elf(("main", 1, 0))[:200], "no usable section headers"),
    "cut names": (elf(("main", 1, 0))[:-2], "was cut"),
    "cut symbols": (elf(("main", 1, 0))[:-7], "was cut"),
    "cut between symbols": (elf(("main", 1, 0))[: -6 - 24], "was cut"),
    "within a line": (b"0000000000001000 T", "neither a System.map"),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD.keys())
def test_what_has_no_symbols_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^symbols '.*/file': .*{words}"):
        Symbols.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^symbols '.*/none': no such file"):
        Symbols.load(tmp_path / "none")


def wide_elf(count: int, names: bytes, table_size: int | None = None) -> bytes:
    """An ELF file of `count` symbols at 0x1000, whose names all begin at `names`[1]."""
    table = struct.pack("<IBBHQQ", 1, 2, 0, 1, 0x1000, 16) * count
    image = bytearray(elf())
    start = len(image)
    size = len(table) if table_size is None else table_size
    struct.pack_into("<QQ", image, 64 + 3 * 64 + 24, start, size)
    struct.pack_into("<QQ", image, 64 + 4 * 64 + 24, start + len(table), len(names))
    return bytes(image) + table + names


def loaded(path: Path) -> tuple[Symbols, int]:
    """The symbols of a file, and how many bytes of memory were in use for them."""
    tracemalloc.start()
    try:
        symbols = Symbols.load(path)
        return symbols, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_names_that_overlap_take_no_more_memory_than_their_file(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(wide_elf(5_000, b"A" * 200_000))
    symbols, peak = loaded(path)
    assert peak < 10 * path.stat().st_size
    assert symbols.find(0x1000) == "A" * 512 + "+0x0"


def test_a_map_takes_memory_in_proportion_to_it(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_bytes(b"1 T a\n" * 50_000)
    symbols, peak = loaded(path)
    assert peak < 15 * path.stat().st_size
    assert symbols.find(1) == "a+0x0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"its text: 1099511627776 bytes are more than"),
        (wide_elf(1, b"\0a\0", 1 << 40), r"has 45812984490 symbols, more than 2000000"),
        (wide_elf(1, b"\0a\0", 1 << 25), "not a 64-bit"),
    ],
    ids=["map", "ELF", "no ELF"],
)
def test_parts_of_a_sparse_terabyte_are_not_read(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(data.replace(b"F\x02", b"F\x01") if "not" in words else data)
    os.truncate(path, 1 << 40)
    with pytest.raises(ConfigError, match=words):
        Symbols.load(path)


@settings(max_examples=cases(100, 5000), deadline=None)
@given(at=st.integers(0, 64 + 5 * 64 + 60), patch=st.binary(min_size=1, max_size=8))
def test_damage_raises_no_other_error(
    at: int, patch: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = bytearray(elf(("main", 1, 0x1000), ("data", 2, 0x1040)))
    image[at : at + len(patch)] = patch
    path = tmp_path_factory.mktemp("damaged") / "vmlinux"
    path.write_bytes(image)
    with suppress(ConfigError):
        Symbols.load(path).find(0x1000)


def test_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "System.map")
    with pytest.raises(ConfigError, match="is a pipe, not a file"):
        Symbols.load(tmp_path / "System.map")
    assert symbols_of(tmp_path / "vmlinux") is None


@pytest.mark.parametrize("cut", range(len(SYSTEM_MAP) + 1))
def test_a_system_map_that_was_cut_has_what_is_whole(tmp_path: Path, cut: int) -> None:
    """Or it has no symbols, and says so."""
    path = tmp_path / "map"
    path.write_text(SYSTEM_MAP[:cut])
    if cut > SYSTEM_MAP.index(" panic\n") + 6:
        assert str(Symbols.load(path).find(BASE + 0x100)).startswith("panic+0x0")
        return
    with suppress(ConfigError):
        assert Symbols.load(path).find(BASE) in ("_text+0x0", None)


def test_no_cut_of_an_elf_file_is_more_than_a_bad_file(tmp_path: Path) -> None:
    whole = elf(("main", 1, 0x1000))
    path = tmp_path / "vmlinux"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError):
            Symbols.load(path)


# Found without asking


def test_system_map_of_the_same_version_stands_beside(system_map: Path) -> None:
    symbols = symbols_of(system_map.with_name("vmlinuz-6.1"))
    assert symbols is not None
    assert symbols.find(BASE) == "_text+0x0/0x100"


def test_system_map_of_another_version_is_not_taken(system_map: Path) -> None:
    assert symbols_of(system_map.with_name("vmlinuz-6.2")) is None


def test_a_kernel_has_its_own(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(("main", 1, 0x1000)))
    symbols = symbols_of(path)
    assert symbols is not None
    assert symbols.find(0x1000) == "main+0x0"
