"""Where a test's files go: a folder that has the test's name."""

import re
import zlib
from pathlib import Path
from typing import Final

LONGEST: Final = 120  # characters in a name; file systems take 255 bytes
_ODD: Final = re.compile(r"[^\w.\-\[\]=+,]")  # what upload tools refuse, and spaces


def folder_for(root: Path, node_id: str) -> Path:
    """`root`/tests/test_x.py/TestClass.test_name[parameters]."""
    file, _, names = node_id.partition("::")
    parts = [*file.split("/"), names.replace("::", ".")]
    return root.joinpath(*(_plain(part) for part in parts if part not in ("", "..")))


def _plain(name: str) -> str:
    plain = _ODD.sub("_", name)[:LONGEST]
    if plain == name:
        return name
    return f"{plain}-{zlib.crc32(name.encode(errors='surrogatepass')):08x}"
