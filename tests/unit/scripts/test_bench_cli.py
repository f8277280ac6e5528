"""scripts/bench: its options, its table, its JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from scripts.benchmark import clone
from scripts.benchmark.__main__ import TITLES, main, parse
from scripts.benchmark.host import Host
from scripts.benchmark.report import COLUMNS_MAX, as_json, as_markdown, as_text
from scripts.benchmark.summary import Row
from scripts.with_kvm.host_kvm import HostKvm

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.with_kvm.host_kvm import Kind

HOST = Host(
    *("pvm", False, "Xeon", 2, "6.1", "2026-01-01T00:00:00+00:00", "3.11.7"),
    peers={"qemu": None, "firecracker": "1.16.0"},
)
ROW = Row("mix", "python", 1234.4, "ns", {"c": 1.5, "qemu": None}, (1000.0, 2000.0), 3)
BOOTED = {
    "kernel": "vmlinux-x",
    "version": "6.1.192-x (minivmm@minivmm) #1",
    "initrd": "initramfs-x.cpio",
    "memory_mib": 128,
    "cpus": 1,
    "cmdline": "console=ttyS0",
}
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
    assert parse([]).measures == ["exits", "boot", "startup", "clone", "virtio"]


@pytest.mark.parametrize("kind", ["pvm", "full"])
def test_every_measure_of_clones_has_a_title_and_its_guests(kind: Kind) -> None:
    assert {job.group for job in clone.jobs(kind)} == {
        *("clone", "clone-many", "restore-128", "restore-512")
    }
    assert clone.MEASURES.keys() <= TITLES.keys()
    assert clone.needed(kind)[1] == "busybox"


def test_json_has_the_host_the_rows_and_what_was_not_measured() -> None:
    contents: Any = as_json(HOST, BOOTED, [ROW], REASONS)
    assert contents["host"]["kind"] == "pvm"
    assert contents["host"]["peers"] == {"qemu": None, "firecracker": "1.16.0"}
    assert contents["booted"]["kernel"] == "vmlinux-x"
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
    text = as_text(HOST, None, [ROW], REASONS, TITLES)
    assert "python 1,234 ns 1,000 .. 2,000 1.50 -" in " ".join(text.split())
    assert "/ qemu" not in text  # nothing to compare with
    assert text.count("not there") == 1
    assert "qemu (mix, lsr-read): not there" in text


def test_the_table_names_the_peers_and_the_kernel() -> None:
    lines = as_text(HOST, BOOTED, [ROW], {}, TITLES).splitlines()
    assert lines[0].endswith("Python 3.11.7; firecracker 1.16.0")
    assert lines[1] == (
        "boot: vmlinux-x (6.1.192-x), initramfs-x.cpio, 128 MiB, 1 CPU; console=ttyS0"
    )


def test_the_columns_of_the_table_are_as_wide_as_need_be() -> None:
    long = Row("mix", "cloud-hypervisor", 1.0, "ns", {"c": 0.5}, (1.0, 1.0), 3)
    short = Row("mix", "c", 12345678.0, "ns", {"c": 1.0}, (1.0, 1.0), 3)
    table = as_text(HOST, None, [short, long], {}, TITLES).splitlines()[3:]
    assert len({len(line) for line in table}) == 1


def test_markdown_has_a_line_per_variant_and_a_column_per_measure() -> None:
    quiet = [Row("boot-quiet", name, 9.5, "ms", {}, (9, 9), 3) for name in ("a", "b")]
    memory = Row("boot-memory", "b", 7.25, "MiB", {}, (7, 7), 3)
    lines = as_markdown(HOST, BOOTED, [*quiet, memory]).splitlines()
    assert lines[1].startswith("boot: vmlinux-x")
    assert lines[3:] == [
        "| median | boot-quiet | boot-memory |",
        "|---|---|---|",
        "| a | 9.5 ms |  |",
        "| b | 9.5 ms | 7.2 MiB |",
    ]


def test_markdown_of_many_measures_has_a_line_for_each() -> None:
    measures = [f"measure-{number}" for number in range(COLUMNS_MAX + 1)]
    table = [Row(name, "a", 9.5, "ms", {}, (9, 9), 3) for name in measures]
    table.append(Row(measures[0], "b", 7.25, "MiB", {}, (7, 7), 3))
    lines = as_markdown(HOST, None, table).splitlines()[2:]
    assert lines[:4] == [
        "| median | a | b |",
        "|---|---|---|",
        "| measure-0 | 9.5 ms | 7.2 MiB |",
        "| measure-1 | 9.5 ms |  |",
    ]
    assert len(lines) == 2 + len(measures)
