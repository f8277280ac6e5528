"""An image of another format as a raw one, for a while, made by qemu-img.

Not by FUSE, as which qemu-storage-daemon would show it without a copy: /dev/fuse isn't
there for everybody, and in few containers.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..disk.config import DiskConfig
from ..errors import ConfigError
from ..vhost_user.program import find_program
from ..vhost_user.qcow2 import check_qcow2

_FOLDER: Final = "/var/tmp"  # rather than in RAM, as /tmp often is
_PACKAGES: Final = "install qemu-utils (Debian) or qemu-img (Fedora)"


@contextmanager
def raw_copy(config: DiskConfig, what_for: str) -> Iterator[str]:
    """Its path, in $TMPDIR or /var/tmp; only what is used takes room there.

    Raises ConfigError.
    """
    program = find_program(["qemu-img"], what_for, _PACKAGES)
    if config.image_format == "qcow2":
        check_qcow2(config.path)
    try:
        folder = os.environ.get("TMPDIR", _FOLDER)
        copy = tempfile.NamedTemporaryFile(prefix="vmm-", dir=folder)  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{what_for}: {folder!r}: {error.strerror}") from None
    with copy:
        done = subprocess.run(
            [
                *(program, "convert", "-f", config.image_format, "-O", "raw"),
                *(os.path.abspath(config.path), copy.name),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            words = done.stderr.strip().splitlines() or ["qemu-img: it failed"]
            raise ConfigError(f"{what_for}: {words[0]}")
        yield copy.name
