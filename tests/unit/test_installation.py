"""Hints name scripts of a checkout only where there is one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vmm import ConfigError, KvmUnavailable, MachineConfig, config, installation
from vmm.guest import command as guest_command
from vmm.guest.command import initramfs_segment
from vmm.guest.config import CommandConfig
from vmm.host import report as host
from vmm.installation import script
from vmm.kvm.kvm import open_device


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a wheel: no scripts beside the package, and no guests."""
    monkeypatch.setattr(installation, "ROOT", str(tmp_path))
    monkeypatch.setattr(config, "BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(guest_command, "__file__", str(tmp_path / "x.py"))


def no_device() -> str:
    with pytest.raises(KvmUnavailable) as refused:
        open_device("/nowhere/kvm")
    return str(refused.value)


def no_kernel() -> str:
    with pytest.raises(ConfigError) as refused:
        MachineConfig().images()
    return str(refused.value)


def no_helper() -> str:
    with pytest.raises(ConfigError) as refused:
        initramfs_segment(CommandConfig(command="a"), 0x1000, config.BUILD_DIR)
    return str(refused.value)


HINTS = pytest.mark.parametrize(
    "hint",
    [no_device, no_kernel, no_helper, lambda: host._explanation("pvm")],
    ids=["device", "kernel", "helper", "doctor"],
)


@HINTS
@pytest.mark.usefixtures("installed")
def test_an_installed_package_sends_nobody_to_scripts(hint: Callable[[], str]) -> None:
    assert "scripts/" not in hint()


@pytest.mark.usefixtures("installed")
def test_an_installed_package_says_whose_a_script_is() -> None:
    assert script("with-kvm vmm") == "'with-kvm vmm' of a checkout of minivmm"


def test_a_checkouts_script_is_named_as_one_would_call_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(installation.ROOT)
    assert script("with-kvm vmm") == "'scripts/with-kvm vmm'"
    monkeypatch.chdir(tmp_path)
    assert script("with-kvm vmm") == f"'{installation.ROOT}/scripts/with-kvm vmm'"
