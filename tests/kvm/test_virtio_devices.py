"""Linux's own drivers of our virtio devices: rng, console and ports, balloon."""

import hashlib
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.guests import (
    DEADLINE,
    Shell,
    built,
    follow,
    kernel,
    process_status,
    wait_until,
    with_script,
)
from support.terminals import on_terminal
from support.virtio_example import ram_disk

from vmm import ExitReason
from vmm.errors import ConfigError
from vmm.guest import cpio
from vmm.testing import VmFactory

pytestmark = pytest.mark.linux

VMM = (sys.executable, "-m", "vmm")
MIB = 1 << 20
# In an order in which insmod takes them.
MODULES = (
    *("virtio_ring", "virtio", "virtio_mmio", "virtio_pci_legacy_dev"),
    *("virtio_pci_modern_dev", "virtio_pci", "virtio_console", "virtio-rng"),
    *("virtio_balloon", "virtio_blk"),
)
LOAD = f"for module in {' '.join(MODULES)}; do insmod /$module.ko; done"


def debian_initramfs(folder: Path, script: str | None = None) -> Path:
    """Busybox's, with the modules of Debian's kernel and, if wanted, a script."""
    before = built("initramfs-busybox.cpio")
    if script is not None:
        before = with_script(folder, script)
    modules = [(name, built(f"modules-debian/{name}.ko")) for name in MODULES]
    more = cpio.write([cpio.file(f"{n}.ko", path.read_bytes()) for n, path in modules])
    image = folder / "debian.cpio"
    image.write_bytes(before.read_bytes() + more)
    return image


@pytest.fixture(scope="class")
def disk() -> Any:  # noqa: ANN401, a class of the example's
    return ram_disk(2048)


@pytest.fixture(
    scope="class",
    params=["pci", "mmio", pytest.param("debian", marks=pytest.mark.hardware)],
)
def shell(
    request: pytest.FixtureRequest,
    vm_class: VmFactory,
    disk: Any,  # noqa: ANN401, a class of the example's
    tmp_path_factory: pytest.TempPathFactory,
) -> Shell:
    """A shell in a guest with all drivers: ours, by each transport, and Debian's."""
    settings: Any = {"initrd": built("initramfs-busybox.cpio")}
    if request.param == "debian":
        settings["kernel"] = built("vmlinux-debian")
        settings["initrd"] = debian_initramfs(tmp_path_factory.mktemp("debian"))
    else:
        settings |= {"kernel": kernel("full"), "transport": request.param}
    machine = vm_class(devices=[disk], **settings)
    machine.start()
    shell = Shell(machine)
    if request.param == "debian":
        assert shell.ask(LOAD) == ""
    return shell


def port_device(shell: Shell, name: str) -> str:
    """The node of a port in the guest."""
    return shell.ask(
        f"cd /sys/class/virtio-ports; for port in *; do"
        f" [ $(cat $port/name)x = {name}x ] && echo -n /dev/$port; done; cd /"
    )


