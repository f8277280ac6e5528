"""The package as strangers install it: a wheel, in an environment of its own."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.guests import DEADLINE, built, kernel

import vmm
from vmm.agent.image import AGENT
from vmm.guest.command import HELPER

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def python(folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run that folder's Python outside of the checkout; nothing of ours leads there."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}
    return subprocess.run(
        [folder / "venv/bin/python", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: what is in `build/` here must not get into it."""
    folder = tmp_path_factory.mktemp("wheel")
    files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(files, cwd=ROOT, capture_output=True, check=True).stdout
    copy = ["tar", "-cf", f"{folder}/source.tar", "--null", "-T", "-"]
    subprocess.run(copy, cwd=ROOT, input=listed, check=True)
    (folder / "source").mkdir()
    unpack = ["tar", "-xf", f"{folder}/source.tar", "-C", f"{folder}/source"]
    subprocess.run(unpack, check=True)
    options = [
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run([*PIP, "wheel", *options, f"{folder}/source"], check=True)
    (path,) = folder.glob("minivmm-*.whl")
    return path


@pytest.fixture(scope="module")
def stranger(wheel: Path) -> Path:
    """A folder with an environment that has the wheel, and this one's libraries."""
    folder = wheel.parent
    venv = [sys.executable, "-m", "venv", "--without-pip", f"{folder}/venv"]
    subprocess.run(venv, check=True)
    pip = [*PIP, "--python", f"{folder}/venv/bin/python", "install", "--no-deps"]
    subprocess.run([*pip, "--quiet", str(wheel)], check=True)
    libraries = [p for p in sys.path if p.endswith("site-packages")]
    (theirs,) = (folder / "venv/lib").glob("python*/site-packages")
    # A .pth file adds the folders, but runs none of their .pth files: not the editable
    # installation's.
    (theirs / "libraries.pth").write_text("\n".join(libraries))
    return folder


def test_wheel_has_the_guests_programs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in (HELPER, AGENT):
            assert archive.read(f"vmm/guest/{name}") == built(name).read_bytes()
        assert "vmm/testing/plugin.py" in archive.namelist()


def test_package_is_the_installed_one(stranger: Path) -> None:
    where = python(stranger, "-c", "import vmm; print(vmm.__file__)").stdout
    assert where.startswith(f"{stranger}/venv/")


def test_command_imports_nothing_before_it_has_seen_to_ctrl_c(stranger: Path) -> None:
    command = stranger / "venv/bin/vmm"
    done = python(stranger, "-X", "importtime", command, "--version")
    assert (done.returncode, done.stdout) == (0, f"vmm {vmm.__version__}\n")
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    at = imported.index("vmm.__main__")
    assert imported[at - 1] == "vmm"
    assert imported[at - 2] in ("site", "linecache", "_signal")


def test_hints_are_for_whoever_has_no_checkout(stranger: Path) -> None:
    done = python(stranger, "-m", "vmm", "run")
    assert done.returncode == 2
    assert "an installed minivmm has no guests of its own: pass --kernel" in done.stderr
    report = python(stranger, "-m", "vmm", "doctor").stdout
    assert "scripts/" not in report


def test_plugin_as_a_project_of_strangers_has_it(stranger: Path) -> None:
    project = shutil.copytree(ROOT / "tests/stranger", stranger / "project")
    option = f"--vmm-kernel={kernel('tiny')}"
    options = [option, "--vmm-require", "-pno:cacheprovider", str(project)]
    done = python(stranger, "-m", "pytest", "-c", project / "pytest.ini", *options)
    assert "4 passed" in done.stdout, done.stdout


# Not marked linux: it is the package that is tested, so one kind of KVM is enough.
def test_exec_of_an_installed_package(stranger: Path) -> None:
    """There is no busybox, so the guest has nothing but the program."""
    (stranger / "p.c").write_text(
        '#include <stdio.h>\nint main(void) { puts("out"); return 9; }\n'
    )
    subprocess.run(["gcc", "-static", "-o", "p", "p.c"], cwd=stranger, check=True)
    options = [
        "--kernel",
        str(kernel("tiny")),
        "--append",
        "quiet",
        "--add",
        "./p",
    ]
    done = python(stranger, "-m", "vmm", "run", *options, "--exec", "/p", "--capture")
    assert (done.returncode, done.stdout) == (9, "out\n"), done.stderr
