"""Linux's own drivers, and programs in Linux, against the device model."""

import fcntl
import os
import re
import select
import time
from pathlib import Path

import pytest
from guests import DEADLINE, built, wait_until, with_script

from vmm import ExitReason, Machine, MachineConfig
from vmm.devices.device_io import DeviceIo
from vmm.devices.resources import MmioAddressConstraint, ResourceConstraint

pytestmark = pytest.mark.linux

KEY_A = b"\x1c\xf0\x1c"  # scan code set 2: pressed, released
REGISTERS = 0xE800_0000


def full(folder: Path, script: str, append: str = "quiet") -> MachineConfig:
    """The full kernel with a script."""
    return MachineConfig(
        kernel=built("vmlinux-full"),
        initrd=with_script(folder, script),
        append=append,
        timeout=DEADLINE,
    )


def output_of(config: MachineConfig) -> str:
    """Run to the reset; all that was printed."""
    with Machine(config) as machine:
        assert machine.run().reason is ExitReason.RESET
        return machine.console.read().decode()


def test_the_i8042_and_its_keyboard_are_found_without_an_error(tmp_path: Path) -> None:
    output = output_of(full(tmp_path, "dmesg | grep -iE 'i8042|serio|atkbd|input:'"))
    assert "serio: i8042 KBD port at 0x60,0x64 irq 1" in output
    assert "input: AT Translated Set 2 keyboard" in output
    assert not re.search(
        r"fail|error|timeout|time out|can't|no controller", output, re.I
    )


def test_keys_reach_the_guests_input_device(tmp_path: Path) -> None:
    with Machine(full(tmp_path, "keylog 4")) as machine:
        machine.start()
        machine.console.expect("keylog: ready", timeout=DEADLINE)
        assert machine.keyboard.send_scancodes(KEY_A + KEY_A) == 6
        match = machine.console.expect(re.compile(rb"(key \d+ \d\r\n){4}"), DEADLINE)
        assert match[0] == b"key 30 1\r\nkey 30 0\r\n" * 2
        assert machine.wait(DEADLINE).reason is ExitReason.RESET


def test_hwclock_agrees_with_the_host(tmp_path: Path) -> None:
    script = "hwclock -u -r; date -u +'system %s'"
    before = time.time()
    output = output_of(full(tmp_path, script))
    system = re.search(r"system (\d+)", output)
    assert system is not None
    assert before - 1 <= int(system[1]) <= time.time() + 1
    year = time.strftime("%Y", time.gmtime(before))
    assert re.search(rf"\w+ \w+ +\d+ \d\d:\d\d:\d\d {year}", output)


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


def test_a_program_reaches_an_mmio_device_through_dev_mem(tmp_path: Path) -> None:
    device = Registers()
    device.page[0x10:0x14] = (0xC0FFEE00).to_bytes(4, "little")
    script = f"devmem {REGISTERS + 0x10:#x} 32; devmem {REGISTERS + 8:#x} 16 0xabcd"
    with Machine(full(tmp_path, script)) as machine:
        machine.plug(device)
        assert machine.run().reason is ExitReason.RESET
        assert b"0xC0FFEE00" in machine.console.read()
    assert device.page[8:10] == b"\xcd\xab"


@pytest.mark.timeout(1200)  # a byte costs a millisecond in the software machine
def test_a_reader_that_comes_late_finds_every_byte(tmp_path: Path) -> None:
    """The guest's tty driver waits for THRE while nobody reads; no byte is lost.

    4 MiB by hand, unread for seven minutes, took 18 and were equal, too.
    """
    fifo = tmp_path / "console"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    size = 64 << 10
    script = f"stty -opost; seq 1 99999 | head -c {size}; echo; echo END"
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
        assert sink.accepted < size  # or nothing was held
        while b"END" not in seen:
            assert select.select([reader], [], [], DEADLINE)[0], seen[-100:]
            seen += os.read(reader, 1 << 16)
        os.close(reader)
        result = machine.wait(DEADLINE)
    expected = "".join(f"{n}\n" for n in range(1, 99999)).encode()[:size]
    assert expected in seen
    assert result.console_dropped == 0