@pytest.mark.vmm(
    append="quiet guest.shell",
    memory="256M",
    ports={"log": "capture", "ask": "capture"},
    rng=True,
    balloon=0,
    deadline=4 * DEADLINE,
)
class TestDevices:
    """What one guest shows that has all of them."""

    def test_the_hosts_random_bytes_come_by_hwrng(self, shell: Shell) -> None:
        current = "/sys/class/misc/hw_random/rng_current"
        assert shell.ask(f"cat {current}").startswith("virtio_rng")
        ask = "dd if=/dev/hwrng bs=1000 count=1 2>/dev/null | sha256sum"
        first, second = shell.ask(ask), shell.ask(ask)
        assert re.fullmatch(r"[0-9a-f]{64}  -\r\n", first)
        assert first != second

    def test_a_megabyte_comes_through_a_port_each_way(self, shell: Shell) -> None:
        data = random.Random(1).randbytes(MIB)
        sum_of_it = hashlib.sha256(data).hexdigest()
        device, port = port_device(shell, "ask"), shell.machine.port("ask")
        shell.machine.console.sendline(
            f"exec 3<>{device}; head -c {MIB} <&3 >/tmp/it; cat /tmp/it >&3; exec 3>&-"
        )
        port.send(data)
        shell.machine.console.expect(Shell.PROMPT, DEADLINE)
        assert shell.ask("sha256sum </tmp/it; rm /tmp/it").split()[0] == sum_of_it
        wait_until(lambda: len(port.transcript) == MIB, "the port's output")
        assert port.read() == data

    def test_a_program_is_asked_and_answers_by_a_port(self, shell: Shell) -> None:
        device, port = port_device(shell, "log"), shell.machine.port("log")
        loop = 'while read line && [ "$line" != end ]; do echo "heard $line"; done'
        shell.machine.console.sendline(f"({loop}) <>{device} >&0")
        for word in ("this", "that"):
            port.sendline(word)
            port.expect(f"heard {word}\n", DEADLINE)
        port.sendline("end")
        shell.machine.console.expect(Shell.PROMPT, DEADLINE)

    def test_the_examples_disk_has_what_is_written_to_it(
        self,
        shell: Shell,
        disk: Any,  # noqa: ANN401, a class of the example's
    ) -> None:
        assert shell.ask("cat /sys/block/vda/size") == "2048\r\n"
        disk.data[:5] = b"hello"
        assert shell.ask("head -c 5 /dev/vda; echo") == "hello\r\n"
        shell.ask("dd if=/dev/urandom of=/dev/vda bs=64k conv=fsync 2>/dev/null")
        told = shell.ask("sha256sum </dev/vda").split()[0]
        assert told == hashlib.sha256(disk.data).hexdigest()

    def test_the_balloon_takes_memory_and_gives_it_back(self, shell: Shell) -> None:
        balloon = shell.machine.balloon
        before = balloon.statistics(DEADLINE)
        assert 200 * MIB < before["total_memory"] <= 256 * MIB
        use_memory(shell, 120)
        used = process_status("VmRSS")
        balloon.target = 128 * MIB
        balloon.wait(DEADLINE)
        assert balloon.actual == 128 * MIB
        assert used - process_status("VmRSS") > 60 << 10  # KiB
        free = balloon.statistics(DEADLINE)["free_memory"]
        assert before["free_memory"] - free > 100 * MIB
        balloon.target = 0
        balloon.wait(DEADLINE)
        assert balloon.statistics(DEADLINE)["free_memory"] - free > 100 * MIB
        use_memory(shell, 120)

    def test_a_guest_in_want_of_memory_takes_some_back(self, shell: Shell) -> None:
        balloon = shell.machine.balloon
        balloon.target = 180 * MIB
        balloon.wait(DEADLINE)
        # A little more than it has.
        size = balloon.statistics(DEADLINE)["free_memory"] + 4 * MIB
        command = f"head -c {size} /dev/zero | tail -c {size} | wc -c"
        told: list[int] = []

        def note() -> None:
            told.append(balloon.actual)
            balloon._tell()
            if balloon.actual < 180 * MIB:
                balloon.target = 0  # or its driver would take as much again

        balloon._device.on_actual = note
        assert shell.ask(command) == f"{size}\r\n"
        assert "Out of memory" not in shell.ask("dmesg")
        assert told
        balloon._device.on_actual = balloon._tell
        balloon.target = 0
        balloon.wait(DEADLINE)

    def test_who_waits_for_a_balloon_waits_no_longer_than_he_says(
        self, shell: Shell
    ) -> None:
        balloon = shell.machine.balloon
        balloon.target = 256 * MIB  # more than can be had
        with pytest.raises(TimeoutError, match=r"^balloon: it has .* after 0.1 s"):
            balloon.wait(0.1)
        balloon.target = 0
        balloon.wait(DEADLINE)
        with pytest.raises(ConfigError, match=r"^balloon: target is 1073741824, not"):
            balloon.target = 1 << 30

    def test_what_the_guest_frees_it_reports_and_the_host_has_it(
        self, shell: Shell
    ) -> None:
        before = process_status("VmRSS")
        use_memory(shell, 120)
        used = process_status("VmRSS")
        wait_until(
            lambda: process_status("VmRSS") < max(before, used - (60 << 10)),
            "memory that comes back",
        )

    def test_no_driver_has_complained(self, shell: Shell) -> None:
        names = "virt|vport|hvc|balloon|hwrng|vda"
        warnings = f"dmesg -r | grep '^<[0-4]>' | grep -iE '{names}'"
        assert shell.ask(warnings) == ""


