"""PVH and multiboot: what lies in RAM and in the registers at the kernel's entry."""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.kernel_images import MIB, elf, flat, pvh_elf, xen_note

from vmm.boot.layout import ACPI, BOOT_PARAMS, PAGE_SIZE
from vmm.boot.modules import ModuleBoot
from vmm.cli import main as cli
from vmm.config import MachineConfig
from vmm.errors import ConfigError
from vmm.host.quirks import Quirks
from vmm.machine.builder import Boot, open_boot
from vmm.memory import GuestMemory

PVH = pvh_elf(xen_note((16 * MIB).to_bytes(4, "little")))
END = {PVH: 16 * MIB + 8192, flat(): MIB + PAGE_SIZE}

Make = Callable[..., Boot]
Load = Callable[[Boot], GuestMemory]


@pytest.fixture
def make_boot(tmp_path: Path) -> Iterator[Make]:
    """A boot of a kernel with these contents, and of any settings."""
    with ExitStack() as stack:

        def make(kernel: bytes, **settings: object) -> Boot:
            (tmp_path / "kernel").write_bytes(kernel)
            settings = {"memory": "64M", "cmdline": "a b"} | settings
            config = MachineConfig(kernel=tmp_path / "kernel", **settings)  # type: ignore[arg-type]
            return open_boot(config, Quirks(), stack)

        yield make


@pytest.fixture
def load() -> Iterator[Load]:
    """Loads a boot into RAM of its size."""
    with ExitStack() as stack:

        def load_it(boot: Boot) -> GuestMemory:
            memory = GuestMemory(boot.ram)
            stack.callback(memory.close)
            boot.load(memory)
            return memory

        yield load_it


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Two modules: of 3 bytes, and of a page and a byte."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"111")
    two.write_bytes(b"2" * (PAGE_SIZE + 1))
    return str(one), str(two)


def words(memory: GuestMemory, at: int, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, memory.read(at, struct.calcsize(layout)))


def text(memory: GuestMemory, at: int) -> str:
    return memory.read(at, 4096).split(b"\0")[0].decode()


MAP = [(0x1000, 0x9EC00, 1), (0x9FC00, 0x60400, 2), (MIB, 63 * MIB, 1)]

# PVH (arch-x86/hvm/start_info.h)


def test_pvh_start_info_has_command_line_map_and_modules(
    make_boot: Make, load: Load, files: tuple[str, str]
) -> None:
    one, two = files
    memory = load(make_boot(PVH, initrd=one, modules=[f"{two} x y"]))
    magic, version, flags, count, modlist, cmdline, rsdp, memmap, entries, _ = words(
        memory, BOOT_PARAMS, "<IIIIQQQQII"
    )
    assert (magic, version, flags, count, rsdp) == (0x336EC578, 1, 0, 2, ACPI)
    assert text(memory, cmdline) == "a b"
    table = struct.iter_unpack("<QQII", memory.read(memmap, 24 * entries))
    assert [entry[:3] for entry in table] == MAP
    first, second = (words(memory, modlist + at, "<QQQQ") for at in (0, 32))
    assert memory.read(first[0], first[1]) == b"111"
    assert memory.read(second[0], second[1]) == b"2" * (PAGE_SIZE + 1)
    assert [text(memory, item[2]) for item in (first, second)] == [one, f"{two} x y"]


def test_pvh_without_acpi_has_no_rsdp(make_boot: Make, load: Load) -> None:
    memory = load(make_boot(PVH, acpi=False))
    assert words(memory, BOOT_PARAMS + 32, "<Q") == (0,)


def test_pvh_without_modules_has_no_list(make_boot: Make, load: Load) -> None:
    memory = load(make_boot(PVH))
    assert words(memory, BOOT_PARAMS + 12, "<IQ") == (0, 0)


def test_pvh_is_entered_with_ebx_at_its_start_info(make_boot: Make) -> None:
    boot = make_boot(PVH)
    assert isinstance(boot, ModuleBoot)
    assert boot.registers().rbx == BOOT_PARAMS


# Multiboot (Multiboot Specification 0.6.96, section 3.3)


def test_multiboot_information_is_complete(
    make_boot: Make, load: Load, files: tuple[str, str], tmp_path: Path
) -> None:
    one, two = files
    memory = load(make_boot(flat(), initrd=one, modules=[f"{two} x y"]))
    flags, lower, upper, _, cmdline, count, mods = words(memory, BOOT_PARAMS, "<7I")
    assert flags == 0x24D  # memory, cmdline, mods, map, loader name
    assert (lower, upper, count) == (639, 63 * 1024, 2)
    assert text(memory, cmdline) == f"{tmp_path}/kernel a b"
    length, at = words(memory, BOOT_PARAMS + 44, "<II")
    table = list(struct.iter_unpack("<IQQI", memory.read(at, length)))
    assert table == [(20, *entry) for entry in MAP]
    assert text(memory, *words(memory, BOOT_PARAMS + 64, "<I")) == "minivmm"
    first, second = (words(memory, mods + at, "<IIII") for at in (0, 16))
    assert memory.read(first[0], first[1] - first[0]) == b"111"
    assert second[1] - second[0] == PAGE_SIZE + 1
    assert [text(memory, item[2]) for item in (first, second)] == [one, f"{two} x y"]


def test_multiboot_is_entered_with_its_magic_in_eax(make_boot: Make) -> None:
    boot = make_boot(flat())
    assert isinstance(boot, ModuleBoot)
    registers = boot.registers()
    assert (registers.rax, registers.rbx) == (0x2BADB002, BOOT_PARAMS)


