"""`vmm doctor`: the kind of host, what it lacks, and what to do about it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.kernel_images import elf

from vmm.cli import doctor
from vmm.cli import main as cli
from vmm.host import report as host
from vmm.kvm import abi
from vmm.kvm import kvm as kvm_module
from vmm.kvm.kvm import REQUIRED_CAPABILITIES

Host = Callable[..., None]
VMM = [sys.executable, "-m", "vmm"]


@pytest.fixture
def fake_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with this module and a KVM that has all but what it lacks."""
    monkeypatch.setattr(host, "_MODULES", tmp_path)
    monkeypatch.setattr(host, "DEV_KVM", str(tmp_path / "kvm"))

    def install(module: str = "kvm_amd", *lacks: int, emulates: bool = False) -> None:
        def ioctl(fd: int, request: int, argument: int = 0) -> int:
            is_query = request == abi.KVM_CHECK_EXTENSION
            return int(argument not in lacks) if is_query else 12

        monkeypatch.setattr(host, "runs_fwait", lambda kvm: not emulates)
        (tmp_path / module).mkdir()
        (tmp_path / "kvm").touch()
        (tmp_path / "kvm").chmod(0o660)
        monkeypatch.setattr(kvm_module, "ioctl", ioctl)
        monkeypatch.setattr(
            kvm_module, "open_device", lambda path: os.open(os.devnull, os.O_RDWR)
        )

    return install


@pytest.fixture
def no_device(fake_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = kvm_module.open_device
    monkeypatch.setattr(
        kvm_module, "open_device", lambda path: opener(str(tmp_path / "kvm"))
    )


@pytest.mark.parametrize("module", ["kvm_intel", "kvm_amd"])
def test_hardware_host_has_no_problems(fake_host: Host, module: str) -> None:
    fake_host(module)
    report = host.examine()
    assert (report.kind, report.module, report.usable) == ("hardware", module, True)
    assert report.problems == []


def test_every_capability_that_is_needed_is_listed(fake_host: Host) -> None:
    fake_host()
    assert set(REQUIRED_CAPABILITIES) <= set(host.examine().capabilities)


def test_pvm_is_known_by_what_a_guest_finds_and_told_the_way_out(
    fake_host: Host,
) -> None:
    fake_host("kvm_pvm", emulates=True)
    report = host.examine()
    assert (report.kind, report.usable, report.problems) == ("pvm", True, [])
    assert "scripts/with-kvm vmm run" in report.explanation


def test_guest_has_the_last_word_whatever_the_module(fake_host: Host) -> None:
    fake_host("kvm_intel", emulates=True)
    assert host.examine().kind == "pvm"


def test_pvm_without_msr_filter_is_a_problem(fake_host: Host) -> None:
    fake_host("kvm_pvm", abi.KVM_CAP_X86_MSR_FILTER, emulates=True)
    assert "KVM_CAP_X86_MSR_FILTER" in host.examine().problems[0]


def test_old_kvm_is_none_and_names_what_lacks(fake_host: Host) -> None:
    fake_host("kvm_amd", abi.KVM_CAP_IRQFD)
    report = host.examine()
    assert (report.kind, report.usable) == ("none", False)
    assert "KVM lacks KVM_CAP_IRQFD" in report.problems[0]


@pytest.mark.parametrize(
    ("module", "kind"),
    [("kvm_pvm", "pvm"), ("kvm_intel", "hardware"), ("kvm_amd", "hardware")],
)
def test_a_run_goes_by_the_module(fake_host: Host, module: str, kind: str) -> None:
    fake_host(module)
    assert host.host_kind() == kind


@pytest.mark.parametrize(("emulates", "kind"), [(True, "pvm"), (False, "hardware")])
def test_a_run_asks_a_guest_where_no_module_tells(
    fake_host: Host, emulates: bool, kind: str
) -> None:
    fake_host("loop", emulates=emulates)
    assert host.host_kind() == kind


@pytest.mark.usefixtures("no_device")
def test_host_without_device_is_none_with_the_remedy() -> None:
    report = host.examine()
    assert (report.kind, report.usable) == ("none", False)
    assert report.permission == "there is none"
    assert "load kvm_intel or kvm_amd" in report.problems[0]


def test_permission_shows_mode_and_owner(fake_host: Host) -> None:
    fake_host()
    owner = f"{os.getuid()}:{os.getgid()}"
    assert host.examine().permission.startswith(f"mode 660, owner {owner}, accessible")


def test_report_for_people_ends_with_the_verdict(
    fake_host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_host()
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["KVM", "hardware", "(kvm_amd):"]
    assert lines[-1] == "no problems found"


@pytest.mark.usefixtures("no_device")
def test_report_for_people_ends_with_the_problem(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.run_doctor(as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("problem: there is no")


def test_report_for_scripts_is_json(
    fake_host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_host()
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "hardware"
    assert report["capabilities"]["KVM_CAP_IRQFD"] == 1


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("", "compiled: fast ports are served in C"),
        ("python", "python, as VMM_RUN_LOOP says"),
    ],
)
def test_run_loop_is_told(
    fake_host: Host, monkeypatch: pytest.MonkeyPatch, variable: str, told: str
) -> None:
    fake_host()
    monkeypatch.setenv("VMM_RUN_LOOP", variable)
    assert host.examine().run_loop == told


def test_run_loop_that_was_not_built_is_told_with_the_remedy(
    fake_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_host()
    monkeypatch.setitem(sys.modules, "vmm.vcpu._run_loop", None)
    assert "not built" in host.examine().run_loop
    assert "C compiler" in host.examine().run_loop
    assert host.examine().problems == []


def test_run_loop_that_cannot_be_is_a_problem(
    fake_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_host()
    monkeypatch.setenv("VMM_RUN_LOOP", "rust")
    assert "VMM_RUN_LOOP: 'rust'" in host.examine().problems[0]


# Where the report goes


@pytest.mark.parametrize("arguments", [["doctor", "{image}"], ["--help"]])
def test_reader_may_leave_early(tmp_path: Path, arguments: list[str]) -> None:
    """As `| head` does."""
    image = tmp_path / "kernel"
    image.write_bytes(elf())
    reader, writer = os.pipe()
    os.close(reader)
    command = [*VMM, *(word.format(image=image) for word in arguments)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["doctor"], ["--help"], ["run", "--help"]])
def test_report_that_cannot_be_written_is_an_error(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*VMM, *arguments], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        b"vmm: error: stdout: No space left on device\n",
    )
