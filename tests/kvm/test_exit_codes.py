"""No end of ours is taken for a guest's status."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.guests import DEADLINE, bare, bare_machine, with_script

import vmm
from vmm import ExitReason

# Beside a guest's status


@pytest.mark.parametrize(
    ("name", "settings", "reason", "code"),
    [
        ("debug-exit", {}, ExitReason.EXITED, 33),
        ("triple-fault", {}, ExitReason.CRASH, 32),
        ("panic", {}, ExitReason.PANIC, 34),
        ("halt", {"hang_s": 0.2}, ExitReason.HANG, 36),
        ("spin", {"timeout": 0.2}, ExitReason.TIMEOUT, 124),
        ("hello", {}, ExitReason.RESET, 0),
        ("poweroff", {}, ExitReason.POWEROFF, 0),
    ],
)
def test_ends_beside_debug_exit(
    name: str, settings: dict[str, float], reason: ExitReason, code: int
) -> None:
    with bare_machine(name, debug_exit=0x501, **settings) as machine:
        result = machine.run()
    assert (result.reason, result.exit_code) == (reason, code)
    assert result.guest_status == (33 if reason is ExitReason.EXITED else None)
    assert result.success == (code == 0)  # 33 is 16, which a guest wrote


@pytest.mark.linux
@pytest.mark.parametrize(("value", "success"), [(0, True), (1, False)])
def test_0_at_the_debug_exit_port_is_a_success(
    tmp_path: Path, value: int, success: bool
) -> None:
    initrd = with_script(tmp_path, f"portio w1 0x501 {value}")
    result = vmm.run(initrd=initrd, append="quiet", debug_exit=0x501, timeout=DEADLINE)
    assert (result.reason, result.exit_code) == (ExitReason.EXITED, value << 1 | 1)
    assert result.success is success


@pytest.mark.parametrize(("given", "code"), [([], 143), (["--debug-exit"], 142)])
def test_a_signal_beside_debug_exit(given: list[str], code: int) -> None:
    run = [sys.executable, "-m", "vmm", "run", "--kernel", str(bare("spin")), *given]
    with subprocess.Popen(run, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"spin"
        process.terminate()
        assert process.wait(DEADLINE) == code


@pytest.mark.linux
@pytest.mark.parametrize(
    ("words", "settings", "reason"),
    [
        ("sleep 60", {"timeout": 0.5}, ExitReason.TIMEOUT),
        ("reboot -f", {"timeout": DEADLINE}, ExitReason.RESET),
        ("sh -c 'kill -9 1; exit 33'", {"timeout": DEADLINE}, None),
    ],
)
def test_ends_beside_a_command(
    words: str, settings: dict[str, float], reason: ExitReason | None
) -> None:
    result = vmm.run(command=words, append="quiet", **settings)  # type: ignore[arg-type]
    if reason is None:
        assert (result.exit_code, result.guest_status) == (33, 33)
        assert not result.success
    else:
        assert result.reason is reason
        assert (result.exit_code, result.guest_status) == (125, None)


def test_a_failure_beside_a_command_is_125_and_bad_usage_2() -> None:
    run = [sys.executable, "-m", "vmm", "run", "--kernel", str(bare("hello"))]
    run += ["--initrd", str(bare("hello")), "--exec", "x", "--serial", "null"]
    for more, code in (["--memory", "900G"], 125), (["--cpus", "0"], 2):
        done = subprocess.run(
            ["bash", "-c", 'ulimit -v 3000000; exec "$@"', "bash", *run, *more],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE,
        )
        assert (done.returncode, done.stderr.count(b"\n")) == (code, 1), done.stderr
