"""What a qcow2 image says of other files, which it must not choose on its own.

Source: QEMU, docs/interop/qcow2.txt.
"""

import os
from struct import Struct, pack
from typing import Final

from ..errors import ConfigError

_MAGIC: Final = b"QFI\xfb"
# Magic, version, offset and size of the backing file's name, cluster bits, size
_HEADER: Final = Struct(">4sIQIIQ")
_FEATURES: Final = Struct(">Q")
_FEATURES_AT: Final = 72
_EXTERNAL_DATA: Final = 1 << 2
_NAME_MAX: Final = 1023
_DEEPEST: Final = 32

# Of those that we make
_CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << _CLUSTER_BITS
_BITS_PER_L1_ENTRY: Final = _CLUSTER_BITS + _CLUSTER_BITS - 3
_V3_HEADER: Final = Struct(">4sIQIIQIIQQIIQQQQII")
_NAME_AT: Final = 0x200
_BACKING_FORMAT: Final = pack(">II8sQ", 0xE279_2ACA, 5, b"qcow2", 0)  # and the end


def check_qcow2(path: str) -> None:
    """Raises ConfigError unless it is one, with all that it needs in its own folder.

    An image may name any file as its backing file, and its guest reads that then.
    """
    folder = os.path.dirname(os.path.realpath(path))
    at = path
    for _ in range(_DEEPEST):
        try:
            backing = _backing_file(at)
        except OSError as error:
            raise ConfigError(f"disks: {at!r}: {error.strerror}") from None
        except ValueError as error:
            if at != path:  # a raw one
                return
            raise ConfigError(f"disks: {path!r} is no qcow2 image: {error}") from None
        if backing is None:
            return
        at = os.path.join(os.path.dirname(os.path.realpath(at)), backing)
        if not os.path.realpath(at).startswith(os.path.join(folder, "")):
            raise ConfigError(
                f"disks: {path!r} has a backing file {backing!r}, which isn't in its "
                "own folder: an image could name any file of yours"
            )
    raise ConfigError(f"disks: {path!r} has more than {_DEEPEST} backing files")


def _backing_file(path: str) -> str | None:
    """The name that the image has for it. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        head = file.read(_FEATURES_AT + _FEATURES.size)
        if len(head) < _FEATURES_AT or not head.startswith(_MAGIC):
            raise ValueError("it doesn't begin as one")
        _, version, offset, size, _, _ = _HEADER.unpack_from(head)
        if version >= 3 and len(head) == _FEATURES_AT + _FEATURES.size:
            (features,) = _FEATURES.unpack_from(head, _FEATURES_AT)
            if features & _EXTERNAL_DATA:
                raise ConfigError(f"disks: {path!r} has its data in another file")
        if not offset:
            return None
        if not 0 < size <= _NAME_MAX:
            raise ValueError(f"its backing file's name has {size} bytes")
        file.seek(offset)
        name = os.fsdecode(file.read(size))
    if name.startswith("json:") or (":" in name.split("/", 1)[0]):
        raise ConfigError(
            f"disks: {path!r} has a backing file {name!r}, which is no file of its "
            "own folder"
        )
    return name


def check_overlay(path: str) -> None:
    """Raises ConfigError unless an overlay may be used; its backing file is ours."""
    try:
        _backing_file(path)
    except OSError as error:
        raise ConfigError(f"disks: {path!r}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"disks: {path!r} is no qcow2 image: {error}") from None


def write_overlay(fd: int, base: str) -> None:
    """Make an empty file one above `base`, which was checked. Raises OSError."""
    with open(base, "rb") as file:
        *_, size = _HEADER.unpack_from(file.read(_HEADER.size))
    l1_size = -(-size // (1 << _BITS_PER_L1_ENTRY))
    l1_clusters = -(-l1_size * 8 // _CLUSTER)
    name = os.fsencode(os.path.realpath(base))
    header = _V3_HEADER.pack(
        *(_MAGIC, 3, _NAME_AT, len(name), _CLUSTER_BITS, size, 0),
        *(l1_size, 3 * _CLUSTER),
        *(_CLUSTER, 1),  # the refcount table
        *(0, 0),  # no snapshots
        *(0, 0, 0, 4, _V3_HEADER.size),  # no features, counts of 16 bits
    )
    start = (header + _BACKING_FORMAT).ljust(_NAME_AT, b"\0") + name
    counts = pack(">H", 1) * (3 + l1_clusters)
    for at, data in (0, start), (1, pack(">Q", 2 * _CLUSTER)), (2, counts):
        os.pwrite(fd, data, at * _CLUSTER)
    os.truncate(fd, (3 + l1_clusters) * _CLUSTER)


def new_overlay(path: str, base: str) -> None:
    """Make one at `path`, wholly or not at all. Raises OSError."""
    import tempfile  # most disks have none

    folder = os.path.dirname(os.path.abspath(path))
    fd, temporary = tempfile.mkstemp(dir=folder)
    try:
        write_overlay(fd, base)
        os.fsync(fd)
        os.link(temporary, path)
    finally:
        os.close(fd)
        os.unlink(temporary)
