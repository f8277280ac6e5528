"""scripts/with-kvm where the KVM here is good enough: it becomes the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run_here(out: str | None, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command by run_here() in a process of its own."""
    code = (
        "import sys; from scripts.with_kvm.__main__ import run_here; "
        f"sys.exit(run_here(sys.argv[1:], {out!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_status_and_streams_are_the_commands() -> None:
    done = run_here(None, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_out_directory_is_named_in_the_environment() -> None:
    assert run_here("/some/dir", "printenv", "WITH_KVM_OUT").stdout == "/some/dir\n"


def test_missing_command_is_127() -> None:
    done = run_here(None, "no-such-command")
    assert done.returncode == 127
    assert done.stderr == "with-kvm: no-such-command: command not found\n"


def test_file_that_is_no_program_is_126() -> None:
    assert run_here(None, "/etc/passwd").returncode == 126
