"""scripts/bench: how peers are asked for their version and told what to boot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.benchmark.boot import VARIANTS, jobs
from scripts.benchmark.children import NotMeasured
from scripts.benchmark.peers import (
    FIRECRACKER_CONFIG,
    PEERS,
    Guest,
    peer_command,
    versions,
)
from scripts.benchmark.rounds import run_rounds

CMDLINE = "console=ttyS0 quiet"
LINUX = Guest(Path("/vmlinux"), 256, Path("/initrd"), CMDLINE, Path("/bzImage"))
BARE = Guest(Path("/guest.elf"))


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(path: Path, program: str, script: str = "") -> None:
    """Put a fake peer on PATH."""
    (path / program).write_text(f"#!/bin/sh\n{script}\n")
    (path / program).chmod(0o755)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_is_not_installed_is_a_reason(
    path: Path, name: str, tmp_path: Path
) -> None:
    program = PEERS[name].program
    with pytest.raises(NotMeasured, match=rf"^{program} is not on PATH \("):
        peer_command(name, LINUX, tmp_path)
    assert versions()[name] is None


@pytest.mark.parametrize(
    ("name", "says", "version"),
    [
        ("qemu", "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", "7.2.22"),
        ("firecracker", "Firecracker v1.16.0\n\n2026-01-01T00:00 [x] exit", "1.16.0"),
        ("cloud-hypervisor", "cloud-hypervisor v53.0-dirty\nProtocol: 0", "53.0"),
        ("lkvm", "kvm tool 3.18.0", "3.18.0"),
        ("lkvm", "something else", "unknown"),
    ],
)
def test_the_version_is_what_a_peer_says(
    path: Path, name: str, says: str, version: str
) -> None:
    peer = PEERS[name]
    install(path, peer.program, f'[ "$*" = {peer.ask} ] && echo "{says}"')
    assert versions()[name] == version


def test_a_peer_that_does_not_start_has_a_version_all_the_same(path: Path) -> None:
    (path / "firecracker").write_bytes(b"\x7fELF")
    (path / "firecracker").chmod(0o755)
    assert versions()["firecracker"] == "unknown"


@pytest.mark.parametrize("name", ["qemu", "qemu-default", "cloud-hypervisor"])
def test_all_get_the_same_kernel_and_command_line(
    path: Path, name: str, tmp_path: Path
) -> None:
    for peer in PEERS.values():
        install(path, peer.program)
    argv = peer_command(name, LINUX, tmp_path).argv
    assert {"/vmlinux", "/initrd", CMDLINE} <= set(argv)
    assert {"256M", "size=256M"} & set(argv)


def test_firecracker_reads_them_from_a_file(path: Path, tmp_path: Path) -> None:
    install(path, "firecracker")
    argv = list(peer_command("firecracker", LINUX, tmp_path).argv)
    assert argv[argv.index("--config-file") + 1] == FIRECRACKER_CONFIG
    assert json.loads((tmp_path / FIRECRACKER_CONFIG).read_text()) == {
        "boot-source": {
            "kernel_image_path": "/vmlinux",
            "initrd_path": "/initrd",
            "boot_args": CMDLINE,
        },
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
        "drives": [],
    }


def test_lkvm_gets_the_bzimage_and_runs_nothing_else(
    path: Path, tmp_path: Path
) -> None:
    install(path, "lkvm")
    assert {"/bzImage", "/initrd", CMDLINE} <= set(
        peer_command("lkvm", LINUX, tmp_path).argv
    )
    with pytest.raises(NotMeasured, match="no ELF program"):
        peer_command("lkvm", BARE, tmp_path)


def test_a_fake_peer_is_measured_from_start_to_marker(path: Path) -> None:
    """With its memory, of a guest that goes on; the others aren't there."""
    script = "echo 'guest: user'; echo 'guest: userspace Linux'; exec /bin/sleep 100"
    install(path, "firecracker", script)
    theirs = [job for job in jobs("pvm") if job.variant in PEERS]
    measured = run_rounds(theirs, 1, lambda _: None)
    values = {key: samples[0].value for key, samples in measured.samples.items()}
    assert set(values) == {
        (measure, "firecracker")
        for measure in ("boot-verbose", "boot-quiet", "boot-memory")
    }
    assert 0 < values["boot-quiet", "firecracker"] < 10_000
    assert 0 < values["boot-memory", "firecracker"] < 10
    assert {variant for _, variant in measured.reasons} == set(PEERS) - {"firecracker"}


def test_a_peer_that_fails_says_why(path: Path) -> None:
    install(path, "cloud-hypervisor", "echo 'error: no /dev/kvm' >&2; exit 1")
    (job,) = (
        job
        for job in jobs("pvm")
        if job.variant == "cloud-hypervisor" and job.group == "boot-quiet"
    )
    measured = run_rounds([job], 1, lambda _: None)
    assert measured.reasons == {
        ("boot-quiet", "cloud-hypervisor"): "error: no /dev/kvm"
    }


def test_lkvm_would_unpack_for_minutes_on_pvm(path: Path) -> None:
    install(path, "lkvm")
    theirs = [job for job in jobs("pvm") if job.variant == "lkvm"]
    reasons = run_rounds(theirs, 1, lambda _: None).reasons
    assert all("PVM emulates for minutes" in reason for reason in reasons.values())


def test_every_peer_boots() -> None:
    assert set(PEERS) < set(VARIANTS)
