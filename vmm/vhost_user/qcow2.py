"""What a qcow2 image says of other files, which it must not choose on its own.

Source: QEMU, docs/interop/qcow2.txt.
"""

import os
from struct import Struct
from typing import Final

from ..errors import ConfigError

_MAGIC: Final = b"QFI\xfb"
# Magic, version, offset and size of the backing file's name; incompatible features
_HEADER: Final = Struct(">4sIQI")
_FEATURES: Final = Struct(">Q")
_FEATURES_AT: Final = 72
_EXTERNAL_DATA: Final = 1 << 2
_NAME_MAX: Final = 1023
_DEEPEST: Final = 32


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
        _, version, offset, size = _HEADER.unpack_from(head)
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