def test_multiboot_gets_no_words_of_the_default_command_line(
    make_boot: Make, tmp_path: Path
) -> None:
    boot = make_boot(flat(), cmdline=None, append="mine")
    assert boot.cmdline == f"{tmp_path}/kernel mine".encode()


# Modules


@pytest.mark.parametrize("kernel", END, ids=["pvh", "multiboot"])
def test_modules_are_at_the_pages_after_the_kernel(
    make_boot: Make, files: tuple[str, str], kernel: bytes
) -> None:
    boot = make_boot(kernel, modules=[*files, files[0]])
    assert isinstance(boot, ModuleBoot)
    end = END[kernel]
    assert [at for at, _ in boot.places()] == [
        end,
        end + PAGE_SIZE,
        end + 3 * PAGE_SIZE,
    ]


def test_boot_can_be_loaded_again_after_discard(
    make_boot: Make, load: Load, files: tuple[str, str]
) -> None:
    boot = make_boot(flat(), modules=files)
    memory = load(boot)
    before = memory.read(0, 2 * MIB)
    memory.clear()
    boot.load(memory)
    assert memory.read(0, 2 * MIB) == before


def test_module_beyond_memory_says_how_much_is_needed(
    make_boot: Make, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(4 * MIB)
    with pytest.raises(ConfigError, match="ends beyond memory's 0x400000") as caught:
        make_boot(flat(), modules=[str(big)], memory="4M")
    match = re.search(r"4194304 bytes at 0x101000.* --memory (\d+M)", str(caught.value))
    assert match is not None
    make_boot(flat(), modules=[str(big)], memory=match[1])


def test_modules_for_linux_are_refused(make_boot: Make, files: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"modules: 2 given, .* by linux64"):
        make_boot(elf(), modules=files)


def test_missing_module_is_named(make_boot: Make) -> None:
    with pytest.raises(ConfigError, match="module '/none': no such file"):
        make_boot(flat(), modules=["/none x"])


def test_too_many_modules_are_refused(make_boot: Make, files: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"modules: 300 take 49.. bytes to list"):
        make_boot(flat(), modules=[files[0]] * 300)


def test_too_long_strings_are_refused(make_boot: Make, files: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"strings have 70.* bytes, and 65536"):
        make_boot(flat(), modules=[f"{files[0]} {'x' * 70000}"])


@pytest.mark.parametrize("field", ["command", "files"])
def test_command_needs_linux(
    field: str, make_boot: Make, files: tuple[str, str]
) -> None:
    words = f"^{field}: kernel .* is booted by multiboot, and a command"
    with pytest.raises(ConfigError, match=words):
        make_boot(flat(), initrd=files[0], **{field: [files[1]]})


def test_files_for_pvh_follow_the_initrd(
    make_boot: Make, load: Load, files: tuple[str, str]
) -> None:
    boot = make_boot(PVH, initrd=files[0], files=[files[1]])
    assert isinstance(boot, ModuleBoot)
    at, size = boot.places()[0]
    assert load(boot).read(at, 14) == b"111" + bytes(5) + b"070701"
    assert size > PAGE_SIZE


@pytest.mark.parametrize("module", ["", " string"])
def test_module_that_can_be_none_is_refused(module: str) -> None:
    with pytest.raises(ConfigError, match="is not FILE or 'FILE STRING'"):
        MachineConfig(modules=[module])


def test_unknown_protocol_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'pv' is not one of auto, linux64, "):
        MachineConfig(boot_protocol="pv")  # type: ignore[arg-type]


# What a user sees of it

REFUSED = {
    "module beyond memory": (
        flat(),
        ["--module", "{module}", "--memory", "2M"],
        "module: '{module}', 2097152 bytes at 0x101000, ends beyond memory's "
        "0x200000: pass --memory 4M or more",
    ),
    "image beyond memory": (
        flat((MIB + 8, MIB, 0, 16 * MIB, MIB)),
        ["--memory", "8M"],
        "kernel '{kernel}': memory of 8M is too small: this kernel needs at least 16M "
        "to start; pass --memory 48M or more",
    ),
    "image in the hole": (
        flat((0xF000_0008, 0xF000_0000, 0, 0, 0xF000_0000)),
        [],
        "kernel '{kernel}': it ends at 0xf0000100, and RAM has a hole from 0xe0000000 "
        "on: it must be linked to lower physical addresses",
    ),
    "flags": (
        flat(flags=0x10),
        [],
        "kernel '{kernel}': its multiboot flags 0x10010 require what we don't know: "
        "0x10 (of bits 0 to 15, 0 to 2 are known)",
    ),
    "protocol": (
        flat(),
        ["--boot-protocol", "linux64"],
        "kernel '{kernel}': neither a bzImage nor an ELF file",
    ),
}


@pytest.mark.parametrize(
    ("image", "arguments", "message"), REFUSED.values(), ids=REFUSED
)
def test_bad_input_is_one_line_and_exit_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    image: bytes,
    arguments: list[str],
    message: str,
) -> None:
    places = {"kernel": str(tmp_path / "kernel"), "module": str(tmp_path / "module")}
    Path(places["kernel"]).write_bytes(image)
    Path(places["module"]).write_bytes(bytes(2 * MIB))
    given = [argument.format(**places) for argument in arguments]
    run = ["run", "--quirks", "none", "--kernel", places["kernel"]]
    assert cli.main([*run, *given]) == 2
    assert capsys.readouterr().err == f"vmm: error: {message.format(**places)}\n"
