"""Numbers and layouts against the kernel's and the C library's own headers.

A program made from what vmm.kvm.abi defines prints what a C compiler makes of
the same names; a name that the headers lack doesn't compile, and so fails.
"""

import ctypes
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from vmm import memory
from vmm.boot import bootparam, bzimage
from vmm.kvm import _libc, abi
from vmm.vcpu import fatal_exit, run_loop

HEADERS = """
#define _GNU_SOURCE
#include <asm/bootparam.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
"""

# Our names for offsets into struct kvm_run; all others are the header's.
KVM_RUN_OFFSETS = {
    "KVM_RUN_IMMEDIATE_EXIT": "immediate_exit",
    "KVM_RUN_EXIT_REASON": "exit_reason",
    "KVM_RUN_UNION": "io",
    "KVM_RUN_MMIO_DATA": "mmio.data",
}
# arch/x86/include/asm/kvm_host.h, arch/x86/kvm/x86.c, include/linux/kvm_host.h
NOT_UAPI = {"KVM_MAX_CPUID_ENTRIES", "KVM_MAX_IRQ_ROUTES", "KVM_MAX_MSR_ENTRIES"}

BOOT_PARAMS_OFFSETS = {
    "e820_entries": bootparam.E820_ENTRIES,
    "e820_table": bootparam.E820_TABLE,
    "hdr": bzimage.SETUP_HEADER,
    "hdr.setup_sects": bzimage.SETUP_SECTS,
    "hdr.syssize": bzimage.SYSSIZE,
    "hdr.boot_flag": bzimage.BOOT_FLAG,
    "hdr.jump": bzimage.JUMP,
    "hdr.header": bzimage.HEADER_MAGIC,
    "hdr.version": bzimage.VERSION,
    "hdr.type_of_loader": bootparam.TYPE_OF_LOADER,
    "hdr.loadflags": bzimage.LOADFLAGS,
    "hdr.ramdisk_image": bootparam.RAMDISK_IMAGE,
    "hdr.ramdisk_size": bootparam.RAMDISK_SIZE,
    "hdr.cmd_line_ptr": bootparam.CMD_LINE_PTR,
    "hdr.initrd_addr_max": bzimage.INITRD_ADDR_MAX,
    "hdr.kernel_alignment": bzimage.KERNEL_ALIGNMENT,
    "hdr.relocatable_kernel": bzimage.RELOCATABLE_KERNEL,
    "hdr.xloadflags": bzimage.XLOADFLAGS,
    "hdr.cmdline_size": bzimage.CMDLINE_SIZE,
    "hdr.setup_data": bootparam.SETUP_DATA_PTR,
    "hdr.payload_offset": bzimage.PAYLOAD_OFFSET,
    "hdr.payload_length": bzimage.PAYLOAD_LENGTH,
    "hdr.pref_address": bzimage.PREF_ADDRESS,
    "hdr.init_size": bzimage.INIT_SIZE,
}

FLEXIBLE = ("entries", "indices")  # arrays at the end

# Each exit as C fills it in, for our decoders to read.
EXITS = {
    "io": "r.exit_reason = KVM_EXIT_IO; r.io.direction = KVM_EXIT_IO_OUT;"
    "r.io.size = 4; r.io.port = 0xcf8; r.io.count = 0x12345; r.io.data_offset = 4096;",
    "mmio": "r.exit_reason = KVM_EXIT_MMIO; r.mmio.phys_addr = 0xfee00010;"
    'memcpy(r.mmio.data, "ABCDEFGH", 8); r.mmio.len = 8; r.mmio.is_write = 1;',
    "internal": "r.internal.suberror = 3; r.internal.ndata = 7;",
    "emulation": "r.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;"
    "r.emulation_failure.ndata = 3; r.emulation_failure.insn_size = 2;"
    "r.emulation_failure.flags ="
    " KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;"
    'memcpy(r.emulation_failure.insn_bytes, "ABCDEFGHIJKLMNO", 15);',
    "fail_entry": "r.fail_entry.hardware_entry_failure_reason = 0x80000021;"
    "r.fail_entry.cpu = 5;",
    "system_event": "r.system_event.type = KVM_SYSTEM_EVENT_RESET;",
}

Oracle = Callable[[str], int]


