"""Where a machine's files go: a folder that has its test's name."""

import re
import zlib
from itertools import count
from pathlib import Path
from typing import Final

LONGEST: Final = 120  # characters in a name; file systems take 255 bytes
_ODD: Final = re.compile(r"[^\w.\-\[\]=+,]")  # what upload tools refuse, and spaces


def folder_for(root: Path, node_id: str) -> Path:
    """`root`/tests/test_x.py/TestClass.test_name[parameters]."""
    file, _, names = node_id.partition("::")
    parts = [*file.split("/"), names.replace("::", ".")]
    return root.joinpath(*(_plain(part) for part in parts if part not in ("", "..")))


def new_folder(path: Path) -> Path:
    """Make the folder `path`, or `path`-2, `path`-3, the first that isn't there yet.

    Two workers of a test run, and two runs, never get the same. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path
    for number in count(2):
        try:
            folder.mkdir()
            break
        except FileExistsError:
            folder = path.with_name(f"{path.name}-{number}")
    return folder


def _plain(name: str) -> str:
    plain = _ODD.sub("_", name)[:LONGEST]
    if plain == name:
        return name
    return f"{plain}-{zlib.crc32(name.encode(errors='surrogatepass')):08x}"
