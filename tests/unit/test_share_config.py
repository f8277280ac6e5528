"""ShareConfig, and `shares` of a MachineConfig."""

from pathlib import Path

import pytest

from vmm import ConfigError, MachineConfig, ShareConfig


@pytest.mark.parametrize(
    ("text", "path", "tag", "ro"),
    [
        ("/a/src", "/a/src", "src", False),
        ("/a/src/", "/a/src/", "src", False),
        ("/a/src:code", "/a/src", "code", False),
        ("/a/src,ro", "/a/src", "src", True),
        ("/a/src:/mnt/code,ro", "/a/src", "/mnt/code", True),
        ("/", "/", "root", False),
    ],
)
def test_text_is_directory_tag_and_ro(text: str, path: str, tag: str, ro: bool) -> None:
    share = ShareConfig.parse(text)
    assert (share.path, share.mount_tag, share.ro) == (path, tag, ro)


def test_relative_directory_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ShareConfig.parse(".").mount_tag == tmp_path.name


def test_shares_are_paths_texts_and_configs(tmp_path: Path) -> None:
    config = MachineConfig(shares=[tmp_path / "a", "b:c,ro", ShareConfig(path="d")])
    assert [share.mount_tag for share in config.shares] == ["a", "c", "d"]
    assert MachineConfig(shares="b").shares == (ShareConfig(path="b"),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "path: it is missing"),
        ("a:", "tag: it is empty"),
        ("a:" + "t" * 37, f"tag: '{'t' * 37}' has more than 36 bytes"),
        ("/x/" + "n" * 37, "has more than 36 bytes: give it one, DIR:TAG"),
        ("a,rw", "'rw' is no option, but ro"),
        ("a,ro,ro", "'ro,ro' is no option, but ro"),
    ],
)
def test_what_can_not_be_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MachineConfig(shares=text)
    assert str(caught.value).startswith(f"shares: {text!r}: ")
    assert why in str(caught.value)


def test_tag_is_there_once() -> None:
    with pytest.raises(ConfigError, match=r"^shares: '/b/x': tag 'x' is there twice$"):
        MachineConfig(shares=["/a/x", "/b/x"])
