"""Snapshots that go through files, and so to other processes."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.guests import DEADLINE, bare, bare_machine, built, kernel
from support.lengths import EMULATED
from support.snapshot_rig import resealed, unsealed
from support.terminals import on_terminal

from vmm import (
    ConfigError,
    ExitReason,
    ImageError,
    Machine,
    MachineConfig,
    MachineState,
    Snapshot,
    VmmError,
)
from vmm.devices import DeviceIo, PioAddressConstraint, ResourceConstraint

VMM = [sys.executable, "-m", "vmm"]
PROMPT = "/ # "


def vmm(
    *arguments: str | Path, stdin: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    command = [*VMM, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, timeout=DEADLINE, check=False
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A shell with a nonce, and a sleep under way that ends by printing it."""
    path = tmp_path_factory.mktemp("snapshot") / "s"
    config = MachineConfig(
        kernel=kernel("tiny"),
        initrd=built("initramfs-busybox.cpio"),
        append="quiet guest.shell",
        timeout=DEADLINE,
    )
    with Machine(config) as machine:
        console = machine.console
        machine.start()
        console.expect("# ", DEADLINE)
        for seconds in (1, 4, 16, 64):  # a slow shell may take longer to come back
            nonce = os.urandom(8).hex()
            console.sendline(f"nonce={nonce}; (sleep {seconds}; echo awake $nonce) &")
            shown = console.expect("# ", DEADLINE).before
            with machine.snapshot() as snapshot:
                shown += console.read_until_idle(0.1, DEADLINE)
                if f"awake {nonce}".encode() not in shown:
                    snapshot.save(path)
                    return path, nonce
    pytest.fail("no sleep is long enough")


@pytest.mark.linux
@pytest.mark.both
def test_it_goes_on_in_another_process(saved: tuple[Path, str], tmp_path: Path) -> None:
    path, nonce = saved
    result = tmp_path / "r.json"
    for _ in range(1 if EMULATED else 2):
        typed = b"echo now $nonce; wait; reboot -f\n"
        done = vmm("restore", path, "--result", result, stdin=typed)
        assert done.returncode == 0, done.stderr
        assert f"now {nonce}".encode() in done.stdout
        assert f"awake {nonce}".encode() in done.stdout  # its timer has gone on
        told = json.loads(result.read_text())
        assert (told["reason"], told["snapshot"]) == ("reset", str(path))


@pytest.mark.linux
@pytest.mark.both
def test_a_restored_one_is_saved_again_where_it_came_from(
    saved: tuple[Path, str], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    Snapshot.load(saved[0]).save(path)
    for number in range(2):
        with Snapshot.load(path).clone() as clone:
            clone.console.sendline(f"nonce=$nonce-{number}; echo done$nonce")
            clone.console.expect(f"done{saved[1]}", DEADLINE)
            clone.console.expect("# ", DEADLINE)
            with clone.snapshot() as snapshot:
                snapshot.save(path)
    with Snapshot.load(path).clone() as clone:
        clone.console.sendline("echo has$nonce")
        clone.console.expect(f"has{saved[1]}-0-1", DEADLINE)
        clone.reset()  # to what the file had
        clone.console.sendline("echo again$nonce")
        clone.console.expect(f"again{saved[1]}-0-1", DEADLINE)


@pytest.mark.linux
def test_what_a_clone_has_of_the_snapshot_can_not_be_changed(
    saved: tuple[Path, str],
) -> None:
    with Snapshot.load(saved[0]) as snapshot:
        with pytest.raises(ConfigError, match="memory: a clone has what the snapshot"):
            snapshot.clone(memory="256M")
        with snapshot.clone(timeout=0.01, start=False) as clone:
            assert clone.state is MachineState.CREATED
            assert clone.run().reason is ExitReason.TIMEOUT


@pytest.mark.linux
@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("saved.devices.0.state.scratch", 256, "SerialState.scratch is 256"),
        ("saved.devices.0.state.new", 1, "SerialState has no field new"),
        ("saved.devices.0.kind", "my.Device", "has my.Device where the clone has"),
        ("saved.cpuid", 1, "CPUID shows guests something else"),
    ],
)
def test_what_only_a_machine_can_tell_is_refused_then(
    saved: tuple[Path, str], tmp_path: Path, path: str, value: object, said: str
) -> None:
    Snapshot.load(saved[0]).save(tmp_path / "s")
    file = tmp_path / "s/state.json"
    state = unsealed(file.read_bytes())
    *way, last = path.split(".")
    at = state
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[last] = value
    file.write_bytes(resealed(state))
    done = vmm("restore", tmp_path / "s")
    assert (done.stdout, done.stderr.count(b"\n")) == (b"", 1)
    assert said in done.stderr.decode()
    assert done.returncode == 2


