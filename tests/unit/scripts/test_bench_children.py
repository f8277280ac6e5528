"""scripts/bench: children end by their deadline, and are gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from scripts.benchmark.children import (
    Command,
    NotMeasured,
    complaint,
    end_in_good_order,
    inherited,
    run,
    started,
    wait_for,
)


def shell(script: str, **environment: str) -> Command:
    """A child that runs `script`."""
    return Command(["/bin/sh", "-c", script], environment)


def wait_until_gone(pid: int) -> None:
    """Wait for whoever has inherited a killed process to bury it."""
    end = time.monotonic() + 10
    with contextlib.suppress(FileNotFoundError):
        while (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        ):
            assert time.monotonic() < end
            time.sleep(0.01)


def test_children_inherit_nothing_that_changes_vmm() -> None:
    ours = {"VMM_RUN_LOOP": "1", "PYTHONPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    assert inherited({**ours, "HOME": "/"}) == {"HOME": "/"}


def test_run_returns_what_the_child_printed(tmp_path: Path) -> None:
    assert (
        run(shell("pwd; echo $A", A="b"), tmp_path, 10) == f"{tmp_path}\nb\n".encode()
    )


def test_a_child_past_its_deadline_is_killed(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="did not end within 0 s"):
        run(shell("echo $$ >pid; exec sleep 100"), tmp_path, 0.3)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_exception_ends_the_child(tmp_path: Path) -> None:
    script = shell("echo up; exec sleep 100")
    with (
        contextlib.suppress(KeyboardInterrupt),
        started(script, tmp_path, subprocess.PIPE) as process,
    ):
        wait_for(process, b"up", tmp_path, 10)
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGTERM


def test_a_child_may_clean_up(tmp_path: Path) -> None:
    script = shell(
        "trap 'rm socket; exit 0' TERM; touch socket; sleep 100 & echo up; wait"
    )
    with started(script, tmp_path, subprocess.PIPE) as process:
        wait_for(process, b"up", tmp_path, 10)
    assert process.returncode == 0
    assert not (tmp_path / "socket").exists()


def test_a_child_that_goes_on_is_killed_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.benchmark.children.PATIENCE_S", 0.1)
    script = shell("trap '' TERM; sleep 100 & echo $! >pid; echo up; sleep 100")
    with started(script, tmp_path, subprocess.PIPE) as process:
        wait_for(process, b"up", tmp_path, 10)
    assert process.returncode == -signal.SIGKILL
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_a_program_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="no-such-vmm: No such file"):
        run(Command(["/no-such-vmm"], {}), tmp_path, 10)


def test_the_time_is_that_at_which_the_marker_is_whole(tmp_path: Path) -> None:
    script = shell("printf mar; sleep 0.2; printf 'ker\\n'; sleep 100")
    before = time.monotonic_ns()
    with started(script, tmp_path, subprocess.PIPE) as process:
        at = wait_for(process, b"marker", tmp_path, 10)
    assert before + 0.2e9 < at <= time.monotonic_ns()


def test_no_marker_until_the_deadline_is_a_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(NotMeasured, match="no 'marker' within 0 s"),
        started(shell("sleep 100"), tmp_path, subprocess.PIPE) as process,
    ):
        wait_for(process, b"marker", tmp_path, 0.1)


def test_a_child_that_ends_before_the_marker_says_why(tmp_path: Path) -> None:
    script = shell("echo first >&2; echo 'vmm: error: no RAM' >&2; exit 2")
    with (
        pytest.raises(NotMeasured, match=r"^vmm: error: no RAM$"),
        started(script, tmp_path, subprocess.PIPE) as process,
    ):
        wait_for(process, b"marker", tmp_path, 10)


def test_a_child_that_ends_silently_leaves_its_status(tmp_path: Path) -> None:
    with started(shell("exit 3"), tmp_path, subprocess.PIPE) as process:
        assert complaint(process, tmp_path) == "it ended without a result, status 3"


def test_output_after_the_marker_does_not_hold_the_child(tmp_path: Path) -> None:
    script = shell("echo marker; head -c 300000 /dev/zero; touch done")
    with started(script, tmp_path, subprocess.PIPE) as process:
        wait_for(process, b"marker", tmp_path, 10)
        end_in_good_order(process)
    assert (tmp_path / "done").exists()
