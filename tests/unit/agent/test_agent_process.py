"""The real vmm-agent, as a process of this host's, and a Guest that speaks with it."""

import errno
import gc
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.agent_rig import PtyWire, agent_process
from support.guests import built

from vmm import VmmError
from vmm.agent.guest import DEVNULL, STDOUT_TOO, Guest

Rig = tuple[Guest, PtyWire]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("agent") / "vmm-agent"
    program.write_bytes(built("vmm-agent").read_bytes())
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def rig(program: Path) -> Iterator[Rig]:
    with agent_process(program) as found:
        yield found


@pytest.fixture
def guest(rig: Rig) -> Guest:
    rig[0].wait_ready(10)
    return rig[0]


def test_streams_are_apart_and_the_status_is_passed_on(guest: Guest) -> None:
    done = guest.run("echo out; echo err >&2; exit 7", text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert guest.run(["true"]).stdout == b""


def test_check_raises_with_what_was_printed(guest: Guest) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        guest.run("echo why >&2; false", check=True)
    assert (caught.value.returncode, caught.value.stderr) == (1, b"why\n")


def test_signal_is_a_negative_status(guest: Guest) -> None:
    assert guest.run("kill -TERM $$").returncode == -signal.SIGTERM


def test_timeout_kills_the_whole_group_and_tells_what_was_printed(
    guest: Guest, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        guest.run(
            f"sleep 1000 & echo $! $$ > {pids}; echo begun; wait",
            timeout=2,
            text=True,
        )
    assert str(caught.value.stdout) == "begun\n"
    guest.run(["true"])  # all that was sent before is done
    end = time.monotonic() + 10
    for pid in pids.read_text().split():
        while is_alive(pid):
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("text", [False, True])
def test_process_that_is_dropped_takes_no_lock_and_reads_to_its_end(
    guest: Guest, text: bool
) -> None:
    process = guest.popen(["cat"], stdin=subprocess.PIPE, text=text)
    pid = str(process.pid)
    held, collected = threading.Event(), threading.Event()

    def hold() -> None:
        with guest._session.changed:
            held.set()
            assert collected.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    del process
    gc.collect()
    collected.set()
    holder.join()
    guest.run(["true"])  # with which it is told
    end = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_alive(pid: str) -> bool:
    """Whether it runs; one that nobody has buried doesn't."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_timeout_within_a_character(guest: Guest) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        guest.run(r"printf 'x\303'; sleep 1000", text=True, timeout=1)
    assert str(caught.value.stdout) == "x\N{REPLACEMENT CHARACTER}"


def test_timeout_kills_what_has_outlived_the_command(
    guest: Guest, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(subprocess.TimeoutExpired):
        guest.run(f"sleep 1000 & echo $! > {pid}", timeout=1)
    end = time.monotonic() + 10
    while is_alive(pid.read_text().strip()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_env_is_all_there_is_and_cwd_is_where_it_runs(guest: Guest) -> None:
    done = guest.run(["/usr/bin/env"], env={"A": "1", "B": "ü"}, text=True)
    assert sorted(done.stdout.splitlines()) == ["A=1", "B=ü"]
    assert guest.run(["pwd"], cwd="/usr", text=True).stdout == "/usr\n"
    assert "HOME=/\n" in guest.run(["env"], text=True).stdout


def test_input_is_read_to_its_end(guest: Guest) -> None:
    data = os.urandom(300_000)
    assert guest.run(["cat"], input=data).stdout == data
    assert guest.run(["cat"]).stdout == b""  # /dev/null
    assert guest.run(["true"], input=data).returncode == 0  # who doesn't read


def test_large_output(guest: Guest) -> None:
    done = guest.run("head -c 3000000 /dev/zero")
    assert done.stdout == bytes(3_000_000)


@pytest.mark.parametrize(
    ("args", "settings", "number", "name"),
    [
        (["nowhere"], {}, errno.ENOENT, "nowhere"),
        (["/nowhere"], {}, errno.ENOENT, "/nowhere"),
        (["/etc/passwd"], {}, errno.EACCES, "/etc/passwd"),
        (["/tmp"], {}, errno.EACCES, "/tmp"),
        (["true"], {"cwd": "/nowhere"}, errno.ENOENT, "/nowhere"),
    ],
)
def test_what_cant_be_started_is_an_oserror(
    guest: Guest, args: list[str], settings: dict[str, str], number: int, name: str
) -> None:
    for start in (guest.run, guest.popen):
        with pytest.raises(OSError, match=r"No such|denied") as caught:
            start(args, **settings)  # type: ignore[arg-type]
        assert (caught.value.errno, caught.value.filename) == (number, name)


def test_script_without_an_interpreter(guest: Guest, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo it runs\n")
    script.chmod(0o755)
    assert guest.run([script], text=True).stdout == "it runs\n"
    script.write_text("#!/nowhere\n")
    with pytest.raises(FileNotFoundError, match="what its first line names"):
        guest.run([script])


@pytest.mark.parametrize(
    ("args", "settings", "error"),
    [
        (3, {}, TypeError),
        ([], {}, ValueError),
        ([""], {}, ValueError),
        (["a", 3], {}, TypeError),
        (["a\0b"], {}, ValueError),
        (["a"] * 2000, {}, ValueError),
        (["a" * 70000], {}, ValueError),
        (["a"], {"env": {"A=": "1"}}, ValueError),
        (["a"], {"env": ["A"]}, TypeError),
        (["a"], {"cwd": 3}, TypeError),
        (["a"], {"user": -1}, ValueError),
        (["a"], {"user": "root"}, TypeError),
        (["a"], {"input": "text"}, TypeError),
    ],
)
def test_what_no_command_can_have(
    guest: Guest, args: object, settings: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"args|env|cwd|user|input"):
        guest.run(args, **settings)  # type: ignore[arg-type]


def test_many_words(guest: Guest) -> None:
    words = [str(n) for n in range(1000)]
    assert guest.run(["echo", *words], text=True).stdout.split() == words
    long = "x" * 60000
    assert guest.run(["echo", long], text=True).stdout == long + "\n"


def test_another_user(guest: Guest) -> None:
    if os.getuid():
        pytest.skip("only root becomes another")
    done = guest.run("id -u; id -g", user=1234, group=4321, text=True)
    assert done.stdout.split() == ["1234", "4321"]


def test_popen_has_files_and_a_pid(guest: Guest) -> None:
    with guest.popen("read a; echo got $a; read a; exit 3", text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.poll() is None
        assert Path(f"/proc/{process.pid}").exists()
        process.stdin.write("one\n")
        assert process.stdout.readline() == "got one\n"
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait(10) == 3
        assert process.returncode == process.poll() == 3


def test_popen_and_signals(guest: Guest) -> None:
    process = guest.popen(["sleep", "1000"], stdin=DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    process.kill()  # of one that has ended: nothing
    caught = guest.popen(
        "trap 'echo usr1; exit 0' USR1; echo on; while :; do sleep 0.01; done"
    )
    assert caught.stdout is not None
    assert caught.stdout.readline() == b"on\n"
    caught.send_signal(signal.SIGUSR1)
    assert caught.communicate(timeout=10) == (b"usr1\n", b"")


def test_communicate_again_sends_the_rest(guest: Guest) -> None:
    with guest.popen("sleep 0.5; wc -c", text=True) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate("x" * 100_000, timeout=0.1)
        with pytest.raises(ValueError, match="wasn't sent"):
            process.communicate("more")
        assert process.communicate(timeout=10) == ("100000\n", "")


def test_signals_of_real_time_and_none(guest: Guest) -> None:
    with guest.popen(["sleep", "1000"]) as process:
        process.send_signal(0)
        with pytest.raises(ValueError, match="no signal 65"):
            process.send_signal(65)
        process.send_signal(signal.SIGRTMIN + 1)
        assert process.wait(10) == -(signal.SIGRTMIN + 1)


def test_poll_of_one_that_will_never_have_a_status(guest: Guest) -> None:
    process = guest.popen(["sleep", "1000"])
    process.close()
    with pytest.raises(VmmError, match="was closed"):
        process.poll()


@pytest.mark.parametrize("setting", [{"encoding": "nope"}, {"errors": "nope"}])
def test_encoding_that_there_isnt(
    guest: Guest, setting: dict[str, str], tmp_path: Path
) -> None:
    for start in (guest.run, guest.popen):
        with pytest.raises(LookupError, match="nope"):
            start(["touch", tmp_path / "ran"], **setting)  # type: ignore[arg-type]
    guest.run(["true"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["capture_output", "stdout", "shell", "has_input"])
def test_setting_of_subprocess_that_there_isnt(guest: Guest, name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}': all output is captured"):
        guest.run(["true"], **{name: True})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=name):
        guest.popen(["true"], **{name: True})  # type: ignore[arg-type]


def test_input_byte_by_byte(guest: Guest) -> None:
    """Each would be answered, if it were, by more than it has."""
    with guest.popen("sleep 0.3; cat") as process:
        assert process.stdin is not None
        for _ in range(5000):
            process.stdin.write(b"x")
        assert process.communicate(timeout=10) == (b"x" * 5000, b"")


def test_stderr_into_stdout(guest: Guest) -> None:
    process = guest.popen("echo a; echo b >&2; echo c", stderr=STDOUT_TOO, text=True)
    assert process.communicate("", 10) == ("a\nb\nc\n", None)


def test_slow_reader_holds_its_own_command_alone(guest: Guest) -> None:
    with guest.popen(["yes"]) as slow:
        for _ in range(3):
            assert guest.run(["echo", "quick"], text=True).stdout == "quick\n"
        assert slow.stdout is not None
        assert slow.stdout.read(1_000_000) == b"y\n" * 500_000
    assert guest.run(["true"]).returncode == 0


def test_command_that_doesnt_read_holds_nobody(guest: Guest) -> None:
    with guest.popen(["sleep", "1000"]) as deaf:
        assert deaf.stdin is not None
        write = deaf.stdin.write

        def write_much() -> None:
            with pytest.raises(BrokenPipeError):
                write(bytes(1 << 20))

        writer = threading.Thread(target=write_much)
        writer.start()
        assert guest.run(["cat"], input=b"x").stdout == b"x"
        deaf.kill()
        writer.join(10)
        assert not writer.is_alive()


def test_background_process_keeps_its_output_open(guest: Guest) -> None:
    with guest.popen("(sleep 0.3; echo late) & echo done") as process:
        assert process.wait(10) == 0
        assert process.communicate() == (b"done\nlate\n", b"")


def test_several_at_once(guest: Guest) -> None:
    def one(number: int) -> bool:
        done = guest.run(["cat"], input=str(number).encode() * 1000)
        return bool(done.stdout == str(number).encode() * 1000)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(200)))


def test_more_than_it_has_room_for(guest: Guest) -> None:
    running = [guest.popen(["sleep", "1000"], stdin=DEVNULL) for _ in range(32)]
    with pytest.raises(BlockingIOError):
        guest.run(["true"])
    for process in running:
        process.close()
    end = time.monotonic() + 10
    while True:
        try:
            assert guest.run(["true"]).returncode == 0
            return
        except BlockingIOError:  # they are being killed
            assert time.monotonic() < end


def test_another_host_has_room_however_much_runs(guest: Guest) -> None:
    running = [guest.popen(["sleep", "1000"]) for _ in range(32)]
    pids = [process.pid for process in running]
    guest.reconnect()
    assert guest.run(["echo", "quick"], timeout=10).stdout == b"quick\n"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)  # they ran on


def test_files_put_into_a_directory_at_once(guest: Guest, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()

    def put(number: int) -> None:
        file = tmp_path / str(number)
        file.write_bytes(bytes([number]) * 300_000)
        guest.put(file, there)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(1, 25)))
    assert {int(file.name): set(file.read_bytes()) for file in there.iterdir()} == {
        number: {number} for number in range(1, 25)
    }


def test_run_keeps_so_much_and_no_more(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.agent.process.CAPTURE_LIMIT", 1 << 20)
    with pytest.raises(VmmError, match="printed more than 1 MiB"):
        guest.run(["yes"])
    assert guest.run(["true"]).returncode == 0


def test_terminal_of_its_own_that_is_resized(guest: Guest) -> None:
    with guest.popen("tty; stty size; read a; stty size", pty=(33, 99)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"/dev/pts/")
        assert process.stdout.readline() == b"33 99\r\n"
        process.resize(50, 132)
        process.stdin.write(b"\n")
        assert b"50 132\r\n" in process.stdout.read()
        assert process.wait(10) == 0


def test_interrupt_key_on_a_terminal(guest: Guest) -> None:
    script = "trap 'exit 3' INT; echo on; while :; do sleep 0.01; done"
    with guest.popen(script, pty=(24, 80)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\r\n"
        process.stdin.write(b"\x03")
        assert process.wait(10) == 3


# Files


def test_texts_and_bytes(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not guest.exists(path)
    guest.write_text(path, "grüße\n", mode=0o600)
    assert guest.exists(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert guest.read_text(path) == "grüße\n"
    guest.write_bytes(path, b"\0" * 200_000)
    assert guest.read_bytes(path) == b"\0" * 200_000
    assert guest.read_text("/proc/self/comm") == "vmm-agent\n"
    with pytest.raises(FileNotFoundError) as caught:
        guest.read_bytes("/nowhere")
    assert caught.value.filename == "/nowhere"
    with pytest.raises(IsADirectoryError):
        guest.write_text("/tmp", "")
    assert not guest.exists("/etc/passwd/x")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "deep/er").mkdir(parents=True)
    (root / "run").write_bytes(b"#!/bin/sh\n")
    (root / "run").chmod(0o751)
    (root / "deep/er/zeros").write_bytes(bytes(300_000) + b"end")
    (root / "deep/link").symlink_to("../run")
    (root / "deep/dangling").symlink_to("/nowhere/at/all")
    (root / "empty").write_bytes(b"")
    os.utime(root / "run", ns=(10**18, 10**18 + 123))
    (root / "deep").chmod(0o555)
    return root


def described(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = mode
        else:
            found[name] = mode, path.read_bytes(), status.st_mtime_ns
    return found


def test_directory_there_and_back(guest: Guest, tree: Path, tmp_path: Path) -> None:
    guest.put(tree, tmp_path / "there")
    assert described(tmp_path / "there") == described(tree)
    guest.get(tmp_path / "there", tmp_path / "back")
    assert described(tmp_path / "back") == described(tree)
    (tmp_path / "in").mkdir()
    guest.get(tmp_path / "there", tmp_path / "in")
    assert described(tmp_path / "in/there") == described(tree)
    with pytest.raises(FileExistsError):
        guest.get(tmp_path / "there", tmp_path / "in")


def test_file_into_a_directory(guest: Guest, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    guest.put(tree / "run", tmp_path / "in")
    guest.get(tmp_path / "in/run", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "out").stat().st_mode == (tree / "run").stat().st_mode
    with pytest.raises(FileNotFoundError):
        guest.put(tree / "run", tmp_path / "nowhere/x")
    with pytest.raises(FileNotFoundError):
        guest.put(tmp_path / "nothing", tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        guest.get(tmp_path / "nothing", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_sparse_file_of_a_gibibyte(guest: Guest, tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(1 << 30)
        for at in (0, 123_456_789, (1 << 30) - 5):
            file.seek(at)
            file.write(b"data")
    guest.put(source, tmp_path / "there")
    guest.get(tmp_path / "there", tmp_path / "back")
    for name in ("there", "back"):
        status = (tmp_path / name).stat()
        assert status.st_size == 1 << 30
        assert status.st_blocks * 512 < 1 << 20
        with (tmp_path / name).open("rb") as file:
            file.seek(123_456_789)
            assert file.read(6) == b"data\0\0"


def test_failed_get_leaves_nothing(guest: Guest, tree: Path, tmp_path: Path) -> None:
    if not os.getuid():
        (tree / "loop").mkdir()
    deep = tree / "loop"
    for n in range(70):
        deep = deep / f"d{n}"
    deep.mkdir(parents=True)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(OSError, match="Too many levels") as caught:
        guest.get(tree, out / "x")
    assert caught.value.errno == errno.ELOOP
    assert "d6" in str(caught.value.filename)
    assert list(out.iterdir()) == []


# The line


def test_garbage_between_frames_is_nothing(rig: Rig, guest: Guest) -> None:
    for junk in (b"\0", b"hello\0", os.urandom(10_000) + b"\0", b"\xff" * 3000 + b"\0"):
        rig[1].send(junk)
        assert guest.run(["echo", "x"]).stdout == b"x\n"
        rig[1].session.receive(lambda junk=junk: junk)  # type: ignore[misc]
        assert guest.run(["echo", "x"]).stdout == b"x\n"


def test_lost_frame_fails_what_runs_and_nothing_else(rig: Rig, guest: Guest) -> None:
    session = rig[1].session
    process = guest.popen(["sleep", "1000"])
    with session.changed:
        session._out_sequence += 1  # as if one had been sent
    with session.changed:
        process._channel.signal(0, group=False)
    with pytest.raises(VmmError, match="was damaged on the way"):
        process.communicate()
    assert guest.run(["echo", "x"]).stdout == b"x\n"
    assert session.lost


def test_another_host_says_hello_in_the_middle_of_a_frame(
    rig: Rig, guest: Guest, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    process = guest.popen(f"yes | head -c 300000; echo > {flag}; sleep 1000")
    rig[1].send(b"\x22half a frame")  # and no end
    guest.reconnect()
    assert guest.run(["echo", "new"], text=True).stdout == "new\n"
    with pytest.raises(VmmError, match="was made anew"):
        process.wait()
    end = time.monotonic() + 10
    while not flag.exists():  # what it prints now is thrown away
        assert time.monotonic() < end
        time.sleep(0.01)
    guest.run(["pkill", "-f", "^sleep 1000$"])


def test_agent_behind_half_a_frame(program: Path) -> None:
    """Of a boot before it."""
    with agent_process(program, heard=b"\x05half") as (guest, _):
        guest.wait_ready(10)