@pytest.mark.linux
def test_a_boot_again_is_one_of_the_same_images(saved: tuple[Path, str]) -> None:
    with Snapshot.load(saved[0]).clone(on_reset="restart") as clone:
        clone.console.sendline("reboot -f")
        clone.console.expect("guest: userspace", DEADLINE)
        clone.console.expect("# ", DEADLINE)
        clone.console.sendline("echo nonce:$nonce:")
        clone.console.expect("nonce::", DEADLINE)


class Own(DeviceIo):
    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [PioAddressConstraint.at(0x510, 1)]

    def state(self) -> None:
        return None

    def restore(self, state: object) -> None:
        assert state is None


@pytest.mark.both
def test_the_users_devices_are_to_be_given(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bare_machine("smp-pause", cpus=2, on_panic="pause") as machine:
        machine.plug(Own())
        machine.start()
        machine.wait(DEADLINE)
        with machine.snapshot() as snapshot:
            snapshot.save(path)
    loaded = Snapshot.load(path)
    with pytest.raises(VmmError, match=r"the snapshot has .*\.Own, which was plugged"):
        loaded.clone()
    with loaded.clone(devices=[Own()]) as clone:
        clone.console.send("?")
        clone.console.expect("all count\n", DEADLINE)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/state.json").read_bytes() == (
        path / "state.json"
    ).read_bytes()
    done = vmm("restore", path)
    assert b"Own: use Snapshot.load" in done.stderr
    assert done.returncode == 2


def echo(*options: object) -> list[str]:
    return ["run", "--kernel", str(bare("echo")), *map(str, options)]


