"""A guest's agent: many commands in one guest, from Python and from a shell."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.guests import DEADLINE, built

from vmm import ExitReason, GuestEnded, Machine, MachineConfig, VmmError
from vmm.agent.guest import DEVNULL, Guest
from vmm.guest import cpio

pytestmark = pytest.mark.linux


def agent_machine(**settings: object) -> Machine:
    """With busybox, and the agent as its init unless `settings` say otherwise."""
    chosen = {"agent": True, "timeout": DEADLINE, "append": "quiet", **settings}
    return Machine(MachineConfig(**chosen))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with agent_machine() as machine:
        machine.start()
        machine.guest.wait_ready(DEADLINE)
        yield machine


@pytest.fixture
def guest(machine: Machine) -> Guest:
    return machine.guest


def test_a_command_and_its_streams(guest: Guest) -> None:
    done = guest.run("echo out; echo err >&2; exit 3", text=True, timeout=DEADLINE)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    assert guest.run("kill -9 $$").returncode == -signal.SIGKILL
    with pytest.raises(subprocess.CalledProcessError):
        guest.run(["false"], check=True)
    with pytest.raises(FileNotFoundError):
        guest.run(["nowhere"])


def test_a_guest_without_memory_loses_a_command_and_not_its_agent(guest: Guest) -> None:
    for _ in range(2):
        done = guest.run(["tail", "/dev/zero"], timeout=DEADLINE)
        assert done.returncode == -signal.SIGKILL
        guest.run(["true"], check=True)
    assert b"Out of memory: Killed process" in guest.run("dmesg").stdout


def test_what_a_guest_without_an_init_has(guest: Guest) -> None:
    done = guest.run("ls /proc/self/fd /dev/shm /tmp; echo x > /dev/stdout", check=True)
    assert done.stdout.endswith(b"x\n")
    assert guest.read_text("/proc/1/comm") == "vmm-agent\n"
    assert guest.read_text("/proc/1/oom_score_adj") == "-1000\n"
    assert guest.read_text("/proc/self/oom_score_adj") == "0\n"
    locked = [
        line
        for line in guest.read_text("/proc/1/status").splitlines()
        if "VmLck" in line
    ]
    assert int(locked[0].split()[1]) > 100


def test_env_cwd_and_input(guest: Guest) -> None:
    env = {"PATH": "/bin", "WORD": "grün"}
    done = guest.run("echo $WORD; pwd; cat", env=env, cwd="/bin", input="in", text=True)
    assert done.stdout == "grün\n/bin\nin"
    data = os.urandom(50_000)
    assert guest.run(["cat"], input=data).stdout == data


def test_timeout_kills_the_group(guest: Guest) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        guest.run("echo begun; sleep 4321 & sleep 4321; true", timeout=2)
    assert caught.value.stdout == b"begun\n"
    end = time.monotonic() + DEADLINE
    while b"4321" in guest.run(["ps"]).stdout:
        assert time.monotonic() < end


def test_several_at_once(guest: Guest) -> None:
    def one(number: int) -> str:
        return str(guest.run(f"echo {number}; sleep 0.2", text=True).stdout)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, range(16))) == [f"{n}\n" for n in range(16)]


def test_large_output_takes_few_exits(machine: Machine) -> None:
    before = machine.exits["io"]
    done = machine.guest.run(["head", "-c", "1000000", "/dev/urandom"])
    assert len(done.stdout) == 1_000_000
    assert machine.exits["io"] - before < 3000


def test_by_ports_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its memory can't be locked, or not be read from outside."""
    monkeypatch.setattr("vmm.vcpu.virtual_memory.read_virtual", lambda *_: b"")
    with agent_machine() as machine:
        machine.start()
        data = os.urandom(5000)
        assert machine.guest.run(["cat"], input=data, timeout=DEADLINE).stdout == data


