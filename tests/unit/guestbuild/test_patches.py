"""Our patches of Linux: what they say, and how they get into a tree."""

from pathlib import Path

import pytest
from guestbuild import cli, linux
from guestbuild.errors import BuildError
from guestbuild.workshop import Workshop

PATCH = """\
--- a/file
+++ b/file
@@ -1 +1 @@
-before
+after
"""


class ShopWithTrees(Workshop):
    """Makes a tree of one file instead of unpacking Debian's."""

    def _unpack_source(self, package: str, directory: Path) -> Path:
        tree = directory / package
        tree.mkdir(parents=True)
        (tree / "file").write_text("before\n")
        return tree


@pytest.fixture
def shop(tmp_path: Path) -> ShopWithTrees:
    shop = ShopWithTrees(tmp_path, tmp_path)
    shop.versions["linux"] = "6.1.1-1"
    return shop


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    path = tmp_path / "0001-after.patch"
    path.write_text(PATCH)
    return path


def test_tree_is_patched(shop: ShopWithTrees, patch: Path) -> None:
    assert (shop.source_tree("linux", (patch,)) / "file").read_text() == "after\n"


def test_patched_and_unpatched_trees_are_two(shop: ShopWithTrees, patch: Path) -> None:
    shop.source_tree("linux", (patch,))
    assert (shop.source_tree("linux") / "file").read_text() == "before\n"


def test_same_tree_is_unpacked_once(shop: ShopWithTrees, patch: Path) -> None:
    assert shop.source_tree("linux", (patch,)) is shop.source_tree("linux", (patch,))


def test_patch_that_does_not_fit_names_it_and_the_way_out(
    shop: ShopWithTrees, patch: Path
) -> None:
    patch.write_text(PATCH.replace("before", "something else"))
    with pytest.raises(
        BuildError, match=r"0001-after\.patch .* linux 6\.1\.1-1, .*--no-patches"
    ):
        shop.source_tree("linux", (patch,))


def test_tiny_unpatched_stands_beside_tiny() -> None:
    unpatched, _ = cli.guests()["tiny-unpatched"]
    assert unpatched.outputs[0] == "vmlinux-tiny-unpatched"
    assert not set(linux.PATCHES) & set(unpatched.sources)


@pytest.mark.parametrize("path", linux.PATCHES, ids=lambda path: path.name)
def test_patch_has_its_saving_and_licence_above_the_diff(path: Path) -> None:
    """But for those that make a kernel in ring 3: they save it all together."""
    header = path.read_text().partition("\n--- a/")[0]
    assert "\nSaves: " in header or header.startswith("x86/ring3: ")
    assert "\nSPDX-License-Identifier: GPL-2.0" in header
