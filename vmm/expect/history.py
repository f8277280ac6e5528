"""History: the latest bytes of a stream: few are in memory, many in a file."""

import os
from typing import Final

from ..errors import VmmError

IN_MEMORY: Final = 256 << 10  # bytes, up to which no file is made


class History:
    """Keeps the last `limit` bytes; places in it are counted from the first byte.

    What doesn't fit into memory goes to a temporary file without a name, in
    $TMPDIR, that is written round and round. Not thread-safe.
    """

    def __init__(self, limit: int, in_memory: int = IN_MEMORY) -> None:
        self.limit = limit
        self.end = 0
        """Bytes appended so far."""
        self._in_memory = min(in_memory, limit)
        self._memory = bytearray()
        self._fd = -1
        self._closed = False

    @property
    def start(self) -> int:
        """The place of the oldest byte that is kept."""
        return max(0, self.end - self.limit)

    def append(self, data: bytes) -> None:
        """Add at most `limit` bytes. Raises OSError if the file can't take them."""
        if self._fd < 0 and self.end + len(data) <= self._in_memory:
            self._memory += data
        else:
            if self._fd < 0:
                self._move_to_file()
            self._write(data, self.end)
        self.end += len(data)

    def read(self, start: int, count: int) -> bytes:
        """Up to `count` bytes from the place `start`.

        Raises VmmError if they were overwritten, or the file is closed already.
        """
        if start < self.start:
            raise VmmError("the console's output was overwritten: its reader is closed")
        count = min(count, self.end - start)
        if self._fd < 0 and not self._closed:
            return bytes(self._memory[start : start + count])
        data = b""
        while len(data) < count:
            at = (start + len(data)) % self.limit
            data += self._pread(min(count - len(data), self.limit - at), at)
        return data

    def close(self) -> None:
        """Let go of the file, if there is one, and of what is in it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._closed = True

    def _move_to_file(self) -> None:
        import tempfile  # most runs stay in memory

        with tempfile.TemporaryFile(buffering=0) as file:
            self._fd = os.dup(file.fileno())
        self._write(bytes(self._memory), 0)
        self._memory.clear()

    def _write(self, data: bytes, start: int) -> None:
        view = memoryview(data)
        while view:
            at = start % self.limit
            taken = os.pwrite(self._fd, view[: self.limit - at], at)
            start += taken
            view = view[taken:]

    def _pread(self, count: int, at: int) -> bytes:
        if self._closed:
            raise VmmError("the machine is closed, and its console's output is gone")
        data = os.pread(self._fd, count, at)
        if not data:
            raise VmmError("the file with the console's output was cut short")
        return data
