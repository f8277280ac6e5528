"""Opening the places where the console's bytes go."""

import os

from ..errors import ConfigError
from ..event_loop import EventLoop
from ..place import Place
from .endpoint import Endpoint, FdEndpoint, Host, NullEndpoint


def open_endpoint(
    loop: EventLoop, host: Host, where: Place, field: str, mode: int
) -> Endpoint:
    """Whatever a place is but "capture". Raises ConfigError, naming `field`.

    `mode` is that of a socket's file.
    """
    if where.kind == "null":
        return NullEndpoint()
    if where.kind == "unix":
        from .unix_endpoint import UnixEndpoint  # most runs have none

        return UnixEndpoint(loop, host, where.path, field=field, mode=mode)
    if where.kind == "file":
        fd = open_output_file(where.path, field)
        try:  # it is dup'ed there
            return FdEndpoint(loop, host, fd)
        finally:
            os.close(fd)
    return FdEndpoint(loop, host, 1, None if where.kind == "stdout" else 0)


def fills_a_disk(endpoint: Endpoint) -> bool:
    """Whether a guest that prints for ever would."""
    return isinstance(endpoint, FdEndpoint) and endpoint.is_file


def open_output_file(path: str, field: str = "serial") -> int:
    """Create or truncate the file of `file:P`. Raises ConfigError, naming `field`.

    Appending: what logrotate's copytruncate empties goes on at its start then, not
    behind a hole of its former size.
    """
    # Non-blocking, or a FIFO would hold us here until somebody reads it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
    flags |= os.O_APPEND
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise ConfigError(f"{field}: file {path!r}: {error.strerror}") from None
