"""VsockConfig: what a user may choose for the guest's sockets of AF_VSOCK."""

import os
import re
from typing import Final

from ..devices.virtio.vsock import CIDS
from ..errors import ConfigError
from ..field_types import Checked, StrPath, setting

PATH_MAX: Final = 107  # bytes that a unix socket's address has for it
LONGEST_SUFFIX: Final = "_4294967294"  # of a path for the guest's connections
_TEXT: Final = re.compile(r"(?P<path>.*?)(?:,cid=(?P<cid>[0-9]{1,10}))?", re.DOTALL)


def _path(field: str, path: StrPath) -> str:
    text = os.fspath(path)
    if not text:
        raise ConfigError(f"{field}: it is empty")
    most = PATH_MAX - len(LONGEST_SUFFIX)
    if len(os.fsencode(text)) > most:
        raise ConfigError(
            f"{field}: {text!r} is too long: with _PORT behind it a unix socket's path "
            f"has {PATH_MAX} bytes at most, so that it may have {most}"
        )
    return text


def _cid(field: str, cid: int) -> int:
    if cid not in CIDS:
        raise ConfigError(
            f"{field}: {cid} is no guest's: {CIDS.start}..{CIDS.stop - 1:#x}"
        )
    return cid


class VsockConfig(Checked):
    """A guest's vsock device. As text it is "PATH", "PATH,cid=N" or ",cid=N"."""

    path: str | None = setting(None, StrPath | None, _path)
    """Where programs of the host's meet the guest's: we listen at PATH, whose client
    says "CONNECT port\\n", and is told "OK port\\n" once it is through; a guest's
    connection to the host goes to whoever listens at PATH_port. For SOCK_SEQPACKET they
    connect to PATH_seqpacket, or listen with that type. None: only `machine.vsock`."""
    cid: int = setting(3, int, _cid)
    """The guest's address."""


def vsock(field: str, given: object) -> VsockConfig | None:
    """What a user has given for `field`. Raises ConfigError."""
    if isinstance(given, bool):
        return VsockConfig() if given else None
    if isinstance(given, VsockConfig):
        return given
    if isinstance(given, Checked):
        raise ConfigError(f"{field}: a {type(given).__name__} is no VsockConfig")
    text = os.fspath(given)  # type: ignore[call-overload]
    found = _TEXT.fullmatch(text)
    assert found is not None
    path = found["path"] or (None if text else "")
    try:
        return VsockConfig(path=path, cid=int(found["cid"] or 3))
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from None
