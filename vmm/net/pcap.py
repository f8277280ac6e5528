"""Pcap: a file of frames that tcpdump and Wireshark read.

Source: draft-ietf-opsawg-pcap; nanoseconds since 1970, LINKTYPE_ETHERNET.
"""

import os
import time
from struct import Struct
from typing import Final

from ..errors import ConfigError
from ..field_types import StrPath

MAGIC_NS: Final = 0xA1B23C4D
LINKTYPE_ETHERNET: Final = 1
SNAP_LENGTH: Final = 1 << 18
_FILE: Final = Struct("<IHHiIII")  # magic, version, time zone, accuracy, length, type
_FRAME: Final = Struct("<IIII")  # seconds, nanoseconds, bytes here, bytes of it


class Pcap:
    """Writes each frame at once, so that others may read along. For one thread at once.

    Where the disk is full, or gone, it ends there: `trouble` says why.
    """

    def __init__(self, path: StrPath) -> None:
        """Makes the file anew, for its user alone. Raises ConfigError."""
        self.trouble = ""
        self._fd = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            name = os.fspath(path)
            raise ConfigError(f"pcap: {name!r}: {error.strerror}") from None
        self._write(_FILE.pack(MAGIC_NS, 2, 4, 0, 0, SNAP_LENGTH, LINKTYPE_ETHERNET))

    def add(self, frame: bytes) -> None:
        """One more, which passes now."""
        seconds, ns = divmod(time.time_ns(), 1_000_000_000)
        self._write(_FRAME.pack(seconds, ns, len(frame), len(frame)) + frame)

    def _write(self, data: bytes) -> None:
        if self._fd < 0:
            return
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self.trouble = error.strerror or str(error)
            self.close()

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
