"""`vmm run --profile FILE`: refused before the run, written whole after it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vmm.cli.main import main
from vmm.cli.profile_file import write_profile
from vmm.errors import VmmError
from vmm.profile.recorder import Profile
from vmm.result import ExitReason, RunResult

RESULT = RunResult(ExitReason.TIMEOUT, 124)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that is refused."""
    assert main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"vmm: error: [^\n]+\n", err)
    return err.removeprefix("vmm: error: profile: ").rstrip("\n")


@pytest.mark.parametrize("name", ["profile.txt", "profile", ".html", "json"])
def test_the_name_tells_the_format(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    error = refusal(capsys, "--profile", name)
    assert error == f"{name!r} ends neither in .json nor in .html"


def test_a_missing_directory_is_told_before_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = refusal(capsys, "--profile", "/nowhere/p.html")
    assert error == "there is no directory '/nowhere'"


def test_the_result_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = f"{tmp_path}/out.json"
    error = refusal(capsys, "--profile", path, "--result", f"{tmp_path}/./out.json")
    assert error == f"{path!r} is where the result goes"


def test_a_run_that_could_not_start_leaves_no_profile(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["run", "--kernel", "none", "--profile", f"{tmp_path}/p.html"])
    assert "kernel 'none'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["p.json", "P.JSON"])
def test_json_is_a_trace(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("of a run before")
    write_profile(str(path), Profile(), RESULT)
    assert "traceEvents" in json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]


def test_html_is_a_page(tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    write_profile(str(path), Profile(), RESULT)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_can_not_be_written_is_one_error(tmp_path: Path) -> None:
    path = f"{tmp_path}/gone/p.html"
    with pytest.raises(VmmError, match=r"profile: .*p\.html': No such file"):
        write_profile(path, Profile(), RESULT)


def test_a_run_without_a_profile_imports_none_of_it() -> None:
    script = (
        "import sys; from vmm.cli.main import main; main(['run', '--kernel', 'none']); "
        "print([name for name in sys.modules if name.startswith('vmm.profile')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_help_tells_that_a_profiled_run_is_slower(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--profile FILE write where the time went" in shown
    assert "the run loop is the one in Python then, and slower" in shown
