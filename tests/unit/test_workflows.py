"""The workflows, ours and the README's: schema and security, as linters see them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SCHEMA: list[Path | str] = [
    BIN / "check-jsonschema",
    "--builtin-schema",
    "vendor.github-workflows",
]
SECURITY: list[Path | str] = [
    BIN / "zizmor",
    "--offline",
    "--quiet",
    "--config",
    ".github/zizmor.yml",
]


def readme_workflow() -> str:
    """The workflow of "In your CI"."""
    section = (ROOT / "README.md").read_text().partition("\n## In your CI\n")[2]
    match = re.search(r"```yaml\n(.*?)```", section, re.S)
    assert match is not None
    return match[1]


@pytest.fixture(params=["ours", "readme"])
def workflow(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "ours":
        return ROOT / ".github/workflows/ci.yml"
    path = tmp_path / ".github/workflows/readme.yml"
    path.parent.mkdir(parents=True)
    path.write_text(readme_workflow())
    return path


def lint(command: list[Path | str], path: Path) -> str:
    """What the linter says, or nothing if it is content."""
    done = subprocess.run(
        [*command, path], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr if done.returncode else ""


def test_workflow_is_one_by_the_schema(workflow: Path) -> None:
    assert lint(SCHEMA, workflow) == ""


def test_workflow_is_safe(workflow: Path) -> None:
    assert lint(SECURITY, workflow) == ""


def test_linters_do_object(tmp_path: Path) -> None:
    """So that the tests above can fail."""
    path = tmp_path / ".github/workflows/bad.yml"
    path.parent.mkdir(parents=True)
    text = readme_workflow()
    path.write_text(text.replace("runs-on:", "run-on:"))
    assert "run-on" in lint(SCHEMA, path)
    path.write_text(text.replace("pip install", "echo ${{ github.head_ref }}; pip"))
    assert "template-injection" in lint(SECURITY, path)


def test_every_script_that_ci_runs_exists_and_may_run() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    scripts = re.findall(r"run: (scripts/\S+)", text)
    assert scripts == ["scripts/build-guest", "scripts/test"]
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_readme_workflow_is_ten_lines_of_steps() -> None:
    steps = readme_workflow().partition("steps:\n")[2]
    assert len(steps.splitlines()) <= 12
