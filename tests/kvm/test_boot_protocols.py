"""Boot protocols, by guests that print what they were given, and by Linux."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.guests import DEADLINE, built

from vmm import ExitReason, Machine, MachineConfig

MARKER = "guest: userspace Linux "
MAP = """\
map: 0000000000001000 000000000009ec00 00000001
map: 000000000009fc00 0000000000060400 00000002
map: 0000000000100000 0000000007f00000 00000001
"""


def run(name: str, **settings: object) -> str:
    """Run an image until it resets; all that it printed."""
    config = MachineConfig(kernel=built(name), timeout=DEADLINE, **settings)  # type: ignore[arg-type]
    with Machine(config) as machine:
        result = machine.run()
        output = machine.console.read().decode()
    assert result.reason is ExitReason.RESET, output
    return output


@pytest.fixture
def modules(tmp_path: Path) -> tuple[str, str]:
    """Two files whose bytes add up to 0x126 and 0x1fe."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"\xff\xff")
    return str(one), str(two)


@pytest.mark.parametrize("name", ["bare/multiboot.elf", "bare/multiboot-flat.bin"])
def test_multiboot_guest_gets_all_that_the_specification_promises(
    name: str, modules: tuple[str, str]
) -> None:
    one, two = modules
    output = run(name, append="a b", initrd=one, modules=[f"{two} x y"])
    assert output == (
        "multiboot: 2badb002 0000024d 0000027f 0001fc00\n"
        f"cmdline: {built(name)} a b\n"
        "loader: minivmm\n"
        f"{MAP}"
        f"module: 00101000 00101003 00000126 {one}\n"
        f"module: 00102000 00102002 000001fe {two} x y\n"
    )


def test_part_below_1_mib_runs_where_it_was_linked() -> None:
    assert run("bare/multiboot-low.elf") == "multiboot-low: 00008000\n"


def test_pvh_guest_gets_its_start_info(modules: tuple[str, str]) -> None:
    one, two = modules
    output = run(
        "bare/pvh32.elf",
        quirks="none",  # adds words for Linux
        cmdline="a b",
        initrd=one,
        modules=[f"{two} x y"],
    )
    assert output == (
        "pvh: 336ec578 00000001 00000000 00000002 00000000000e0000\n"
        "cmdline: a b\n"
        f"{MAP}"
        f"module: 00111000 00000003 00000126 {one}\n"
        f"module: 00112000 00000002 000001fe {two} x y\n"
    )


@pytest.mark.parametrize("protocol", ["auto", "pvh", "linux64"])
def test_64_bit_guest_starts_by_its_note_and_by_its_entry(protocol: str) -> None:
    assert "bench " in run("bare/bench-lsr-read.elf", boot_protocol=protocol)


@pytest.mark.linux
@pytest.mark.both
def test_vmlinux_boots_by_pvh(each: Callable[[str], Path]) -> None:
    output = run(
        each("vmlinux-tiny").name,
        boot_protocol="pvh",
        initrd=built("initramfs-tiny.cpio"),
        append="quiet",
    )
    assert MARKER in output


@pytest.mark.linux
@pytest.mark.hardware
@pytest.mark.parametrize("protocol", ["pvh", "linux32"])
@pytest.mark.parametrize("kernel", ["bzImage-tiny", "bzImage-debian"])
def test_bzimage_boots_by_every_protocol(kernel: str, protocol: str) -> None:
    output = run(
        kernel,
        boot_protocol=protocol,
        initrd=built("initramfs-tiny.cpio"),
        memory="256M",
        append="quiet",
    )
    assert MARKER in output


@pytest.mark.linux
@pytest.mark.hardware
def test_debians_vmlinux_boots_by_pvh() -> None:
    output = run(
        "vmlinux-debian",
        boot_protocol="pvh",
        initrd=built("initramfs-tiny.cpio"),
        memory="256M",
        append="quiet",
    )
    assert MARKER in output
