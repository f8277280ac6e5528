"""Kvm: what is refused when /dev/kvm is opened, and what is told to do about it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.kernel_images import bzimage
from support.open_fds import open_fds

from vmm.cli import main as cli
from vmm.errors import KvmError, KvmUnavailable
from vmm.kvm import _libc, abi
from vmm.kvm import kvm as kvm_module
from vmm.kvm.kvm import Kvm, open_device

Answers = dict[int, int]
Fake = Callable[..., None]


@pytest.fixture
def fake_kvm(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Lets /dev/null answer ioctls as KVM 12 with every capability, but for `lacks`."""

    def install(version: int = 12, lacks: int | None = None) -> None:
        def ioctl(fd: int, request: int, argument: int = 0) -> int:
            os.fstat(fd)  # it is open
            if request == abi.KVM_CHECK_EXTENSION:
                return int(argument != lacks)
            return {abi.KVM_GET_API_VERSION: version}.get(request, 4096)

        monkeypatch.setattr(kvm_module, "ioctl", ioctl)
        monkeypatch.setattr(
            kvm_module, "open_device", lambda path: os.open(os.devnull, os.O_RDWR)
        )

    return install


# Opening


def test_missing_device_names_modules_firmware_and_with_kvm(tmp_path: Path) -> None:
    with pytest.raises(KvmUnavailable) as caught:
        open_device(str(tmp_path / "kvm"))
    message = str(caught.value)
    assert message.startswith(f"there is no {tmp_path}/kvm: load kvm_intel or kvm_amd")
    assert "scripts/with-kvm" in message


def test_forbidden_device_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(KvmUnavailable, match=r"no permission .*'sudo usermod -aG kvm"):
        open_device("/dev/kvm")


def test_device_without_a_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, flags: int) -> int:
        raise OSError(errno.ENODEV, "No such device", path)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(KvmUnavailable, match="can't be opened: No such device"):
        open_device("/dev/kvm")


# Versions and capabilities


def test_fit_kvm_is_taken(fake_kvm: Fake) -> None:
    fake_kvm()
    with Kvm() as kvm:
        assert kvm.vcpu_mmap_size == 4096


@pytest.mark.parametrize("version", [11, 13])
def test_other_api_version_is_refused(fake_kvm: Fake, version: int) -> None:
    fake_kvm(version=version)
    with pytest.raises(KvmUnavailable, match=f"speaks KVM API {version}, we need 12"):
        Kvm()


@pytest.mark.parametrize("name", kvm_module.REQUIRED_CAPABILITIES)
def test_missing_capability_is_named(fake_kvm: Fake, name: str) -> None:
    fake_kvm(lacks=kvm_module.REQUIRED_CAPABILITIES[name])
    with pytest.raises(KvmUnavailable, match=f"lacks {name}: a newer host kernel"):
        Kvm()


def test_required_capabilities_have_their_own_numbers() -> None:
    for name, number in kvm_module.REQUIRED_CAPABILITIES.items():
        assert getattr(abi, name) == number


def test_refused_device_is_closed_again(fake_kvm: Fake) -> None:
    fake_kvm(version=11)
    before = open_fds()
    with pytest.raises(KvmUnavailable):
        Kvm()
    assert open_fds() == before


def test_closing_twice_is_fine(fake_kvm: Fake) -> None:
    fake_kvm()
    kvm = Kvm()
    kvm.close()
    kvm.close()


# The host's faults end the command with 1


def run_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (tmp_path / "vmlinuz").write_bytes(bzimage())
    before = open_fds()
    kernel = str(tmp_path / "vmlinuz")
    assert cli.main(["run", "--quirks", "none", "--kernel", kernel]) == 1
    assert open_fds() == before
    err = capsys.readouterr().err
    assert err.startswith("vmm: error: ")
    assert err.count("\n") == 1
    return err


def test_more_cpus_than_kvm_takes_are_refused_with_the_numbers(
    fake_kvm: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vmlinuz").write_bytes(bzimage())
    fake_kvm()  # all its capabilities are 1
    kernel = str(tmp_path / "vmlinuz")
    command = ["run", "--quirks", "none", "--cpus", "2", "--kernel", kernel]
    assert cli.main(command) == 2
    assert capsys.readouterr().err == (
        "vmm: error: cpus: 2 are more than the 1 that this host's KVM takes "
        "(it recommends 1 at most)\n"
    )


def test_run_without_device_ends_with_1_and_the_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing(path: str) -> int:
        return open_device(str(tmp_path / "kvm"))

    monkeypatch.setattr(kvm_module, "open_device", missing)
    assert "scripts/with-kvm" in run_error(tmp_path, capsys)


def test_run_on_another_api_version_ends_with_1(
    fake_kvm: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_kvm(version=13)
    assert "speaks KVM API 13" in run_error(tmp_path, capsys)


def test_run_on_a_poor_kvm_ends_with_1(
    fake_kvm: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_kvm(lacks=abi.KVM_CAP_IRQFD)
    assert "lacks KVM_CAP_IRQFD" in run_error(tmp_path, capsys)


# The one foreign call


def test_failed_ioctl_names_itself_and_has_errno() -> None:
    with open(os.devnull) as null, pytest.raises(KvmError) as caught:
        _libc.ioctl(null.fileno(), abi.KVM_CREATE_VM)
    assert caught.value.errno == errno.ENOTTY
    assert "KVM_CREATE_VM failed: Inappropriate ioctl" in str(caught.value)


def test_kvm_error_is_an_os_error_of_ours() -> None:
    assert issubclass(KvmError, OSError)
    assert KvmError.exit_code == 1


@pytest.mark.parametrize(
    "name", [name for name in vars(abi) if name.startswith(("KVM_GET", "KVM_SET"))]
)
def test_ioctl_is_called_by_its_own_name(name: str) -> None:
    assert _libc._name_of(getattr(abi, name)) == name


def test_run_ioctl_raises_os_error_with_errno() -> None:
    with open(os.devnull) as null, pytest.raises(OSError, match="Inappropriate"):
        _libc.run_ioctl(null.fileno(), abi.KVM_RUN, 0)
