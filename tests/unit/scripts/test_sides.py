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
@pytest.mark.stock
def test_stock(): pass

@pytest.mark.linux
@pytest.mark.both
def test_both(): pass

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
    "hardware": ("bare linux stock both hardware unit", ""),
    "pvm": ("bare linux stock both unit starts_a_machine", "both hardware"),
    "none": ("unit starts_a_machine", "bare linux stock both hardware"),
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


@pytest.mark.parametrize("long", [False, True])
def test_long_tests_run_where_they_are_asked_for(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    pytester.makepyfile("import pytest\n\n@pytest.mark.long\ndef test_long(): pass\n")
    monkeypatch.setattr("support.lengths.LONG", long)
    for name in ("VMM_TEST_SIDE", "VMM_TEST_REPORT"):
        monkeypatch.delenv(name, raising=False)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=long, deselected=not long)


def test_those_of_a_software_machine_come_first_and_stay_together(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (pytester.path / "test_units.py").write_text(UNIT)
    monkeypatch.setenv("VMM_TEST_SIDE", "host")
    monkeypatch.setenv("VMM_TEST_KIND", "pvm")
    lines = pytester.runpytest("--collect-only", "-q").outlines
    found = [line.split("::test_")[1] for line in lines if "::" in line]
    assert found == ["starts_a_machine", "unit"]