def use_memory(shell: Shell, mib: int) -> None:
    """Have the guest write to so much of its RAM, and free it."""
    command = "mkdir -p /m && mount -t tmpfs -o size=200m tmpfs /m && "
    command += f"dd if=/dev/zero of=/m/x bs=1M count={mib} 2>/dev/null && "
    assert shell.ask(f"{command} umount /m && echo done") == "done\r\n"


# The console on hvc0


@pytest.fixture(scope="class")
def hvc(vm_class: VmFactory) -> Shell:
    machine = vm_class(kernel=kernel("full"), initrd=built("initramfs-busybox.cpio"))
    machine.console.resize(50, 132)
    machine.start()
    return Shell(machine)


@pytest.mark.vmm(
    append="guest.shell", console_device="virtio", memory="128M", deadline=2 * DEADLINE
)
class TestHvc:
    """What a guest shows whose console is hvc0."""

    def test_early_messages_come_by_ttys0_and_later_ones_by_hvc0(
        self, hvc: Shell
    ) -> None:
        text = hvc.machine.console.transcript.decode()
        steps = [
            "Linux version",
            "console [hvc0] enabled",
            "bootconsole [uart8250] disabled",
        ]
        steps += ["# "]
        places = [text.index(step) for step in steps]
        assert places == sorted(places)
        assert text.count("Linux version") == 1
        assert hvc.ask("cat /proc/consoles").split()[:1] == ["hvc0"]

    def test_the_terminal_has_a_size_that_changes(self, hvc: Shell) -> None:
        assert hvc.ask("stty size") == "50 132\r\n"
        hvc.machine.console.resize(24, 80)
        ask = "until [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done; echo yes"
        assert hvc.ask(ask) == "yes\r\n"

    def test_a_long_conversation_loses_nothing(self, hvc: Shell) -> None:
        numbers = [f"{n:08}" for n in range(2000)]
        hvc.machine.console.sendline("while read n; do echo $n; done")
        for number in numbers:
            hvc.machine.console.send(f"{number}\n")
        for number in numbers:
            found = hvc.machine.console.expect(f"{number}\r\n", DEADLINE)
            assert found.before == b""
        hvc.machine.console.send("\x04")  # Ctrl-D
        hvc.machine.console.expect(Shell.PROMPT, DEADLINE)

    def test_ctrl_c_is_the_guests(self, hvc: Shell) -> None:
        hvc.machine.console.sendline("echo st''art; sleep 1000")
        hvc.machine.console.expect("start", DEADLINE)
        hvc.machine.console.send("\x03")
        hvc.machine.console.expect(Shell.PROMPT, DEADLINE)

    def test_a_break_is_for_sysrq(self, hvc: Shell) -> None:
        hvc.machine.console.send_break()
        hvc.machine.console.send("h")
        hvc.machine.console.expect("sysrq: HELP", DEADLINE)
        hvc.machine.console.read_until_idle(0.2, DEADLINE)

    def test_a_clone_goes_on_at_its_own_console(self, hvc: Shell) -> None:
        assert hvc.ask("word=before") == ""
        with hvc.machine.snapshot() as snapshot, snapshot.clone() as clone:
            shell = follow(clone)  # whose kernel says that it is one
            assert shell.ask("echo $word").endswith("before\r\n")
            assert shell.ask("word=after; echo $word") == "after\r\n"
            clone.reset()
            assert shell.ask("echo $word").endswith("before\r\n")
        assert hvc.ask("echo $word") == "before\r\n"


