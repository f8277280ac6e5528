"""Linux's own drivers, and programs in Linux, against the device model."""

import fcntl
import os
import re
import select
import time
from pathlib import Path

import pytest
from support.guests import DEADLINE, Shell, built, kernel, wait_until, with_script

from vmm import Machine, MachineConfig
from vmm.devices.device_io import DeviceIo
from vmm.devices.resources import MmioAddressConstraint, ResourceConstraint
from vmm.guest import cpio
from vmm.testing import VmFactory

pytestmark = pytest.mark.linux

KEY_A = b"\x1c\xf0\x1c"  # scan code set 2: pressed, released
REGISTERS = 0xE800_0000


class Registers(DeviceIo):
    """A page of MMIO that remembers."""

    def __init__(self) -> None:
        self.page = bytearray(0x1000)

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [MmioAddressConstraint.at(REGISTERS, len(self.page))]

    def read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = self.page[offset : offset + len(data)]

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self.page[offset : offset + len(data)] = data


@pytest.fixture(scope="class")
def registers() -> Registers:
    return Registers()


@pytest.fixture(
    scope="class", params=["ours", pytest.param("debian", marks=pytest.mark.hardware)]
)
def shell(
    request: pytest.FixtureRequest,
    vm_class: VmFactory,
    registers: Registers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Shell:
    """A shell in our full kernel and, where ring 0 isn't emulated, in Debian's."""
    initrd = built("initramfs-busybox.cpio")
    if request.param == "ours":
        image = kernel("full")
    else:
        image = built("vmlinux-debian")
        evdev = built("modules-debian/evdev.ko").read_bytes()
        more = cpio.write([cpio.file("evdev.ko", evdev)])
        extended = tmp_path_factory.mktemp("debian") / "initramfs.cpio"
        extended.write_bytes(initrd.read_bytes() + more)
        initrd = extended
    machine = vm_class(kernel=image, initrd=initrd, devices=[registers])
    machine.start()
    shell = Shell(machine)
    if request.param == "debian":
        assert shell.ask("insmod /evdev.ko") == ""
    return shell


@pytest.mark.vmm(append="quiet guest.shell", memory="256M", deadline=2 * DEADLINE)
class TestFull:
    """What one guest shows that has drivers for all of a machine."""

    def test_i8042_and_its_keyboard_are_found_without_an_error(
        self, shell: Shell
    ) -> None:
        output = shell.ask("dmesg | grep -iE 'i8042|serio|atkbd|input:'")
        assert "serio: i8042 KBD port at 0x60,0x64 irq 1" in output
        assert "input: AT Translated Set 2 keyboard" in output
        assert not re.search(
            r"fail|error|timeout|time out|can't|no controller", output, re.I
        )

    def test_keys_reach_the_guests_input_device(self, shell: Shell) -> None:
        machine = shell.machine
        machine.console.sendline("keylog 4")
        machine.console.expect("keylog: ready", timeout=DEADLINE)
        assert machine.keyboard.send_scancodes(KEY_A + KEY_A) == 6
        match = machine.console.expect(re.compile(rb"(key \d+ \d\r\n){4}"), DEADLINE)
        assert match[0] == b"key 30 1\r\nkey 30 0\r\n" * 2
        machine.console.expect(Shell.PROMPT, DEADLINE)

    def test_hwclock_agrees_with_the_host(self, shell: Shell) -> None:
        before = time.time()
        clock, system = shell.ask("hwclock -u -r; date -u +%s").splitlines()
        # Linux takes an RTC's second as its middle, and `date` cuts the fraction off.
        assert int(before) - 1 <= int(system) <= time.time() + 1
        year = time.strftime("%Y", time.gmtime(before))
        assert re.match(rf"\w+ \w+ +\d+ \d\d:\d\d:\d\d {year}", clock)

    def test_program_reaches_an_mmio_device_through_dev_mem(
        self, shell: Shell, registers: Registers
    ) -> None:
        registers.page[0x10:0x14] = (0xC0FFEE00).to_bytes(4, "little")
        assert shell.ask(f"devmem {REGISTERS + 0x10:#x} 32") == "0xC0FFEE00\r\n"
        assert shell.ask(f"devmem {REGISTERS + 8:#x} 16 0xabcd") == ""
        assert registers.page[8:10] == b"\xcd\xab"


def test_a_reader_that_comes_late_finds_every_byte(tmp_path: Path) -> None:
    """The guest's tty driver waits for THRE while nobody reads; no byte is lost.

    4 MiB by hand, unread for seven minutes, took 18 and were equal, too.
    """
    fifo = tmp_path / "console"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    lines = 13_000
    expected = "".join(f"{n}\n" for n in range(1, lines + 1)).encode()
    script = f"seq 1 {lines} > /lines; stty -opost; cat /lines; echo END"
    config = MachineConfig(
        initrd=with_script(tmp_path, script),
        append="quiet",
        serial=f"file:{fifo}",
        serial_buffer="4K",
    )
    seen = b""
    with Machine(config) as machine:
        machine.start()
        sink = machine.console.sink
        wait_until(lambda: len(sink) == 4096, "the sink to be full")
        assert sink.accepted < len(expected)  # or nothing was held
        while b"END" not in seen:
            assert select.select([reader], [], [], DEADLINE)[0], seen[-100:]
            seen += os.read(reader, 1 << 16)
        os.close(reader)
        result = machine.wait(DEADLINE)
    assert expected in seen
    assert result.console_dropped == 0
