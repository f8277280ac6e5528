"""The `vmm run` command as a user's shell sees it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
from support.guests import DEADLINE, bare, wait_until
from support.terminals import on_terminal

VMM = (sys.executable, "-m", "vmm")


def command(name: str, *options: str) -> list[str]:
    """`vmm run` with a bare guest."""
    return [*VMM, "run", "--kernel", str(bare(name)), *options]


@contextmanager
def running(
    name: str, *options: str, start_new_session: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A run in the background with pipes; killed at the end if it still is."""
    with subprocess.Popen(
        command(name, *options),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=start_new_session,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def outcome(name: str, *options: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a whole run."""
    with running(name, *options) as process:
        out, err = process.communicate(stdin, timeout=DEADLINE)
        return process.returncode, out.decode(), err.decode()


def test_console_goes_to_stdout_and_messages_to_stderr() -> None:
    code, out, err = outcome("hello")
    assert (code, out) == (0, "hello from the bare guest\n")
    assert err.startswith("vmm: the guest reset (")


def test_quiet_says_nothing() -> None:
    assert outcome("hello", "--quiet")[2] == ""


def test_input_from_a_pipe_reaches_the_guest() -> None:
    code, out, _ = outcome("echo", stdin=b"abcq")
    assert code == 0
    assert "echo: ready\nabc" in out


def test_result_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    outcome("panic", "--result", str(path))
    result = json.loads(path.read_text())
    assert result["reason"] == "panic"
    assert result["exit_code"] == 34
    assert result["guest_status"] is None
    assert result["exits"]["io"] > 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["/dev/stdout", "{log}"])
def test_result_in_the_consoles_own_file_follows_it(tmp_path: Path, place: str) -> None:
    """As by `--result /dev/stdout > log`."""
    log = tmp_path / "log"
    options = ("--quiet", "--result", place.format(log=log))
    with log.open("wb") as stdout:
        subprocess.run(command("hello", *options), stdout=stdout, check=True)
    console, _, result = log.read_text().partition("\n")
    assert console == "hello from the bare guest"
    assert json.loads(result)["reason"] == "reset"


def test_result_file_of_a_run_that_could_not_start(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    code, _, err = outcome("hello", "--memory", "12X", "--result", str(path))
    assert code == 2
    assert json.loads(path.read_text())["detail"] in err


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("triple-fault", 33, "vmm: the guest crashed: triple fault at "),
        ("bad-jump", 33, "vmm: the guest crashed: "),
        ("panic", 34, "vmm: the guest panicked: Kernel panic"),
    ],
)
def test_exit_codes(name: str, code: int, words: str) -> None:
    returned, _, err = outcome(name)
    assert returned == code
    assert err.startswith(words)


def test_timeout_ends_with_124() -> None:
    code, _, err = outcome("spin", "--timeout", "0.3")
    assert code == 124
    assert err.startswith("vmm: timed out: the guest still ran after 0.3 s")


def test_hang_ends_with_35_and_a_report() -> None:
    code, _, err = outcome("halt", "--hang", "0.3")
    assert code == 35
    lines = err.splitlines()
    assert lines[0].startswith("vmm: the guest hangs: no console output and no exit")
    assert lines[1] == "vCPU 0:"
    assert lines[2].startswith("RIP: 0010:")


def test_a_crash_is_reported_after_its_line_unless_quiet() -> None:
    assert "\nvCPU 0:\nRIP: " in outcome("bad-jump")[2]
    assert outcome("bad-jump", "--quiet")[2] == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_paused_run_waits_for_a_signal_and_keeps_its_code(
    number: signal.Signals,
) -> None:
    with running("panic-halt", "--on-panic", "pause") as process:
        assert process.stderr is not None
        first, second = process.stderr.readline(), process.stderr.readline()
        assert first.startswith(b"vmm: the guest panicked: Kernel panic")
        assert second == b"vmm: paused; Ctrl-C or SIGTERM ends it\n"
        process.send_signal(number)
        assert process.wait(DEADLINE) == 34


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_the_run(number: signal.Signals) -> None:
    with running("spin") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"spin"
        process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 128 + number
    assert err.decode().startswith(f"vmm: stopped: {number.name} (")


def test_several_signals_at_once_are_one_line_with_the_code_of_one() -> None:
    with running("spin") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"spin"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE)
    name = {130: "SIGINT", 143: "SIGTERM"}[process.returncode]
    assert err.decode().startswith(f"vmm: stopped: {name} (")
    assert err.count(b"\n") == 1


def test_closed_standard_streams_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    shell = f"exec {' '.join(VMM)} run --kernel {bare('hello')} --result {path}"
    done = subprocess.run(["sh", "-c", f"{shell} <&- >&- 2>&-"], timeout=DEADLINE)
    assert done.returncode == 0
    assert json.loads(path.read_text())["reason"] == "reset"


@pytest.mark.parametrize(
    ("serial", "shown"), [("null", b""), ("stdio", b"hello from the bare guest\n")]
)
def test_dev_null_as_input(serial: str, shown: bytes) -> None:
    done = subprocess.run(
        command("hello", "--serial", serial),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stdout) == (0, shown)


def test_a_reader_that_goes_away_ends_the_run_in_one_line() -> None:
    with running("flood") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait(DEADLINE) == 1
    assert err.count("\n") == 1
    assert err.startswith("vmm: error: ")


def test_serial_to_a_file_within_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    code, out, err = outcome("hello", "--serial", f"file:{path}", "--serial-limit", "5")
    assert (code, out) == (0, "")
    assert path.read_text() == "hello"
    assert "21 bytes of console output were dropped" in err


def test_copies_of_the_console_go_to_every_tee(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    code, out, _ = outcome("hello", *(f"--tee=file:{place}" for place in places))
    assert (code, out) == (0, "hello from the bare guest\n")
    assert [place.read_text() for place in places] == [out, out]


def test_wrong_tee_is_named(tmp_path: Path) -> None:
    code, _, err = outcome("hello", "--tee", "null")
    assert (code, err) == (2, "vmm: error: tee: 'null' is not file:PATH or unix:PATH\n")


def test_serial_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "console"
    with (
        running("echo", "--serial", f"unix:{path}") as process,
        socket.socket(socket.AF_UNIX) as client,
    ):
        wait_until(path.exists, "the socket")
        client.connect(str(path))
        client.sendall(b"abc")
        seen = b""
        while b"abc" not in seen:
            seen += client.recv(4096)
        client.sendall(b"q")
        assert process.wait(DEADLINE) == 0
    assert not path.exists()


@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_a_killed_vmm_leaves_no_socket(
    tmp_path: Path, kill: Callable[[int, int], None]
) -> None:
    paths = [tmp_path / name for name in ("serial", "tee")]
    places = ("--serial", f"unix:{paths[0]}", "--tee", f"unix:{paths[1]}")
    with running("spin", *places, start_new_session=True) as process:
        wait_until(lambda: all(path.exists() for path in paths), "the sockets")
        kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(tmp_path.iterdir()), "the sockets' removal")


def test_a_killed_vmm_leaves_what_took_its_sockets_place(tmp_path: Path) -> None:
    path = tmp_path / "console"
    with running("spin", "--serial", f"unix:{path}") as process:
        wait_until(path.exists, "the socket")
        path.unlink()
        path.write_text("precious")
        process.kill()
        assert process.stdout is not None
        process.stdout.read()  # whose other end the guardian has, too
    assert path.read_text() == "precious"


def test_keys_on_a_terminal_reach_the_guest() -> None:
    with on_terminal(command("echo")) as terminal:
        terminal.read_until(b"echo: ready")
        # Ctrl-C and one Ctrl-A are the guest's.
        terminal.type(b"typed\x03\x01\x01")
        assert b"typed\x03\x01" in terminal.read_until(b"\x01")
        terminal.type(b"q")
        assert terminal.process.wait(DEADLINE) == 0
        assert not terminal.is_raw()


def test_ctrl_a_x_ends_a_paused_run_which_keeps_its_code() -> None:
    with on_terminal(command("panic-halt", "--on-panic", "pause")) as terminal:
        terminal.read_until(b"vmm: paused; Ctrl-A x or SIGTERM ends it")
        terminal.type(b"\x01x")
        assert terminal.process.wait(DEADLINE) == 34
        assert not terminal.is_raw()


def test_ctrl_a_h_helps_and_ctrl_a_x_quits() -> None:
    with on_terminal(command("echo")) as terminal:
        terminal.read_until(b"echo: ready")
        assert terminal.is_raw()
        terminal.type(b"\x01h")
        terminal.read_until(b"quit the VMM")
        terminal.type(b"\x01x")
        terminal.read_until(b"vmm: stopped: Ctrl-A x")
        assert terminal.process.wait(DEADLINE) == 130
        assert not terminal.is_raw()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]
)
@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_the_terminal_is_restored_however_we_die(
    number: signal.Signals, kill: Callable[[int, int], None]
) -> None:
    with on_terminal(command("echo")) as terminal:
        terminal.read_until(b"echo: ready")
        assert terminal.is_raw()
        kill(terminal.process.pid, number)
        terminal.process.wait(DEADLINE)
        wait_until(lambda: not terminal.is_raw(), "the terminal's restoration")


IMPATIENT = """
import sys
from vmm.cli.main import main
from vmm.host.quirks import Quirks

Quirks.silence_s = 1  # of 10
sys.exit(main(sys.argv[1:]))
"""


def test_a_silent_guest_gets_one_hint() -> None:
    options = command("mute", "--quirks", "none")[len(VMM) :]
    with on_terminal([sys.executable, "-c", IMPATIENT, *options]) as terminal:
        shown = terminal.read_until(b"console=ttyS0 missing")
        assert b"has printed nothing for 1 s" in shown
        assert terminal.process.poll() is None
