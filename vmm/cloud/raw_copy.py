"""An image as a raw one, for a while: of another format, or with its overlay.

qemu-img makes it. Not FUSE, as which qemu-storage-daemon would show the image without
a copy: /dev/fuse isn't there for everybody, and in few containers.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from ..boot.layout import MIB
from ..disk.config import DiskConfig
from ..disk.opening import open_backend
from ..errors import ConfigError
from ..vhost_user.program import find_program
from ..vhost_user.qcow2 import check_overlay, check_qcow2

_FOLDER: Final = "/var/tmp"  # rather than in RAM, as /tmp often is
_PACKAGES: Final = "install qemu-utils (Debian) or qemu-img (Fedora)"


def has_overlay(config: DiskConfig) -> bool:
    """Whether a guest has written to one that is there again now."""
    return isinstance(config.cow, str) and os.path.exists(config.cow)


@contextmanager
def raw_copy(config: DiskConfig, what_for: str) -> Iterator[str]:
    """Its path, in $TMPDIR or /var/tmp; only what is used takes room there.

    Raises ConfigError.
    """
    folder = os.environ.get("TMPDIR", _FOLDER)
    try:
        copy = tempfile.NamedTemporaryFile(prefix="vmm-", dir=folder)  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{what_for}: {folder!r}: {error.strerror}") from None
    with copy:
        if config.is_served:
            _convert(config, what_for, copy.name)
        else:
            _flatten(config, what_for, copy.fileno())
        yield copy.name


def _flatten(config: DiskConfig, what_for: str, fd: int) -> None:
    """A raw image with its overlay. Raises ConfigError."""
    with closing(open_backend(config, lambda _: None)) as disk:
        buffer, zeros = memoryview(bytearray(MIB)), bytes(MIB)
        try:
            os.truncate(fd, disk.size)
            for at in range(0, disk.size, MIB):
                part = buffer[: disk.size - at]
                disk.read([part], at)
                if bytes(part) != zeros[: len(part)]:  # by memcmp
                    os.pwrite(fd, part, at)
        except OSError as error:
            raise ConfigError(f"{what_for}: {error.strerror}") from None


def _convert(config: DiskConfig, what_for: str, target: str) -> None:
    """Raises ConfigError."""
    program = find_program(["qemu-img"], what_for, _PACKAGES)
    if config.image_format == "qcow2":
        check_qcow2(config.path)
    image = _image(config.image_format, config.path)
    if has_overlay(config):
        assert isinstance(config.cow, str)
        check_overlay(config.cow)
        image = _image("qcow2", config.cow) | {"backing": image}
    done = subprocess.run(
        [program, "convert", "-O", "raw", f"json:{json.dumps(image)}", target],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["qemu-img: it failed"]
        _, _, error = words[0].rpartition("}': ")  # behind what it was given
        raise ConfigError(f"{what_for}: {error}")


def _image(image_format: str, path: str) -> dict[str, Any]:
    return {
        "driver": image_format,
        "file": {"driver": "file", "filename": os.path.abspath(path)},
    }
