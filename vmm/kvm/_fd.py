"""What the three KVM objects have in common: a descriptor that is closed once."""

import os
from _weakref import ref  # weakref imports a lot more
from types import TracebackType
from typing import Final, Self

_open: "Final[dict[int, ref[KvmFd]]]" = {}


class KvmFd:
    """Owns one KVM descriptor. `close()` is idempotent.

    A forked child closes its copies: a VM lives as long as anybody has one, and its
    ioctls are for the process that made it (API 2).
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        key = id(self)
        _open[key] = ref(self, lambda _: _open.pop(key, None))

    def close(self) -> None:
        """Close the descriptor; further ioctls fail with EBADF."""
        fd, self.fd = self.fd, -1
        _open.pop(id(self), None)
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


def _close_copies() -> None:
    for weak in list(_open.values()):
        if (owner := weak()) is not None:
            owner.close()


os.register_at_fork(after_in_child=_close_copies)
