"""scripts/bench: which variants there are, and what keeps one away."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmark import tools
from scripts.benchmark.boot import linux
from scripts.benchmark.children import NotMeasured
from scripts.benchmark.peers import Guest
from scripts.benchmark.variants import command

BARE = Guest(Path("/guest.elf"))
LINUX = Guest(
    *(Path("/vmlinux"), 256, Path("/initrd"), "console=ttyS0 quiet"),
    bzimage=Path("/bzImage"),
)


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with nothing on it, but what a test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def executable(path: Path, script: str = "") -> None:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_c_limit_runs_bare_guests_alone(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="bare-metal guests alone"):
        command("c", LINUX, tmp_path)


def test_python_is_forced_without_coalescing(tmp_path: Path) -> None:
    environment = command("python", BARE, tmp_path).environment
    assert environment == {"VMM_RUN_LOOP": "python", "VMM_COALESCED_PIO": "0"}


def test_ours_get_the_kernel_and_the_command_line(tmp_path: Path) -> None:
    argv = command("python", LINUX, tmp_path).argv
    assert {"/vmlinux", "/initrd", "console=ttyS0 quiet", "256M"} <= set(argv)


def test_pvm_boots_the_ring_3_kernel_and_hardware_debians() -> None:
    assert linux("pvm", "").kernel.name == "vmlinux-tiny-ring3"
    assert linux("hardware", "").kernel.name == "vmlinux-debian"


def test_a_tool_is_compiled_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler, log = tmp_path / "cc", tmp_path / "log"
    executable(compiler, f'echo "$*" >>{log}; touch "$3"')
    monkeypatch.setenv("CC", str(compiler))
    first = tools.compiled("limit.c", "limit", "-O2", folder=tmp_path / "bench")
    assert first == tools.compiled("limit.c", "limit", "-O2", folder=tmp_path / "bench")
    assert len(log.read_text().splitlines()) == 1
    other = tools.compiled("limit.c", "limit", "-O3", folder=tmp_path / "bench")
    assert other != first


def test_no_compiler_is_a_reason_with_a_remedy(
    no_programs: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotMeasured, match=r"no C compiler \(apt-get install gcc"):
        tools.compiled("limit.c", "limit", folder=tmp_path / "bench")


def test_a_compiler_that_fails_leaves_its_error_and_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    executable(tmp_path / "cc", "echo 'limit.c:1: error: no header' >&2; exit 1")
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    with pytest.raises(NotMeasured, match="error: no header"):
        tools.compiled("limit.c", "limit", folder=tmp_path / "bench")
    assert list((tmp_path / "bench").rglob("limit")) == []
