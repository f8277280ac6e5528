"""What the three KVM objects have in common: a descriptor that is closed once."""

import os
from types import TracebackType
from typing import Self


class KvmFd:
    """Owns one KVM descriptor. `close()` is idempotent."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close the descriptor; further ioctls fail with EBADF."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