def test_a_console_on_hvc0_is_there_again_after_a_reset(vm: VmFactory) -> None:
    machine = vm(
        kernel=kernel("full"),
        initrd=built("initramfs-busybox.cpio"),
        console_device="virtio",
        append="guest.shell quiet",
        on_reset="restart",
    )
    machine.start()
    for _ in range(2):
        machine.console.expect("# ", DEADLINE)
        machine.console.sendline("echo 'wo''rks'; reboot -f")
        machine.console.expect("works", DEADLINE)


def test_the_last_words_on_a_port_are_not_lost(vm: VmFactory, tmp_path: Path) -> None:
    """They are in the ring when the guest ends, and maybe not looked at."""
    script = "echo last words >/dev/vport0p0; reboot -f"
    machine = vm(
        kernel=kernel("full"),
        initrd=with_script(tmp_path, script),
        ports={"log": f"file:{tmp_path}/log"},
    )
    assert machine.run().reason is ExitReason.RESET
    assert (tmp_path / "log").read_text() == "last words\n"


def test_a_port_without_a_reader_holds_its_writer_and_nobody_else(
    vm: VmFactory, tmp_path: Path
) -> None:
    script = "yes >/dev/vport0p0 & sleep 0.5; kill $! && echo it was held; reboot -f"
    machine = vm(
        kernel=kernel("full"),
        initrd=with_script(tmp_path, script),
        ports={"log": f"file:{tmp_path}/log"},
        serial_rate=10_000,
        append="quiet",
    )
    machine.start()
    machine.console.expect("it was held", DEADLINE)
    assert machine.wait(DEADLINE).reason is ExitReason.RESET


def test_a_panic_is_seen_on_hvc0(vm: VmFactory, tmp_path: Path) -> None:
    machine = vm(
        kernel=kernel("full"),
        initrd=with_script(tmp_path, "echo c >/proc/sysrq-trigger"),
        console_device="virtio",
    )
    result = machine.run()
    assert result.reason is ExitReason.PANIC
    assert "sysrq triggered crash" in result.detail


@pytest.mark.hardware
def test_debians_kernel_has_hvc0_once_its_module_is_loaded(
    vm: VmFactory, tmp_path: Path
) -> None:
    script = f"{LOAD}; exec <>/dev/hvc0 >&0 2>&1; echo up; read line; echo got $line"
    machine = vm(
        kernel=built("vmlinux-debian"),
        initrd=debian_initramfs(tmp_path, f"{script}; stty size; reboot -f"),
        console_device="virtio",
        cmdline="console=ttyS0 quiet reboot=k panic=-1",
        memory="256M",
    )
    machine.console.resize(50, 132)
    machine.start()
    machine.console.expect("up\r\n", DEADLINE)
    machine.console.sendline("a line")
    machine.console.expect("got a line\r\n50 132\r\n", DEADLINE)
    assert machine.wait(DEADLINE).reason is ExitReason.RESET


# Snapshots


@pytest.fixture
def ballooned(vm: VmFactory) -> Shell:
    machine = vm(
        kernel=kernel("full"),
        initrd=built("initramfs-busybox.cpio"),
        append="quiet guest.shell",
        memory="256M",
        balloon=0,
        rng=True,
        ports={"log": "capture"},
    )
    machine.start()
    return Shell(machine)


