"""The command line of scripts/build-guest."""

import subprocess
import time
from pathlib import Path

import pytest
from guestbuild import cli, progress
from guestbuild.errors import CommandFailedError
from guestbuild.target import key
from guestbuild.workshop import GUEST_DIR

SCRIPT = GUEST_DIR.parent / "scripts" / "build-guest"


def stderr_of_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> str:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


def test_unknown_name_is_one_line_that_lists_the_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = stderr_of_usage_error(["tiny", "huge"], capsys)
    assert error.startswith(
        "build-guest: error: no guest 'huge', there are tiny, bare,"
    )
    assert error.count("\n") == 1


def test_unknown_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = stderr_of_usage_error(["--fast"], capsys)
    assert error.startswith("build-guest: error: unrecognized arguments: --fast")
    assert error.count("\n") == 1


@pytest.mark.parametrize("pvm", [False, True])
def test_all_names_every_target_once_but_full_on_pvm(pvm: bool) -> None:
    named = cli.guests(pvm=pvm)
    every = {target.name for targets in named.values() for target in targets}
    every.remove("kernel-tiny-unpatched")  # two minutes for one test, which is long
    if pvm:
        every.remove("kernel-full")
    assert sorted(target.name for target in named["all"]) == sorted(every)


def test_no_patches_leaves_them_out_and_makes_the_kernels_stale() -> None:
    patched, *_ = cli.guests()["tiny"]
    plain, *_ = cli.guests(patched=False)["tiny"]
    patches = set(patched.sources) - set(plain.sources)
    assert patches == set((GUEST_DIR / "linux" / "patches").glob("*.patch"))
    assert len(patches) > 0
    versions = dict.fromkeys(patched.packages, "1")
    assert key(patched, versions) != key(plain, versions)


def test_default_is_the_kernel_that_vmm_run_takes(tmp_path: Path) -> None:
    assert not cli.is_pvm(str(tmp_path))
    assert cli.default_kernel(pvm=False) == "tiny"
    (tmp_path / "kvm_pvm").mkdir()
    assert cli.is_pvm(str(tmp_path))
    assert cli.default_kernel(pvm=True) == "tiny-ring3"


def test_module_is_an_output_beside_its_kernel() -> None:
    kernel, *_ = cli.guests()["full-ring3"]
    assert "modules-full-ring3/brd.ko" in kernel.outputs


def test_no_two_targets_make_the_same_output() -> None:
    outputs = [
        name for target in cli.guests(pvm=False)["all"] for name in target.outputs
    ]
    assert len(outputs) == len(set(outputs))


def test_every_bare_guest_is_an_output() -> None:
    (bare,) = cli.guests()["bare"]
    assert "bare/hello.elf" in bare.outputs
    assert len(bare.outputs) == len(list((GUEST_DIR / "bare").glob("*.S")))


def test_script_lists_what_is_built_from_any_directory(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "--list"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert "kernel-tiny" in names
    assert done.stderr == ""


def test_command_that_fails_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log" / "make.log"
    with pytest.raises(
        CommandFailedError, match=r"sh failed with status 3; see .*make"
    ):
        progress.run(["sh", "-c", "echo why; exit 3"], log)
    assert progress.last_lines(log, 5) == ["why"]


def test_interrupted_command_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"

    def interrupt(*_: object) -> None:
        if progress.last_lines(log, 1):
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "LOG_PERIOD_S", 0.05)
    monkeypatch.setattr(progress, "_hint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        progress.run(["sh", "-c", "sleep 60 & echo $!; wait"], log)
    grandchild = int(progress.last_lines(log, 1)[0])
    assert ends(grandchild, within_s=10)


def ends(pid: int, within_s: float) -> bool:
    """Wait until `pid` is gone or a zombie; return whether that happened in time."""
    deadline = time.monotonic() + within_s
    state = Path(f"/proc/{pid}/stat")
    while time.monotonic() < deadline:
        if not state.exists() or ") Z " in state.read_text():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (65, "1 min 05 s")]
)
def test_duration_is_in_minutes_and_seconds(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
