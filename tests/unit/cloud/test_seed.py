"""The seed: what cloud-init finds on it, and what is refused."""

import os
import subprocess
from pathlib import Path

import pytest
from support.cloud_image import program

from vmm import MachineConfig
from vmm.cloud.seed import make_seed
from vmm.errors import ConfigError

USER_DATA = "#cloud-config\nhostname: ours\n"


@pytest.fixture
def user_data(tmp_path: Path) -> Path:
    program("xorriso", "xorriso")
    path = tmp_path / "my data"
    path.write_text(USER_DATA)
    return path


def unpacked(paths: tuple[str, ...], to: Path) -> dict[str, str]:
    seed = make_seed(paths)
    image = to / "seed.iso"
    image.write_bytes(os.pread(seed.fd, seed.size(), 0))
    seed.close()
    command = ["xorriso", "-osirrox", "on", "-indev", str(image), "-pvd_info"]
    command += ["-extract", "/", str(to / "files")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Volume Id    : cidata" in done.stdout
    return {path.name: path.read_text() for path in (to / "files").iterdir()}


def test_seed_has_user_data_and_an_instance_of_its_own(
    user_data: Path, tmp_path: Path
) -> None:
    files = unpacked((str(user_data),), tmp_path)
    assert files.keys() == {"user-data", "meta-data"}
    assert files["user-data"] == USER_DATA
    assert files["meta-data"].startswith("instance-id: iid-")


def test_instance_is_another_for_other_user_data(user_data: Path) -> None:
    def content() -> bytes:
        seed = make_seed((str(user_data),))
        text = os.pread(seed.fd, seed.size(), 0)
        seed.close()
        return text[text.index(b"instance-id") :][:40]

    first = content()
    assert content() == first
    user_data.write_text(USER_DATA + "#\n")
    assert content() != first


def test_meta_data_is_the_users_where_given(user_data: Path, tmp_path: Path) -> None:
    meta_data = tmp_path / "meta"
    meta_data.write_text("instance-id: x\n")
    files = unpacked((str(user_data), str(meta_data)), tmp_path)
    assert files["meta-data"] == "instance-id: x\n"


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^seed: '.*none': No such file"):
        make_seed((str(tmp_path / "none"),))


def test_what_cloud_init_would_ignore_is_refused(user_data: Path) -> None:
    user_data.write_text("hostname: ours\n")
    with pytest.raises(ConfigError, match="begins with nothing that cloud-init knows"):
        make_seed((str(user_data),))


def test_what_is_too_large_is_refused(user_data: Path) -> None:
    os.truncate(user_data, 17 << 20)
    with pytest.raises(ConfigError, match="has more than 16M"):
        make_seed((str(user_data),))


def test_program_that_is_not_there_is_named(
    user_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="xorrisofs, which isn't here: install xorri"):
        make_seed((str(user_data),))


@pytest.mark.parametrize("given", ["", "a,b,c", "a,", ["a", "b", "c"], [""]])
def test_setting_is_one_file_or_two(given: str | list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^seed: .* is not USER-DATA"):
        MachineConfig(seed=given)


def test_setting_keeps_paths(tmp_path: Path) -> None:
    assert MachineConfig(seed="a,b").seed == ("a", "b")
    assert MachineConfig(seed=tmp_path / "a,b").seed == (str(tmp_path / "a,b"),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "^boot_from_disk: there is no disk"),
        ({"disks": "a.img", "kernel": "k"}, "^kernel: it excludes boot_from_disk"),
        ({"disks": "a.img", "initrd": "i"}, "^initrd: it excludes boot_from_disk"),
        ({"disks": "a.img", "agent": True}, "^agent: it excludes boot_from_disk"),
        ({"disks": "a.img", "command": "ls"}, "^command: it excludes boot_from_disk"),
    ],
)
def test_what_boot_from_disk_excludes(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        MachineConfig(boot_from_disk=True, **settings)  # type: ignore[arg-type]
