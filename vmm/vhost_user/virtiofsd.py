"""Directories that virtiofsd serves, by vhost-user-fs."""

import os
from struct import pack
from typing import Final

from ..errors import ConfigError
from ..share.config import TAG_MAX, ShareConfig
from .device import VhostUserDevice
from .program import Program, find_program

NAME: Final = "virtiofsd"
QEMU_S_OWN: Final = "/usr/lib/qemu/virtiofsd"
"""That of QEMU up to 7.2, in C; the others are in Rust."""
PLACES: Final = (
    NAME,
    "/usr/libexec/virtiofsd",
    os.path.expanduser("~/.cargo/bin/virtiofsd"),
    QEMU_S_OWN,
)
PACKAGES: Final = (
    "install virtiofsd (Debian 13), qemu-system-common (Debian 12), or by cargo"
)
VIRTIO_FS: Final = 26
# The first is for what can't wait. Linux reads and writes as much at once as one holds.
_QUEUE_SIZES: Final = (128, 1024)
_QUIET: Final = ("--log-level=error",)
_STARTS: Final = 2  # it is started again, once


class VhostUserFs(VhostUserDevice):
    """The directory that `config` names. Raises ConfigError.

    A virtiofsd that is started again knows nothing of the mount of before: all that
    the guest does there is an error, and it can be mounted anew.
    """

    resumes = True

    def __init__(self, config: ShareConfig) -> None:
        path = config.path
        _check(path)
        program = find_program(PLACES, f"shares: {path!r}", PACKAGES)
        options = _options(program, config)
        tag = config.mount_tag.encode().ljust(TAG_MAX, b"\0")
        self._program = Program(
            NAME, lambda fd: [program, f"--fd={fd}", *options], _STARTS
        )
        super().__init__(
            VIRTIO_FS,
            self._program,
            queue_sizes=_QUEUE_SIZES,
            config=tag + pack("<I", len(_QUEUE_SIZES) - 1),
            name=f"share {path!r}",
        )

    @property
    def pid(self) -> int:
        """The program's, while it runs."""
        return self._program.pid


def _check(path: str) -> None:
    """What the program would say less clearly. Raises ConfigError."""
    try:
        os.scandir(path).close()
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"shares: {path!r}: {what}") from None


def _options(program: str, config: ShareConfig) -> list[str]:
    """In a sandbox of namespaces, which is either's default, and seccomp's."""
    path = os.path.realpath(config.path)
    if os.path.realpath(program) != os.path.realpath(QEMU_S_OWN):
        read_only = ["--readonly"] if config.ro else []
        return [f"--shared-dir={path}", "--sandbox=namespace", *read_only, *_QUIET]
    if config.ro:
        raise ConfigError(
            f"shares: {config.path!r}: {program} can't share a directory read-only: "
            "install virtiofsd (Debian 13), or by cargo"
        )
    if os.geteuid():
        raise ConfigError(
            f"shares: {config.path!r}: {program} is for root alone: install virtiofsd "
            "(Debian 13), or by cargo"
        )
    escaped = path.replace("\\", "\\\\").replace(",", "\\,")
    options = f"source={escaped}", "sandbox=namespace", "log_level=err"
    return [word for option in options for word in ("-o", option)]
