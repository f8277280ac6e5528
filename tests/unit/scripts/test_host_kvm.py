"""Which kind of KVM a host has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from scripts.with_kvm.host_kvm import host_kvm

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def api_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any file answer KVM_GET_API_VERSION with 12."""
    monkeypatch.setattr("fcntl.ioctl", lambda fd, request: 12)


def test_missing_device_is_none_and_named(tmp_path: Path) -> None:
    found = host_kvm(str(tmp_path / "kvm"))
    assert found.kind == "none"
    assert str(tmp_path / "kvm") in found.reason


def test_device_that_is_no_kvm_is_none() -> None:
    found = host_kvm(os.devnull)
    assert found.kind == "none"
    assert "no KVM" in found.reason


@pytest.mark.usefixtures("api_version")
def test_kvm_pvm_module_makes_it_pvm(tmp_path: Path) -> None:
    (tmp_path / "kvm_pvm").mkdir()
    assert host_kvm(os.devnull, str(tmp_path)).kind == "pvm"


@pytest.mark.usefixtures("api_version")
def test_kvm_without_kvm_pvm_is_hardware(tmp_path: Path) -> None:
    assert host_kvm(os.devnull, str(tmp_path)).kind == "hardware"


def test_other_api_version_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda fd, request: 11)
    found = host_kvm(os.devnull, str(tmp_path))
    assert found.kind == "none"
    assert "API 11" in found.reason