def test_clones_go_on_with_their_devices(ballooned: Shell) -> None:
    machine = ballooned.machine
    ballooned.ask(f"exec 3<>{port_device(ballooned, 'log')}")
    use_memory(ballooned, 120)
    machine.balloon.target = 64 * MIB
    machine.balloon.wait(DEADLINE)
    with machine.snapshot() as snapshot, snapshot.clone() as clone:
        shell = follow(clone)
        assert clone.balloon.target == clone.balloon.actual == 64 * MIB
        shell.ask("echo from the clone >&3")
        clone.port("log").expect("from the clone\n", DEADLINE)
        clone.port("log").sendline("to the clone")
        assert shell.ask("read line <&3; echo $line") == "to the clone\r\n"
        assert shell.ask("head -c 64 /dev/hwrng | wc -c") == "64\r\n"
        assert clone.balloon.statistics(DEADLINE)["free_memory"] > 0
        # Pages of the image that are given up, and then written to by the guest.
        clone.balloon.target = 150 * MIB
        clone.balloon.wait(DEADLINE)
        clone.balloon.target = 0
        clone.balloon.wait(DEADLINE)
        use_memory(shell, 120)
        clone.reset()
        assert clone.balloon.target == 64 * MIB
        assert shell.ask("echo and on") == "and on\r\n"
    assert machine.port("log").read() == b""


# `vmm run`


def test_the_guests_terminal_is_as_large_as_ours() -> None:
    command = [
        *(*VMM, "run", "--quiet", "--console", "virtio", "--append"),
        *("quiet guest.shell", "--kernel", str(kernel("full")), "--initrd"),
        str(built("initramfs-busybox.cpio")),
    ]
    with on_terminal(command) as terminal:
        terminal.resize(31, 99)
        terminal.read_until(b"# ")
        terminal.type(b"stty size\n")
        terminal.read_until(b"31 99")
        terminal.resize(45, 101)
        terminal.type(b'until [ "$(stty size)" = "45 101" ]; do sleep 0.05; done\n')
        terminal.type(b"echo re''sized; reboot -f\n")
        terminal.read_until(b"resized")
        assert terminal.process.wait(DEADLINE) == 0


def test_a_restored_machine_has_its_console_and_ports(tmp_path: Path) -> None:
    saved, log = tmp_path / "saved", tmp_path / "log"
    run = [
        *(*VMM, "run", "--kernel", kernel("full"), "--append", "quiet guest.shell"),
        *("--initrd", built("initramfs-busybox.cpio"), "--console", "virtio"),
        *("--port", f"log=file:{log}", "--save", saved, "--save-when", "# "),
    ]
    with on_terminal([str(word) for word in run]) as terminal:
        terminal.read_until(b"goes on from here")
        terminal.type(b"echo from the first >/dev/vport1p0; reboot -f\n")
        assert terminal.process.wait(DEADLINE) == 0
    assert log.read_text() == "from the first\n"
    restore = [*VMM, "restore", saved, "--port", f"log=file:{tmp_path}/other"]
    done = conversation(restore, b"echo again >/dev/vport1p0; echo o''n; reboot -f\n")
    assert done.returncode == 0
    assert b"\non\r\n" in done.stdout
    assert log.read_text() == "from the first\n"
    assert (tmp_path / "other").read_text() == "again\n"
    assert b"no driver" not in done.stderr  # one has found it before
    done = conversation([*VMM, "restore", saved, "--quiet"], b"reboot -f\n")
    assert (done.returncode, done.stderr) == (0, b"")


def conversation(
    command: Sequence[object], typed: bytes
) -> subprocess.CompletedProcess[bytes]:
    """What a command does with that on its standard input."""
    words = [str(word) for word in command]
    return subprocess.run(words, input=typed, capture_output=True, timeout=DEADLINE)


def test_options_give_the_guest_its_devices(tmp_path: Path) -> None:
    script = "dd if=/dev/hwrng bs=16 count=1 2>/dev/null >/dev/vport0p0"
    command = [
        *(*VMM, "run", "--quiet", "--kernel", kernel("full"), "--rng"),
        *("--balloon", "16M", "--port", f"random=file:{tmp_path}/random"),
        *("--serial", "null", "--initrd", with_script(tmp_path, script)),
    ]
    done = conversation(command, b"")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len((tmp_path / "random").read_bytes()) == 16
