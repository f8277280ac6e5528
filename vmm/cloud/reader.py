"""ImageReader: files in a disk's image, read by grub-fstest.

That is GRUB's own code for partition tables and file systems as a program: what GRUB
can boot it can read, whichever of them it is, and neither mounts nor wants root.
"""

import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from io import BytesIO
from threading import Timer
from typing import IO, Final, Self

from ..boot.image import ImageFile, added_offset
from ..boot.layout import MIB
from ..disk.config import DiskConfig
from ..disk.disk_file import DiskFile
from ..errors import ConfigError
from ..vhost_user.program import find_program
from .raw_copy import has_overlay, raw_copy

_PROGRAMS: Final = ("grub-fstest", "grub2-fstest")
_PACKAGES: Final = "install grub-common (Debian) or grub2-tools-extra (Fedora)"
_TIMEOUT_S: Final = 120  # an image may be damaged so that reading it has no end
_SMALL: Final = MIB  # a configuration
_CHUNK: Final = MIB


class ImageReader:
    """Files of the disk `config` by their paths in it. Raises ConfigError.

    Nobody can write to the image while it is open.
    """

    def __init__(self, config: DiskConfig) -> None:
        self._what_for = f"boot_from_disk: {config.path!r}"
        self._path = config.path
        self._program = find_program(_PROGRAMS, self._what_for, _PACKAGES)
        with ExitStack() as stack:
            stack.callback(_opened(config).close)
            self._raw = os.path.abspath(config.path)
            if config.is_served or has_overlay(config):
                self._raw = stack.enter_context(raw_copy(config, self._what_for))
            self._cleanup = stack.pop_all()

    def read(self, partition: str, path: str) -> str | None:
        """The text of a small file; None if there is none, or nothing in it."""
        text = BytesIO()
        is_whole = self._copy("cat", partition + path, text, _SMALL)
        return text.getvalue().decode(errors="replace") or None if is_whole else None

    def names(self, partition: str, path: str) -> list[str]:
        """Of the files in a directory; none if there is no such directory."""
        text = BytesIO()
        self._copy("ls", f"{partition}{path}/", text, _SMALL)
        return text.getvalue().decode(errors="replace").split()

    def open(
        self, role: str, partition: str, paths: Sequence[str], size_max: int
    ) -> ImageFile:
        """These files, in memory, one behind the other as initrds are."""
        fd = os.memfd_create(role, os.MFD_CLOEXEC)
        with ExitStack() as upon_error, open(fd, "wb", closefd=False) as file:
            upon_error.callback(os.close, fd)
            for path in paths:
                begin = file.seek(added_offset(file.tell()))
                where = partition + path
                is_whole = self._copy("cat", where, file, size_max - begin)
                if not is_whole or file.tell() == begin:
                    raise ConfigError(
                        f"{self._what_for}: its {role} {path!r} isn't there, or is "
                        "empty or damaged"
                    )
            upon_error.pop_all()
        return ImageFile(role, f"{self._path}:{paths[0]}", fd)

    def _copy(self, command: str, path: str, to: IO[bytes], size_max: int) -> bool:
        """What the program prints; False if it fails.

        More than `size_max`, or no end, is refused.
        """
        with subprocess.Popen(
            [self._program, self._raw, command, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C"},
        ) as process:
            assert process.stdout is not None
            timer = Timer(_TIMEOUT_S, process.kill)
            timer.start()
            try:
                left = size_max
                while left >= 0 and (chunk := process.stdout.read(_CHUNK)):
                    left -= len(chunk)
                    to.write(chunk)
                if left < 0:
                    process.kill()
                status = process.wait()
                is_late = not timer.is_alive()
            except BaseException:
                process.kill()
                raise
            finally:
                timer.cancel()
        if left < 0:
            raise ConfigError(
                f"{self._what_for}: {path!r} has more than {size_max} bytes"
            )
        if is_late:
            raise ConfigError(
                f"{self._what_for}: {path!r} can't be read within {_TIMEOUT_S} s: is "
                "the image damaged?"
            )
        return status == 0

    def close(self) -> None:
        """Idempotent."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(config: DiskConfig) -> DiskFile:
    try:
        return DiskFile.open(config.path, writes=False)
    except OSError as error:
        raise ConfigError(f"disks: {config.path!r}: {error.strerror}") from None