def structures() -> list[type[ctypes.Structure]]:
    return [
        value
        for value in vars(abi).values()
        if isinstance(value, type)
        and issubclass(value, ctypes.Structure)
        and value is not ctypes.Structure
    ]


def fields(structure: type[ctypes.Structure]) -> list[str]:
    return [field[0] for field in structure._fields_]


def sized_fields(structure: type[ctypes.Structure]) -> list[str]:
    """All but flexible arrays, which have no size in C and for which ours has room."""
    return [name for name in fields(structure) if name not in FLEXIBLE]


def constants() -> dict[str, int]:
    return {
        name: value
        for name, value in vars(abi).items()
        if name.startswith("KVM") and name not in NOT_UAPI
    }


def constant_in_c(name: str) -> str:
    member = KVM_RUN_OFFSETS.get(name)
    return name if member is None else f"offsetof(struct kvm_run, {member})"


def expressions() -> Iterable[str]:
    for structure in structures():
        name = structure.__name__
        yield f"sizeof(struct {name})"
        for field in fields(structure):
            yield f"offsetof(struct {name}, {field})"
        for field in sized_fields(structure):
            yield f"sizeof(((struct {name} *)0)->{field})"
    yield from map(constant_in_c, constants())
    yield from (f"offsetof(struct boot_params, {name})" for name in BOOT_PARAMS_OFFSETS)
    yield from ("sizeof(struct boot_params)", "sizeof(struct boot_e820_entry)")
    yield from ("SETUP_RNG_SEED", "LOADED_HIGH", "XLF_KERNEL_64", "MAP_NORESERVE")
    yield "offsetof(struct setup_data, data)"
    yield "sizeof(struct sigaction)"
    yield from (
        f"offsetof(struct sigaction, {name})" for name in fields(_libc._sigaction)
    )


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the C program says for each expression, and for each exit in hex."""
    lines = [f'printf("%llu\\n", (unsigned long long)({e}));' for e in expressions()]
    for fill in EXITS.values():
        lines += [
            f"{{ static struct kvm_run r; {fill}",
            "for (int i = 0; i < 256; i++)",
            'printf("%02x", ((unsigned char *)&r)[i]); puts(""); }',
        ]
    folder = tmp_path_factory.mktemp("abi")
    source, program = folder / "abi.c", folder / "abi"
    source.write_text(HEADERS + "int main(void) {\n" + "\n".join(lines) + "\n}\n")
    subprocess.run(["gcc", "-w", "-o", program, source], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True)
    return dict(zip([*expressions(), *EXITS], printed.stdout.split(), strict=True))


@pytest.fixture(scope="session")
def oracle(headers: dict[str, str]) -> Oracle:
    return lambda expression: int(headers[expression])


@pytest.fixture
def kvm_run(headers: dict[str, str]) -> Callable[[str], bytes]:
    """The head of a struct kvm_run that C has filled in."""
    return lambda name: bytes.fromhex(headers[name])


@pytest.mark.parametrize("structure", structures(), ids=lambda s: s.__name__)
def test_struct_has_the_headers_size(
    structure: type[ctypes.Structure], oracle: Oracle
) -> None:
    flexible = [getattr(structure, n) for n in FLEXIBLE if hasattr(structure, n)]
    size = flexible[0].offset if flexible else ctypes.sizeof(structure)
    assert size == oracle(f"sizeof(struct {structure.__name__})")


@pytest.mark.parametrize(
    ("structure", "field"),
    [(structure, field) for structure in structures() for field in fields(structure)],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_field_has_the_headers_offset(
    structure: type[ctypes.Structure], field: str, oracle: Oracle
) -> None:
    expression = f"offsetof(struct {structure.__name__}, {field})"
    assert getattr(structure, field).offset == oracle(expression)


@pytest.mark.parametrize(
    ("structure", "field"),
    [
        (structure, field)
        for structure in structures()
        for field in sized_fields(structure)
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_field_has_the_headers_size(
    structure: type[ctypes.Structure], field: str, oracle: Oracle
) -> None:
    expression = f"sizeof(((struct {structure.__name__} *)0)->{field})"
    assert getattr(structure, field).size == oracle(expression)


@pytest.mark.parametrize("name", constants())
def test_constant_has_the_headers_value(name: str, oracle: Oracle) -> None:
    assert constants()[name] == oracle(constant_in_c(name))


def test_entries_of_flexible_arrays_are_the_headers_structs() -> None:
    assert abi.kvm_cpuid2.entries.size == abi.KVM_MAX_CPUID_ENTRIES * ctypes.sizeof(
        abi.kvm_cpuid_entry2
    )
    assert abi.kvm_msrs.entries.size == abi.KVM_MAX_MSR_ENTRIES * ctypes.sizeof(
        abi.kvm_msr_entry
    )


def test_io_exit_is_decoded(kvm_run: Callable[[str], bytes]) -> None:
    decoded = run_loop._EXIT_IO(kvm_run("io"), abi.KVM_RUN_EXIT_REASON)
    assert decoded == (abi.KVM_EXIT_IO, 1, 4, 0xCF8, 0x12345, 4096)


def test_mmio_exit_is_decoded(kvm_run: Callable[[str], bytes]) -> None:
    run = kvm_run("mmio")
    assert run_loop._EXIT_MMIO(run, abi.KVM_RUN_UNION) == (0xFEE00010, 8, 1)
    assert run[abi.KVM_RUN_MMIO_DATA :][:8] == b"ABCDEFGH"


def test_internal_error_is_decoded(kvm_run: Callable[[str], bytes]) -> None:
    assert fatal_exit._INTERNAL(kvm_run("internal"), abi.KVM_RUN_UNION) == (3, 7)


def test_emulation_failure_is_decoded(kvm_run: Callable[[str], bytes]) -> None:
    decoded = fatal_exit._EMULATION(kvm_run("emulation"), abi.KVM_RUN_UNION + 8)
    assert decoded == (1, 2, b"ABCDEFGHIJKLMNO")


def test_fail_entry_is_decoded(kvm_run: Callable[[str], bytes]) -> None:
    decoded = fatal_exit._FAIL_ENTRY(kvm_run("fail_entry"), abi.KVM_RUN_UNION)
    assert decoded == (0x80000021, 5)


def test_system_event_is_decoded(kvm_run: Callable[[str], bytes]) -> None:
    decoded = run_loop._SYSTEM_EVENT(kvm_run("system_event"), abi.KVM_RUN_UNION)
    assert decoded == (abi.KVM_SYSTEM_EVENT_RESET,)


@pytest.mark.parametrize("name", BOOT_PARAMS_OFFSETS)
def test_boot_params_field_has_the_headers_offset(name: str, oracle: Oracle) -> None:
    expression = f"offsetof(struct boot_params, {name})"
    assert oracle(expression) == BOOT_PARAMS_OFFSETS[name]


def test_boot_params_sizes_and_flags_are_the_headers(oracle: Oracle) -> None:
    assert oracle("sizeof(struct boot_params)") == bootparam.BOOT_PARAMS_SIZE
    assert oracle("sizeof(struct boot_e820_entry)") == bootparam._E820_ENTRY.size
    assert oracle("SETUP_RNG_SEED") == bootparam.SETUP_RNG_SEED
    assert oracle("LOADED_HIGH") == bzimage.LOADED_HIGH
    assert oracle("XLF_KERNEL_64") == bzimage.XLF_KERNEL_64


def test_setup_data_header_is_16_bytes(oracle: Oracle) -> None:
    size = oracle("offsetof(struct setup_data, data)")
    assert len(bootparam.rng_seed()) == size + bootparam.RNG_SEED_SIZE


def test_map_noreserve_is_the_headers(oracle: Oracle) -> None:
    assert oracle("MAP_NORESERVE") == memory.MAP_NORESERVE


def test_sigaction_has_glibcs_size(oracle: Oracle) -> None:
    assert ctypes.sizeof(_libc._sigaction) == oracle("sizeof(struct sigaction)")


@pytest.mark.parametrize("field", fields(_libc._sigaction))
def test_sigaction_field_has_glibcs_offset(field: str, oracle: Oracle) -> None:
    offset = oracle(f"offsetof(struct sigaction, {field})")
    assert getattr(_libc._sigaction, field).offset == offset


def test_program_does_not_compile_without_the_name(tmp_path: Path) -> None:
    """What guards against a constant that the header never had."""
    source = tmp_path / "absent.c"
    source.write_text(HEADERS + "int main(void) { return KVM_CAP_NO_SUCH; }\n")
    result = subprocess.run(
        ["gcc", "-w", "-fsyntax-only", source], capture_output=True, text=True
    )
    assert "KVM_CAP_NO_SUCH" in result.stderr
