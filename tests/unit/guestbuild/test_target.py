"""When build-guest builds anew, and when it does not."""

import dataclasses
import os
from pathlib import Path

import pytest
from guestbuild.target import Stamp, Target, build, install, is_current, key
from guestbuild.workshop import Workshop

VERSIONS = {"linux-source-6.1": "6.1.1-1"}


def make(shop: Workshop, out: Path) -> None:
    """Build as a kernel would: some bytes."""
    (out / "kernel").write_bytes(b"built")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    source = tmp_path / "tiny.config"
    source.write_text("CONFIG_64BIT=y\n")
    return Target(
        "kernel-tiny", ("kernel",), (source,), "make", make, ("linux-source-6.1",)
    )


@pytest.fixture
def build_dir(tmp_path: Path, target: Target) -> Path:
    """Return a build directory in which `target` has been built."""
    path = tmp_path / "build"
    path.mkdir()
    build_into(target, path)
    return path


def build_into(target: Target, build_dir: Path) -> None:
    out = build_dir / "out"
    out.mkdir()
    build(target, VERSIONS, Workshop(build_dir, build_dir), out)
    out.rmdir()


def test_key_depends_on_source_content(target: Target) -> None:
    before = key(target, VERSIONS)
    target.sources[0].write_text("CONFIG_64BIT=n\n")
    assert key(target, VERSIONS) != before


def test_key_does_not_depend_on_source_time(target: Target) -> None:
    before = key(target, VERSIONS)
    os.utime(target.sources[0], (1, 1))
    assert key(target, VERSIONS) == before


def test_key_does_not_depend_on_where_the_source_is(target: Target) -> None:
    elsewhere = target.sources[0].parent / "elsewhere"
    elsewhere.mkdir()
    copy = elsewhere / target.sources[0].name
    copy.write_bytes(target.sources[0].read_bytes())
    moved = dataclasses.replace(target, sources=(copy,))
    assert key(moved, VERSIONS) == key(target, VERSIONS)


def test_key_depends_on_recipe(target: Target) -> None:
    changed = dataclasses.replace(target, recipe="make -s")
    assert key(changed, VERSIONS) != key(target, VERSIONS)


def test_key_depends_on_package_version(target: Target) -> None:
    newer = {"linux-source-6.1": "6.1.2-1"}
    assert key(target, newer) != key(target, VERSIONS)


def test_key_without_a_package_version_raises(target: Target) -> None:
    with pytest.raises(KeyError):
        key(target, {})


def test_never_built_is_not_current(target: Target, tmp_path: Path) -> None:
    assert not is_current(target, tmp_path)


def test_built_is_current(target: Target, build_dir: Path) -> None:
    assert is_current(target, build_dir)


def test_source_edited_during_the_build_is_not_current(
    target: Target, tmp_path: Path
) -> None:
    def edit(shop: Workshop, out: Path) -> None:
        make(shop, out)
        target.sources[0].write_text("edited")

    build_into(dataclasses.replace(target, build=edit), tmp_path)
    assert (tmp_path / "kernel").exists()
    assert not is_current(target, tmp_path)


def test_changed_source_is_not_current(target: Target, build_dir: Path) -> None:
    target.sources[0].write_text("changed")
    assert not is_current(target, build_dir)


def test_newer_package_is_not_current_when_asked_for(
    target: Target, build_dir: Path
) -> None:
    assert is_current(target, build_dir, VERSIONS)
    assert not is_current(target, build_dir, {"linux-source-6.1": "6.1.2-1"})


def test_truncated_output_is_not_current(target: Target, build_dir: Path) -> None:
    (build_dir / "kernel").write_bytes(b"bui")
    assert not is_current(target, build_dir)


def test_missing_output_is_not_current(target: Target, build_dir: Path) -> None:
    (build_dir / "kernel").unlink()
    assert not is_current(target, build_dir)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "x", "unknown": 1}'])
def test_damaged_stamp_is_not_current(
    target: Target, build_dir: Path, text: str
) -> None:
    (build_dir / ".stamps" / "kernel-tiny.json").write_text(text)
    assert not is_current(target, build_dir)


def test_install_that_fails_half_way_leaves_no_stamp(
    target: Target, build_dir: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        install(target, Stamp("key"), build_dir / "nothing built", build_dir)
    assert not is_current(target, build_dir)


def test_install_removes_outputs_that_are_no_longer_made(
    target: Target, build_dir: Path
) -> None:
    def make_other(_shop: Workshop, out: Path) -> None:
        (out / "kernel-2").write_bytes(b"built")

    build_into(
        dataclasses.replace(target, outputs=("kernel-2",), build=make_other), build_dir
    )
    assert (build_dir / "kernel-2").exists()
    assert not (build_dir / "kernel").exists()
