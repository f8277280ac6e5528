"""Output that can't be written is no success, and nothing written is taken away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.guests import DEADLINE, bare, bare_machine

from vmm import ExitReason

HELLO = b"hello from the bare guest\n"


def shell(script: str) -> tuple[int, bytes, str]:
    """Run a shell's line, in which `vmm run` is short for ours."""
    line = script.replace("vmm run", f"{sys.executable} -m vmm run")
    done = subprocess.run(
        ["bash", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
    )
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (">/dev/full", "the console's output can't be written: [Errno 28] No space"),
        ("--tee file:/dev/full", "tee 'file:/dev/full' can't be written: [Errno 28]"),
        ("--serial file:/dev/full", "the console's output can't be written: [Errno"),
    ],
)
@pytest.mark.parametrize("debug_exit", [False, True])
def test_output_lost_after_the_guests_end_is_no_success(
    options: str, words: str, debug_exit: bool
) -> None:
    if debug_exit:  # under which 1 would be the guest's
        options = f"--debug-exit {options}"
    code, _, err = shell(f"vmm run --kernel {bare('hello')} {options}")
    assert code == (4 if debug_exit else 1)
    assert err.startswith(f"vmm: error: {words}")


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_messages_that_are_lost_change_nothing(stderr: str) -> None:
    code, out, _ = shell(f"vmm run --kernel {bare('triple-fault')} {stderr}")
    assert (code, out) == (33, b"triple fault\n")


@pytest.mark.linux
def test_a_commands_output_that_is_lost_is_no_success() -> None:
    command = "vmm run --append quiet --quiet --capture"
    code, _, err = shell(f"{command} --exec 'echo lost' >/dev/full")
    assert (code, err) == (
        125,
        "vmm: error: the command's output can't be written: [Errno 28] No space left "
        "on device\n",
    )


def test_a_copy_that_fails_takes_nothing_from_the_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code, out, err = shell(
        f"vmm run --kernel {bare('hello')} --tee file:/dev/full --tee file:{log}"
    )
    assert (code, out, log.read_bytes()) == (1, HELLO, HELLO)
    assert err.startswith("vmm: error: tee 'file:/dev/full' can't be written")


def test_a_lost_copy_is_named_beside_an_end_that_is_no_success() -> None:
    with bare_machine("triple-fault", tee="file:/dev/full") as machine:
        machine.start()
        result = machine.wait(DEADLINE)
    if result.reason is ExitReason.CRASH:  # else the copy came first
        assert "tee 'file:/dev/full' can't be written" in result.detail
    assert result.exit_code in (1, 33)


@pytest.mark.parametrize("redirection", [">", ">>"])
def test_a_result_on_stdout_comes_behind_the_console(
    tmp_path: Path, redirection: str
) -> None:
    for path in ("/dev/stdout", f"{tmp_path}/log"):
        log = tmp_path / "log"
        log.write_bytes(b"before\n")
        run = f"vmm run --kernel {bare('hello')} --result {path} {redirection} {log}"
        assert shell(run)[0] == 0
        before = b"before\n" if redirection == ">>" else b""
        text = log.read_bytes()
        assert text.startswith(before + HELLO)
        assert json.loads(text[len(before + HELLO) :])["reason"] == "reset"
    assert list(tmp_path.iterdir()) == [log]


def test_a_result_on_a_pipe_comes_behind_the_console() -> None:
    out = shell(f"vmm run --kernel {bare('hello')} --result /dev/stdout | cat")[1]
    assert json.loads(out.removeprefix(HELLO))["reason"] == "reset"


@pytest.mark.parametrize("option", ["--serial", "--tee", "--debugcon"])
def test_a_result_does_not_replace_what_the_console_writes(
    tmp_path: Path, option: str
) -> None:
    (tmp_path / "link").symlink_to("log")
    code, _, err = shell(
        f"cd {tmp_path}; PYTHONPATH={os.getcwd()} vmm run --kernel {bare('hello')} "
        f"{option} file:log --result link"
    )
    assert (code, err) == (
        2,
        "vmm: error: result: 'link' is where the guest's output goes\n",
    )