def test_popen(guest: Guest) -> None:
    with guest.popen("read a; echo got $a; sleep 1000", text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("it\n")
        assert process.stdout.readline() == "got it\n"
        assert guest.exists(f"/proc/{process.pid}")
        process.terminate()
        assert process.wait(DEADLINE) == -signal.SIGTERM


def test_files_there_and_back(guest: Guest, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/run").write_text("#!/bin/sh\necho it runs\n")
    (tree / "sub/run").chmod(0o755)
    (tree / "link").symlink_to("sub/run")
    guest.put(tree, "/tree")
    assert guest.run(["/tree/link"], text=True).stdout == "it runs\n"
    guest.get("/tree", tmp_path / "back")
    assert (tmp_path / "back/sub/run").stat().st_mode & 0o777 == 0o755
    assert os.readlink(tmp_path / "back/link") == "sub/run"
    guest.write_text("/note", "a\n")
    assert guest.read_text("/note") == "a\n"
    guest.write_text("/dev/null", "nothing")
    with pytest.raises(FileNotFoundError):
        guest.get("/nowhere", tmp_path / "x")


def test_sparse_file_in_the_initramfs(guest: Guest, tmp_path: Path) -> None:
    """ramfs knows of no holes, and reading them would fill the guest's memory."""
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(777_777_777)
        file.write(b"data")
    guest.put(source, "/sparse")
    guest.get("/sparse", tmp_path / "back")
    guest.run(["rm", "/sparse"], check=True)
    status = (tmp_path / "back").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20
    with (tmp_path / "back").open("rb") as file:
        file.seek(777_777_777)
        assert file.read(5) == b"data\0"


def test_pause_under_a_command(machine: Machine) -> None:
    with machine.guest.popen(["cat"]) as process:
        machine.pause()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"sent while it stood\n")
        with pytest.raises(subprocess.TimeoutExpired):  # time goes on for us
            machine.guest.run(["true"], timeout=0.2)
        machine.resume()
        assert process.stdout.readline() == b"sent while it stood\n"


def test_another_host_in_the_middle_of_it(machine: Machine) -> None:
    guest = machine.guest
    running = guest.popen("while echo x; do :; done", stdin=DEVNULL)
    before = guest.read_bytes("/proc/uptime")
    guest.reconnect()
    assert guest.read_bytes("/proc/uptime") >= before
    with pytest.raises(VmmError, match="made anew"):
        running.wait()
    guest.run(["busybox", "killall", "sh"])


def test_clock_and_entropy_of_another_host(guest: Guest) -> None:
    guest.run(["date", "-s", "@1000"], check=True)
    guest.reconnect()
    assert int(guest.run(["date", "+%s"]).stdout) < 2000
    guest.reconnect(set_clock=True)
    assert abs(int(guest.run(["date", "+%s"]).stdout) - time.time()) < 60


def test_when_memory_is_short(guest: Guest) -> None:
    """The kernel kills the command, not the agent."""
    assert guest.run(["tail", "/dev/zero"], timeout=DEADLINE).returncode == -9
    assert guest.run(["echo", "x"]).stdout == b"x\n"


def test_who_else_writes_to_the_line(guest: Guest) -> None:
    guest.run("head -c 3000 /dev/urandom > /dev/ttyS1", check=True)
    assert guest.run(["echo", "x"]).stdout == b"x\n"


def test_by_the_uart_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the kernel lets no program use ports."""

    def nobody(_: object, base: int, offset: int, data: memoryview) -> None:
        data[:] = b"\xff" * len(data)

    monkeypatch.setattr("vmm.agent.line.AgentPorts.pio_read", nobody)
    with agent_machine() as machine:
        machine.start()
        data = os.urandom(5000)
        assert machine.guest.run(["cat"], input=data, timeout=DEADLINE).stdout == data


def test_kernel_that_panics_under_a_command() -> None:
    with agent_machine() as machine:
        machine.start()
        with pytest.raises(GuestEnded, match="sysrq triggered crash") as caught:
            machine.guest.run("echo c > /proc/sysrq-trigger", timeout=DEADLINE)
        assert caught.value.result.reason is ExitReason.PANIC
        assert "Kernel panic" in caught.value.result.oops
        with pytest.raises(GuestEnded):
            machine.guest.run(["true"])


def test_beside_the_users_init(tmp_path: Path) -> None:
    """It finds nothing that the agent has made, and its own process 1."""
    script = (
        "#!/bin/sh\nls /proc > /seen\nmount -t proc proc /proc && exec sleep 1000\n"
    )
    image = tmp_path / "initrd"
    entries = [cpio.file("my-init", script.encode(), 0o755)]
    busybox = built("initramfs-busybox.cpio").read_bytes()
    image.write_bytes(busybox + cpio.write(entries))
    with agent_machine(initrd=image, append="quiet rdinit=/my-init") as machine:
        machine.start()
        guest = machine.guest
        end = time.monotonic() + DEADLINE
        while not guest.exists("/proc/1/cmdline"):
            assert time.monotonic() < end
        assert guest.read_text("/proc/1/cmdline").startswith("sleep")
        assert guest.read_text("/seen") == ""
        assert b"VMM_AGENT" not in guest.read_bytes("/proc/1/environ")


def test_guest_whose_init_resets() -> None:
    with agent_machine(initrd=built("initramfs-tiny.cpio")) as machine:
        machine.start()
        machine.wait(DEADLINE)
        with pytest.raises(GuestEnded, match=r"it has ended \(reset\)"):
            machine.guest.exists("/x")


def test_guest_that_boots_again() -> None:
    with agent_machine(on_reset="restart") as machine:
        machine.start()
        machine.guest.wait_ready(DEADLINE)
        with pytest.raises(VmmError, match="has booted anew"):
            machine.guest.run(["reboot", "-f"], timeout=DEADLINE)
        assert machine.guest.run(["true"], timeout=DEADLINE).returncode == 0


def test_machine_without_an_agent() -> None:
    machine = Machine(MachineConfig())
    with machine, pytest.raises(VmmError, match="guest: there is no agent in it"):
        machine.guest.run(["true"])
    with agent_machine() as machine, pytest.raises(VmmError, match="isn't started"):
        machine.guest.run(["true"])


def shell(text: bytes, *options: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "vmm", "run", "--shell", "--quiet", *options]
    return subprocess.run(command, input=text, capture_output=True, timeout=DEADLINE)


def test_shell_that_reads_a_pipe() -> None:
    done = shell(b"echo out; echo err >&2; exit 5\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 5)


def test_shell_whose_guest_panics() -> None:
    done = shell(b"echo c > /proc/sysrq-trigger\n")
    assert done.returncode == 125
