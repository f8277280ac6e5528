"""`vmm doctor --machine`: what a machine has that isn't started."""

import json
import os
from pathlib import Path

import pytest
from support.guests import bare

from vmm.cli import main as cli


@pytest.fixture
def kernel() -> list[str]:
    return ["--kernel", str(bare("hello"))]


def run(*arguments: str) -> int:
    return cli.main(["doctor", *arguments])


def test_a_plain_machine_has_a_line_for_each_device(
    capsys: pytest.CaptureFixture[str], kernel: list[str]
) -> None:
    assert run("--machine", "--memory", "64M", *kernel) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["DEVICE", "SLOT", "IRQ", "MSI", "PORTS", "ADDRESSES"]
    assert lines[0].split() == ["RAM", "0x0..0x3ffffff"]
    found = {line.split()[0]: line.split()[1:] for line in lines}
    assert found["SerialPio"] == ["4", "0x3f8..0x3ff"]
    assert found["PciConfigPorts"] == ["0xcf8..0xcff"]
    column = head.index("PORTS")
    assert all(line[column - 1] == " " for line in lines if len(line) > column)


def test_what_the_options_ask_for_is_there(
    capsys: pytest.CaptureFixture[str], kernel: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    options = ["--pci", "--debugcon", f"file:{log}", "--debug-exit", "0xf4"]
    assert run("--machine", "--json", *kernel, *options) == 0
    rows = json.loads(capsys.readouterr().out)["devices"]
    found = {row["device"]: row for row in rows}
    assert found["PciHostBridge"]["slot"] == 0
    assert found["PciHostBridge"]["addresses"] == [[0xE000_0000, 0xE00F_FFFF]]
    assert found["Debugcon"]["ports"] == [[0xE9, 0xE9]]
    assert found["IsaDebugExit"]["ports"] == [[0xF4, 0xF7]]
    assert "PciConfigPorts" not in found
    assert not log.exists()


def test_virtio_devices_are_there_and_nothing_is_opened_for_them(
    capsys: pytest.CaptureFixture[str], kernel: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    options = ["--console", "virtio", "--port", f"log=file:{log}", "--rng", "--balloon"]
    options += ["--vsock", str(tmp_path / "v")]
    assert run("--machine", "--json", *kernel, *options) == 0
    rows = json.loads(capsys.readouterr().out)["devices"]
    names = [row["device"] for row in rows if row["device"].startswith("Virtio")]
    kinds = "Console", "Console", "Rng", "Balloon", "Vsock"
    assert names == [f"Virtio{kind}" for kind in kinds]
    assert os.listdir(tmp_path) == []


def test_an_option_of_a_machine_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--pci") == 2
    told = capsys.readouterr().err
    assert told == "vmm: error: pci: it is for a machine: pass --machine, too\n"


def test_an_image_is_no_machine(
    capsys: pytest.CaptureFixture[str], kernel: list[str]
) -> None:
    assert run("--machine", kernel[1]) == 2
    assert "its kernel: pass --kernel" in capsys.readouterr().err


def test_a_machine_that_can_not_be_is_an_error_of_usage(
    capsys: pytest.CaptureFixture[str], kernel: list[str]
) -> None:
    assert run("--machine", "--debug-exit", "0x3f8", *kernel) == 2
    assert capsys.readouterr().err.startswith("vmm: error: debug-exit: ports: ")
