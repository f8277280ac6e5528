"""DiskConfig: what a user may choose for one disk, checked."""

import os
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from ..errors import ConfigError
from ..field_types import Checked, StrPath, setting, size

if TYPE_CHECKING:  # for type checkers alone
    from collections.abc import Iterable

RAW: Final = "raw"
SERVED: Final = ("qcow2", "vdi", "vhdx", "vpc")
"""What qemu-storage-daemon reads and writes for us."""
FORMATS: Final = (RAW, *SERVED)
Cache = Literal["writeback", "writethrough"]
SERIAL_MAX: Final = 20  # bytes, by virtio-blk's GET_ID

# What others call their images, and we can't read as what it says
_FOREIGN: Final = ("qcow", "qed", "vmdk")
_SUFFIXES: Final = {name: name for name in SERVED} | {"vhd": "vpc"}
_RAW_ONLY: Final = ("serial", "rate", "iops")
_HAVE_OVERLAYS: Final = (RAW, "qcow2")
_FLAGS: Final = ("cow", "ro")


def _path(field: str, path: StrPath) -> str:
    if not os.fspath(path):
        raise ConfigError(f"{field}: it is empty")
    return os.fspath(path)


def _cow(field: str, cow: bool | StrPath) -> bool | str:
    return cow if isinstance(cow, bool) else _path(field, cow)


def _serial(field: str, serial: str) -> str:
    if len(serial.encode()) > SERIAL_MAX:
        raise ConfigError(f"{field}: {serial!r} has more than {SERIAL_MAX} bytes")
    return serial


def _format(field: str, name: str | None) -> str | None:
    if name is not None and name not in FORMATS:
        known = ", ".join(FORMATS)
        raise ConfigError(f"{field}: {name!r} is none that we know: {known}")
    return name


class DiskConfig(Checked):
    """One disk of a guest's, by virtio-blk: the first is vda, the next vdb.

    Its text is "PATH,ro", "PATH,cow,serial=S" and so on: each field by its name.
    """

    path: str = setting("", StrPath, _path)
    """A file or a block device of the host's, of whole sectors of 512 bytes."""
    ro: bool = False
    """The guest can't write to it, and others may read it meanwhile."""
    cow: bool | str = setting(False, bool | StrPath, _cow)
    """What the guest writes goes elsewhere, and `path`, which others may have meanwhile
    as well, stays as it is: True, to a file that vanishes with the machine (in $TMPDIR,
    or /var/tmp); a path, to that file, which is made if it isn't there, and goes on
    from where it was."""
    format: str | None = setting(None, str | None, _format)
    """What the image is: "raw", or "qcow2", "vdi", "vhdx" or "vpc", which take
    qemu-storage-daemon. It is never guessed from what is in it. None: as its name says,
    or raw."""
    serial: str = setting("", str, _serial)
    """By which the guest finds it, as /dev/disk/by-id/virtio-SERIAL where it has udev,
    and by /sys/block/*/serial; up to 20 bytes."""
    cache: Cache = "writeback"
    """When a write is durable: once the guest asks for it, as for any disk
    ("writeback"), or before it is told that it is done ("writethrough")."""
    rate: int | None = setting(None, int | str | None, size)
    """At most so many bytes a second, or "20M". None: no limit."""
    burst: int | None = setting(None, int | str | None, size)
    """What may come at once after a pause. None: a tenth of a second's."""
    iops: int | None = setting(None, int | str | None, size)
    """At most so many requests a second. None: no limit."""
    iops_burst: int | None = setting(None, int | str | None, size)
    """How many may come at once after a pause. None: a tenth of a second's."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("path: it is missing")
        if self.ro and self.cow:
            raise ConfigError(
                "cow: it excludes ro: there is nothing to write elsewhere"
            )
        for limit, burst in ("rate", "burst"), ("iops", "iops_burst"):
            if getattr(self, burst) is not None and getattr(self, limit) is None:
                raise ConfigError(f"{burst}: it takes {limit}, too")
        if self.format is None and self.suffix in _FOREIGN:
            raise ConfigError(
                f"format: by its name it is {self.suffix}, which isn't one that we "
                f"know: {', '.join(FORMATS)}"
            )
        if self.cow and self.image_format not in _HAVE_OVERLAYS:
            raise ConfigError(
                f"cow: it is for raw and qcow2 images, not {self.image_format}"
            )
        for name in _RAW_ONLY if self.is_served else ():
            if getattr(self, name):
                raise ConfigError(
                    f"{name}: it is for raw images, not {self.image_format}"
                )

    @property
    def image_format(self) -> str:
        """What it is taken as."""
        return self.format or _SUFFIXES.get(self.suffix, RAW)

    @property
    def is_served(self) -> bool:
        """Whether another process reads and writes the image."""
        return self.image_format != RAW

    @property
    def suffix(self) -> str:
        """What its name ends in, behind a dot."""
        return os.path.splitext(self.path)[1][1:].lower()

    @classmethod
    def parse(cls, text: str) -> "DiskConfig":
        """What a text says. Raises ConfigError."""
        path, *options = text.split(",")
        values: dict[str, Any] = {"path": path}
        for option in options:
            name, equals, value = option.partition("=")
            if name not in cls.field_names or name == "path":
                raise ConfigError(
                    f"{option!r} is no option, but one of {', '.join(_options())}; a "
                    "path with a comma takes a DiskConfig"
                )
            if name in values:
                raise ConfigError(f"{name}: it is there twice")
            if not equals and name not in _FLAGS:
                raise ConfigError(f"{name}: it takes a value: {name}=...")
            if equals and name == "ro":
                raise ConfigError("ro: it takes no value")
            values[name] = value if equals else True
        return cls(**values)


def _options() -> "Iterable[str]":
    return (name for name in DiskConfig.field_names if name != "path")


def disks(field: str, given: Any) -> tuple[DiskConfig, ...]:  # noqa: ANN401
    """Those of a configuration's `field`. Raises ConfigError, which names the disk."""
    several = (given,) if isinstance(given, str | os.PathLike | Checked) else given
    found = tuple(_disk(field, disk) for disk in several)
    readers: set[str] = set()
    writers: set[str] = set()
    for disk in found:
        path = os.path.realpath(disk.path)
        writes = not (disk.ro or disk.cow)
        if path in writers or (writes and path in readers):
            raise ConfigError(
                f"{field}: {disk.path!r} is there twice, to be written to"
            )
        (writers if writes else readers).add(path)
    return found


def _disk(field: str, disk: StrPath | Checked) -> DiskConfig:
    if isinstance(disk, DiskConfig):
        return disk
    if isinstance(disk, Checked):
        raise ConfigError(f"{field}: {type(disk).__name__} is no DiskConfig")
    try:
        if isinstance(disk, str):
            return DiskConfig.parse(disk)
        return DiskConfig(path=os.fspath(disk))
    except ConfigError as error:
        raise ConfigError(f"{field}: {os.fspath(disk)!r}: {error}") from None


CACHES: Final = get_args(Cache)
__all__ = ["CACHES", "FORMATS", "RAW", "Cache", "DiskConfig", "disks"]
