"""Where each kind of test runs, on each kind of host."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
pytest_plugins = ["pytester"]

SUITE = """
import pytest

def test_bare(): pass

@pytest.mark.linux
def test_linux(): pass

@pytest.mark.linux
@pytest.mark.hardware
def test_hardware(): pass
"""
UNIT = """
import pytest

def test_unit(): pass

@pytest.mark.software_machine
def test_starts_a_machine(): pass
"""
HOST_AND_MACHINE = {
    "hardware": ("bare linux hardware unit", ""),
    "pvm": ("bare linux unit starts_a_machine", "linux hardware"),
    "none": ("unit starts_a_machine", "bare linux hardware"),
}


@pytest.mark.parametrize("kind", HOST_AND_MACHINE)
@pytest.mark.parametrize("side", ["host", "machine"])
def test_each_test_runs_where_it_can(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, kind: str, side: str
) -> None:
    tests = pytester.mkdir("tests")
    (tests / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tests / "kvm").mkdir()
    (tests / "kvm/test_guests.py").write_text(SUITE)
    (tests / "test_units.py").write_text(UNIT)
    monkeypatch.setenv("VMM_TEST_SIDE", side)
    monkeypatch.setenv("VMM_TEST_KIND", kind)
    monkeypatch.delenv("VMM_TEST_REPORT", raising=False)
    lines = pytester.runpytest("--collect-only", "-q", "tests").outlines
    found = {line.split("::test_")[1] for line in lines if "::" in line}
    assert found == set(HOST_AND_MACHINE[kind][side == "machine"].split())
