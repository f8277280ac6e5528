"""What the boot loader in a disk's image would start, taken out of it."""

from contextlib import ExitStack
from typing import Final

from ..boot.image import ImageFile
from ..devices.record import Record
from ..disk.config import DiskConfig
from ..errors import ConfigError
from .bls import bls_entry, default_name
from .entry import BootEntry, read_environment
from .grub import GrubConfig
from .reader import ImageReader

# A partition with all, or one that is mounted at /boot; Debian's name, and Fedora's
_GRUB: Final = ("/boot/grub", "/grub", "/boot/grub2", "/grub2")
_ENTRIES: Final = ("/loader/entries", "/boot/loader/entries")
PARTITIONS_MAX: Final = 16
_PLACES: Final = tuple(f"(loop0,{n})" for n in range(1, PARTITIONS_MAX + 1))
_WHOLE: Final = "(loop0)"  # a file system without partitions


class DiskBoot(Record):
    """Kernel, initrd and command line; the files are in memory, and open."""

    kernel: ImageFile
    initrd: ImageFile | None
    cmdline: str


def read_disk_boot(config: DiskConfig, memory: int, stack: ExitStack) -> DiskBoot:
    """That of the disk `config`, for a guest with `memory` bytes of RAM.

    `stack` closes its files. Raises ConfigError, ImageError.
    """
    with ImageReader(config) as image:
        partition, entry = _entry(image, config.path)
        kernel = image.open("kernel", partition, (entry.kernel,), memory)
        stack.callback(kernel.close)
        initrd = None
        if entry.initrds:
            initrd = image.open("initrd", partition, entry.initrds, memory)
            stack.callback(initrd.close)
    return DiskBoot(kernel, initrd, entry.cmdline)


def _entry(image: ImageReader, path: str) -> tuple[str, BootEntry]:
    """What is booted, and the partition that has its files."""
    seen = ""
    for partition in (*_PLACES, _WHOLE):
        for folder in _GRUB:
            text = image.read(partition, f"{folder}/grub.cfg")
            if text is None:
                continue
            seen = f"{folder}/grub.cfg"
            environment = image.read(partition, f"{folder}/grubenv") or ""
            config = GrubConfig(text, read_environment(environment))
            entry = config.entry()
            if entry is None or config.uses_bls:
                entry = _bls(image, partition, config) or entry
            if entry is not None:
                return partition, entry
        entry = _bls(image, partition, GrubConfig("", {}))
        if entry is not None:
            return partition, entry
    what = f"{seen} has no entry with a Linux kernel" if seen else _nothing()
    raise ConfigError(
        f"boot_from_disk: {path!r}: {what}: pass its --kernel and --initrd"
    )


def _nothing() -> str:
    return f"no {_GRUB[0]}/grub.cfg and no {_ENTRIES[0]} is in its partitions"


def _bls(image: ImageReader, partition: str, config: GrubConfig) -> BootEntry | None:
    for folder in _ENTRIES:
        default = config.variables.get("saved_entry", config.default)
        name = default_name(image.names(partition, folder), default)
        if name is not None:
            text = image.read(partition, f"{folder}/{name}") or ""
            entry = bls_entry(text, config.variables)
            if entry is not None:
                return entry
    return None
