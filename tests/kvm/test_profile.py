"""`vmm run --profile`: what is seen of real guests."""

import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from support.guests import DEADLINE, bare

from vmm import Machine, MachineConfig
from vmm.devices.device_io import DeviceIo
from vmm.devices.resources import MmioAddressConstraint, ResourceConstraint
from vmm.profile.recorder import Profile
from vmm.profile.vcpu import Place

TEXT = "hello from the bare guest"
LSR, THR, I8042 = 0x3FD, 0x3F8, 0x64
MMIO_PAGE = 0xE800_0000  # used by guest/bare/mmio.S


class Page(DeviceIo):
    """A page of MMIO that reads as ones."""

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [MmioAddressConstraint.at(MMIO_PAGE, 0x1000)]


def start(name: str, path: Path, *options: str) -> subprocess.Popen[bytes]:
    """`vmm run` with a bare guest and a profile."""
    command = [sys.executable, "-m", "vmm", "run", "--kernel", str(bare(name))]
    return subprocess.Popen(
        [*command, "--profile", str(path), *options],
        stdin=subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )


def profiled(folder: Path, name: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and trace of a run."""
    path = folder / "profile.json"
    with start(name, path, *options) as process:
        _, err = process.communicate(timeout=DEADLINE)
    assert b"error" not in err
    assert list(folder.iterdir()) == [path]
    return process.returncode, json.loads(path.read_text())


def places(trace: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """The trace's totals by access and port."""
    return {
        (place["access"], place["address"]): place
        for place in trace["otherData"]["places"]
    }


def test_exits_are_counted_by_port_and_device(tmp_path: Path) -> None:
    code, trace = profiled(tmp_path, "hello")
    seen = places(trace)
    assert code == 0
    # It polls LSR before each byte; the last write pulls the reset line.
    assert seen["read", LSR]["exits"] >= len(TEXT) + 1
    assert seen["read", LSR]["device"] == "SerialPio"
    assert seen["write", THR]["accesses"] == len(TEXT) + 1
    assert seen["write", I8042]["exits"] == 1
    assert seen["write", I8042]["device"] == "I8042Pio"


def test_counts_agree_with_the_results(tmp_path: Path) -> None:
    _, trace = profiled(tmp_path, "hello")
    totals = trace["otherData"]
    exits = totals["result"]["exits"]
    assert sum(place["exits"] for place in totals["places"]) == exits["io"]
    assert exits.get("fast", 0) == 0
    assert totals["vcpus"][0]["entries"] == sum(
        exits[kind] for kind in ("io", "mmio", "intr", "other")
    )


def test_console_lines_are_on_the_timeline(tmp_path: Path) -> None:
    _, trace = profiled(tmp_path, "hello")
    lines = [event for event in trace["traceEvents"] if event["name"] == TEXT]
    (line,) = (event for event in lines if event["ph"] == "X")
    whole = trace["otherData"]["vcpus"][0]
    assert line["ts"] > 0
    assert 0 < line["args"]["printing_us"] <= line["dur"]
    assert whole["guest_and_kvm_us"] > 0
    assert whole["devices_us"] > 0


def test_the_page_shows_the_guests_lines(tmp_path: Path) -> None:
    path = tmp_path / "profile.html"
    with start("hello", path) as process:
        assert process.wait(DEADLINE) == 0
    assert f"<code>{TEXT}</code>" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "code"), [("triple-fault", 33), ("panic", 34), ("mmio", 0)]
)
def test_it_is_written_however_the_guest_ends(
    tmp_path: Path, name: str, code: int
) -> None:
    returned, trace = profiled(tmp_path, name)
    assert returned == code
    assert trace["otherData"]["result"]["exit_code"] == code


def test_it_is_written_after_a_timeout(tmp_path: Path) -> None:
    code, trace = profiled(tmp_path, "spin", "--timeout", "0.3")
    assert code == 124
    assert trace["otherData"]["vcpus"][0]["guest_and_kvm_us"] > 100_000


def test_it_is_written_after_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "profile.html"
    with start("spin", path) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"spin"
        process.terminate()
        assert process.wait(DEADLINE) == 143
    assert "spin" in path.read_text(encoding="utf-8")


def test_every_boot_is_marked(tmp_path: Path) -> None:
    code, trace = profiled(
        tmp_path, "hello", "--on-reset", "restart", "--timeout", "1.5"
    )
    names = [event["name"] for event in trace["traceEvents"]]
    assert code == 124
    assert {"boot 1", "boot 2", "boot 3"} <= set(names)
    assert names.count(TEXT) >= 2


def test_a_program_profiles_with_a_device_of_its_own() -> None:
    profile = Profile()
    with Machine(MachineConfig(kernel=bare("mmio")), profile) as machine:
        machine.plug(Page())
        machine.run()
    seen = profile.tallies()
    assert seen[Place("MMIO", True, MMIO_PAGE, "Page")].exits > 0
    assert seen[Place("MMIO", False, MMIO_PAGE, "Page")].exits > 0