def test_saved_when_it_prints_a_text_and_restored(tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = [*VMM, *echo("--save", path, "--save-when", "ready", "--timeout", 600)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as run:
        assert run.stderr is not None
        said = run.stderr.readline().decode()
        assert said == f"vmm: saved; 'vmm restore {path}' goes on from here\n"
        assert run.communicate(b"typedq")[0] == b"echo: ready\ntyped"  # it runs on
        assert run.returncode == 0
    out = tmp_path / "out"
    done = vmm("restore", path, "--serial", f"file:{out}", "--timeout", "0.2")
    assert (done.returncode, out.read_bytes()) == (124, b"")
    done = vmm("restore", path, "--quiet", "--timeout", str(DEADLINE), stdin=b"typedq")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"typed", b"")


def test_a_captured_commands_output_goes_on_where_it_went(tmp_path: Path) -> None:
    path = tmp_path / "s"
    options = "--kernel", kernel("tiny"), "--initrd", built("initramfs-busybox.cpio")
    command = "sh -c 'echo one; echo now >/dev/ttyS0; sleep 1; echo two; exit 7'"
    words = "--capture", "--exec", command, "--save", path, "--save-when", "now"
    done = vmm("run", *map(str, options), "--quiet", *words)
    assert (done.returncode, done.stdout) == (7, b"one\ntwo\n")
    done = vmm("restore", path, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"two\n", b"")
    done = vmm("restore", path, "--quiet", "--result", "/dev/full")
    assert (done.returncode, done.stdout) == (125, b"two\n")  # 1 may be the command's
    done = vmm("restore", path, "--shell")
    assert b"shell: there was no agent in the machine" in done.stderr
    assert done.returncode == 2


def test_what_debugcon_has_written_stays(tmp_path: Path) -> None:
    path, log = tmp_path / "s", tmp_path / "log"
    with bare_machine("echo", debugcon=f"file:{log}") as machine:
        machine.start()
        machine.console.expect("ready", DEADLINE)
        with machine.snapshot() as snapshot:
            snapshot.save(path)
            log.write_text("written before")
            with snapshot.clone() as clone:
                assert clone.debugcon is not None
                assert clone.debugcon.transcript == b""
    assert vmm("restore", path, "--quiet", stdin=b"q").returncode == 0
    assert log.read_text() == "written before"
    done = vmm("restore", path, "--quiet", "--result", "/dev/full", stdin=b"q")
    assert done.returncode == 1  # it isn't taken for a command's
    other = f"file:{tmp_path}/other"
    done = vmm("restore", path, "--quiet", "--debugcon", other, stdin=b"q")
    assert done.returncode == 0
    assert (tmp_path / "other").exists()


def test_a_text_that_never_comes_fails_the_run(tmp_path: Path) -> None:
    words = "--save", tmp_path / "s", "--save-when", "never", "--result"
    done = vmm(*echo(*words, tmp_path / "r.json"), stdin=b"q")
    assert "not saved: the guest has ended, and never printed 'never'" in (
        done.stderr.decode()
    )
    assert done.returncode == 1
    told = json.loads((tmp_path / "r.json").read_text())
    assert (told["reason"], told["exit_code"], told["success"]) == ("reset", 1, False)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--save-when", "x"], "save-when: say where: pass --save DIR, too"),
        (["--save", "s"], "save: nobody can say when: pass --save-when TEXT"),
        (["--save", "s", "--save-when", ""], "save-when: it is empty"),
        (["--save", "/proc", "--save-when", "x"], "save: '/proc' is there, is no"),
    ],
)
def test_nothing_to_save_by(options: Sequence[str], said: str) -> None:
    done = vmm(*echo(*options))
    assert done.stderr.decode().startswith(f"vmm: error: {said}")
    assert (done.returncode, done.stdout) == (2, b"")


def test_ctrl_a_s_saves_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with on_terminal([*VMM, *echo("--save", path)]) as terminal:
        terminal.read_until(b"echo: ready")
        terminal.type(b"\x01h")
        terminal.read_until(b"Ctrl-A s  save the machine")
        for _ in range(2):
            terminal.type(b"\x01s")
            terminal.read_until(b"vmm: saved; 'vmm restore")
        terminal.type(b"q")
        assert terminal.process.wait(DEADLINE) == 0
    with on_terminal([*VMM, "restore", str(path)]) as terminal:
        terminal.type(b"again")
        terminal.read_until(b"again")
        terminal.type(b"q")
        assert terminal.process.wait(DEADLINE) == 0


def test_another_boot_of_the_host_is_refused(tmp_path: Path) -> None:
    with bare_machine("echo") as machine:
        machine.start()
        machine.console.expect("ready", DEADLINE)
        with machine.snapshot() as snapshot:
            snapshot.save(tmp_path / "s")
    file = tmp_path / "s/state.json"
    state = unsealed(file.read_bytes())
    state["host"]["boot_id"] = "another"
    file.write_bytes(resealed(state))
    if state["host"]["kvm"] != "pvm":
        Snapshot.load(tmp_path / "s").close()
        return
    with pytest.raises(ImageError, match="its boot was another, and here is"):
        Snapshot.load(tmp_path / "s")


def test_many_loads_leave_nothing_behind(tmp_path: Path) -> None:
    with bare_machine("echo") as machine:
        machine.start()
        machine.console.expect("ready", DEADLINE)
        with machine.snapshot() as snapshot:
            snapshot.save(tmp_path / "s")
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(10):
        with Snapshot.load(tmp_path / "s") as loaded, loaded.clone() as clone:
            clone.console.send("xq")
            assert clone.wait(DEADLINE).reason is ExitReason.RESET
            assert clone.result is not None
            assert clone.result.snapshot == str(tmp_path / "s")
    del loaded
    time.sleep(0.01)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
