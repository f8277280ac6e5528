"""Qcow2 images, made byte by byte: QEMU, docs/interop/qcow2.txt."""

from pathlib import Path
from struct import pack

CLUSTER = 1 << 16


def make_qcow2(
    path: Path, size: int, backing: str = "", incompatible_features: int = 0
) -> Path:
    """An empty one of version 3, of up to 4 TiB; returns its path."""
    name = backing.encode()
    header = pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", 3, 0x400 if name else 0, len(name)),
        *(16, size, 0),  # cluster bits, size, no encryption
        *(-(-size // (CLUSTER * CLUSTER // 8)), 3 * CLUSTER),  # L1 table
        *(CLUSTER, 1),  # refcount table
        *(0, 0),  # snapshots
    )
    header += pack(">QQQII", incompatible_features, 0, 0, 4, 104)
    refcount_table = pack(">Q", 2 * CLUSTER)
    refcounts = pack(">4H", 1, 1, 1, 1)
    with path.open("wb") as file:
        file.write(header)
        file.seek(0x400)
        file.write(name)
        for at, data in (1, refcount_table), (2, refcounts):
            file.seek(at * CLUSTER)
            file.write(data)
        file.truncate(4 * CLUSTER)
    return path
