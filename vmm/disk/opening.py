"""What a disk's configuration stands for, opened."""

from collections.abc import Callable
from typing import Final, TypeAlias

from ..errors import ConfigError
from .config import DiskConfig
from .disk_file import DiskFile
from .overlay import FrozenDisk, Overlay
from .raw import RawDisk

Backend: TypeAlias = RawDisk | Overlay
"""A BlockBackend with `resize` and `close`."""

_RAW_NAMES: Final = ("img", "raw", "iso")
_MAGIC: Final = {
    b"QFI\xfb": "qcow2",
    b"QED\0": "qed",
    b"KDMV": "vmdk",
    b"vhdxfile": "vhdx",
    b"conectix": "vpc",
}


def open_backend(config: DiskConfig, warn: Callable[[str], None]) -> Backend:
    """Raises ConfigError. `warn` is told what may not be meant."""
    path = config.path
    try:
        file = DiskFile.open(path, writes=not (config.ro or config.cow))
        try:
            _look_at(config, file, warn)
            if isinstance(config.cow, str):
                return Overlay.kept(file, config.cow)
            if config.cow:
                return Overlay.new(file)
            return RawDisk(file, is_read_only=config.ro)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        where = error.filename or path
        raise ConfigError(f"disks: {str(where)!r}: {error.strerror}") from None


def open_clone(config: DiskConfig, frozen: FrozenDisk) -> Backend:
    """As it was at a snapshot; what is written is the clone's alone. ConfigError."""
    try:
        if config.ro:
            return RawDisk(frozen.base.share(), is_read_only=True)
        return Overlay.above(frozen)
    except OSError as error:
        raise ConfigError(f"disks: {config.path!r}: {error.strerror}") from None


def _look_at(config: DiskConfig, file: DiskFile, warn: Callable[[str], None]) -> None:
    """For a word about a raw image; not to find out what it is."""
    for magic, name in _MAGIC.items():
        if file.starts_with(magic):
            warn(
                f"disk {config.path!r} is taken as raw, and looks like {name}: the "
                "guest sees that as it is"
            )
            return
    if config.format is None and not file.is_device and config.suffix not in _RAW_NAMES:
        warn(f"disk {config.path!r} is taken as raw: say format=raw if it is")
