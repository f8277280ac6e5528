"""Take what the software machine needs out of an unpacked kernel package.

`vmlinux BZIMAGE OUT` writes the ELF image that a bzImage carries: entered
directly (PVH) it saves the slowest part of an emulated boot, unpacking.
`modules DIR NAME...` prints the files of the named modules and of all they
depend on, in loading order, unpacked in place.
"""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import sys
from pathlib import Path

SETUP_SECTS = 0x1F1  # Linux boot protocol, "Details of Header Fields"
PAYLOAD_OFFSET = 0x248
SECTOR = 512


def vmlinux(image: bytes) -> bytes:
    """Return the ELF inside a bzImage; the bzImage where we cannot unpack it.

    Source: Linux boot protocol 2.08, payload_offset and payload_length.
    """
    start = (image[SETUP_SECTS] + 1) * SECTOR
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    payload = image[start + offset : start + offset + length]
    if payload.startswith(b"\xfd7zXZ"):
        # A decompressor, as four bytes of size follow the xz stream.
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload)  # its own trailer ends with the size
    return image


def depends(module: bytes) -> list[str]:
    """Return the names of the modules that a .ko says it needs (.modinfo)."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return match[1].decode().split(",") if match and match[1] else []


def canonical(name: str) -> str:
    """Return a module's name as the kernel spells it: `kvm-amd` is kvm_amd."""
    return name.replace("-", "_")


def unpacked(path: Path) -> Path:
    """Unpack a .ko.xz beside itself; return the .ko."""
    if path.suffix != ".xz":
        return path
    plain = path.with_suffix("")
    plain.write_bytes(lzma.decompress(path.read_bytes()))
    return plain


def loading_order(tree: Path, names: list[str]) -> list[Path]:
    """Return the files of `names` and what they need, each after its needs.

    Raises KeyError for a module that the package lacks.
    """
    files = {canonical(p.name.split(".ko")[0]): p for p in tree.rglob("*.ko*")}
    order: dict[str, Path] = {}

    def visit(name: str) -> None:
        if name not in order:
            path = unpacked(files[name])
            for needed in depends(path.read_bytes()):
                visit(canonical(needed))
            order[name] = path

    for name in names:
        visit(canonical(name))
    return list(order.values())


def main(arguments: list[str]) -> None:
    """Do what the module's docstring says."""
    verb, source, *rest = arguments
    if verb == "vmlinux":
        Path(rest[0]).write_bytes(vmlinux(Path(source).read_bytes()))
    else:
        print(*loading_order(Path(source), rest), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
