"""scripts/bench: its options, its table, its JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from scripts.benchmark.__main__ import TITLES, main, parse
from scripts.benchmark.host import Host
from scripts.benchmark.report import as_json, as_text
from scripts.benchmark.summary import Row
from scripts.with_kvm.host_kvm import HostKvm

if TYPE_CHECKING:
    from pathlib import Path

HOST = Host("pvm", False, "Xeon", 2, "6.1", "2026-01-01T00:00:00+00:00", "3.11.7", None)
ROW = Row("mix", "python", 1234.4, "ns", {"c": 1.5, "qemu": None}, (1000.0, 2000.0), 3)
REASONS = {("mix", "qemu"): "not there", ("lsr-read", "qemu"): "not there"}


def exit_code(arguments: list[str]) -> object:
    """What scripts/bench ends with; argparse ends it by an exception."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "no measure 'speed', there are exits, boot, startup"),
        (["--rounds", "0"], "--rounds: 0 is not above 0"),
        (["--rounds", "x"], "invalid int value"),
        (["--json", "/no/such/folder/x"], "--json: '/no/such/folder/x' can't be"),
        (["--json", "/"], "--json: '/' can't be written"),
        (["--round", "3"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_one_line_and_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("bench: error: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_plot_without_matplotlib_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["--plot", str(tmp_path / "x.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_without_kvm_the_remedy_is_with_kvm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none = HostKvm("none", "no usable /dev/kvm: No such file or directory")
    monkeypatch.setattr("scripts.benchmark.__main__.host_kvm", lambda: none)
    assert main(["exits"]) == 2
    assert "No such file or directory; scripts/with-kvm" in capsys.readouterr().err


def test_without_a_measure_all_are_measured() -> None:
    assert parse([]).measures == ["exits", "boot", "startup"]


def test_json_has_the_host_the_rows_and_what_was_not_measured() -> None:
    contents: Any = as_json(HOST, [ROW], REASONS)
    assert contents["host"]["kind"] == "pvm"
    assert contents["rows"] == [
        {
            "measure": "mix",
            "variant": "python",
            "median": 1234.4,
            "unit": "ns",
            "ratio": {"c": 1.5, "qemu": None},
            "spread": (1000.0, 2000.0),
            "rounds": 3,
            "exits": None,
        }
    ]
    assert {"measure": "mix", "variant": "qemu", "reason": "not there"} in contents[
        "not_measured"
    ]


def test_the_table_tells_medians_ratios_and_reasons_once() -> None:
    text = as_text(HOST, [ROW], REASONS, TITLES)
    assert "python 1,234 ns 1,000 .. 2,000 1.50 - -" in " ".join(text.split())
    assert text.count("not there") == 1
    assert "qemu (mix, lsr-read): not there" in text
