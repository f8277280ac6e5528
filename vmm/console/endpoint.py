"""Endpoints: where the console's bytes go to and come from on the host.

All methods are called on the event loop's thread, but for construction and
`close`, which frame it.
"""

import os
import select
import stat
from collections.abc import Callable
from typing import Final, Protocol

from ..event_loop import READ, WRITE, EventLoop, NextTurn

READ_SIZE: Final = 4096
CHUNK: Final = 64 << 10  # of output that is written in one go
TURN: Final = 4 * CHUNK  # in one turn of the loop: others wait for theirs
# What a descriptor that poll calls writable takes without blocking: a pipe's
# POLLOUT promises PIPE_BUF bytes, a terminal's 256.
SAFE_WRITE: Final = 256
LOOK_NS: Final = 100_000_000  # between two looks whether a terminal is ours again


class Host(Protocol):
    """What an endpoint tells the console."""

    def endpoint_ready(self) -> None:
        """The endpoint would take output again."""

    def endpoint_input(self, data: bytes) -> bool:
        """Input came. False: wait for `resume_input` before reading more."""


class Endpoint(Protocol):
    """Takes the guest's output and, unless it is one-way, gives it input."""

    @property
    def may_be_early(self) -> bool:
        """Whether input may come before the guest can have asked for it."""

    def write(self, data: bytes) -> int:
        """Take bytes from the front; never blocks.

        Less than all means that `Host.endpoint_ready` follows. Raises OSError.
        """

    def resume_input(self) -> None:
        """Read input again, after `endpoint_input` returned False."""

    def close(self) -> None:
        """Release what the endpoint has opened. The loop has stopped."""


class NullEndpoint:
    """Takes everything and gives nothing."""

    may_be_early = False

    def write(self, data: bytes) -> int:
        return len(data)

    def resume_input(self) -> None:
        pass

    def close(self) -> None:
        pass


class Flow:
    """Bytes on their way to an endpoint, as fast as it takes them.

    Heirs say where they come from. `on_failure` is told when the endpoint can't be
    written any more, from when on all is discarded; `on_drained` whenever nothing is
    left to write.
    """

    def __init__(
        self,
        loop: EventLoop,
        endpoint: Endpoint,
        on_failure: Callable[[OSError], None],
        on_drained: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._on_failure = on_failure
        self._on_drained = on_drained
        self._go_on = NextTurn(loop, self.write)

    def peek(self) -> bytes:
        """The next `CHUNK` bytes, or what there is."""
        raise NotImplementedError

    def took(self, data: bytes, taken: int) -> None:
        """Of `data`, which `peek` gave, so many are written."""
        raise NotImplementedError

    def write(self) -> None:
        """Write what there is, as far as there is room.

        A guest may print faster than that: there is an end to each turn, and another.
        """
        left = TURN
        while data := self.peek():
            if left <= 0:
                self._go_on.ask()
                return
            try:
                taken = self._endpoint.write(data)
            except OSError as error:
                self._on_failure(error)
                self._endpoint = NullEndpoint()
                continue
            self.took(data, taken)
            left -= taken
            if taken < len(data):
                return
        self._on_drained()


class Input:
    """Reads one descriptor into the console, no faster than the guest takes it.

    Every kind of end counts as end of file, which `on_end` is told of. A terminal is
    read in its foreground only: a job in the background would be stopped for it, and
    what is typed is the shell's.
    """

    def __init__(
        self, loop: EventLoop, fd: int, host: Host, on_end: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._host = host
        self._on_end = on_end
        self._is_terminal = os.isatty(fd)
        self._waiting = False  # for the foreground
        self.resume()

    def resume(self) -> None:
        """Go on reading, unless the end was seen."""
        if self._fd >= 0 and not self._waiting:
            self._loop.watch(self._fd, READ, self._on_readable)

    def _await_foreground(self) -> None:
        self._waiting = True
        self._loop.unwatch(self._fd)
        self._loop.call_at(self._loop.now_ns() + LOOK_NS, self._look_again)

    def _look_again(self) -> None:
        self._waiting = False
        self.resume()

    def _on_readable(self) -> None:
        if self._is_terminal and not _in_foreground(self._fd):
            self._await_foreground()
            return
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:  # a terminal that was hung up, a peer that was reset
            data = b""
        if not data:
            self._loop.unwatch(self._fd)
            self._fd = -1
            self._on_end()
        elif not self._host.endpoint_input(data):
            self._loop.unwatch(self._fd)


class Output:
    """Writes to one descriptor, which it owns, and says when there is room again."""

    def __init__(
        self,
        loop: EventLoop,
        fd: int,
        write: Callable[[int, bytes], int],
        on_room: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._write = write
        self._on_room = on_room

    def write(self, data: bytes) -> int:
        """Write from the front; returns how much, and calls `on_room` if not all."""
        try:
            taken = self._write(self._fd, data)
        except BlockingIOError:
            taken = 0
        if taken < len(data):
            self._loop.watch(self._fd, WRITE, self._on_writable)
        return taken

    def _on_writable(self) -> None:
        self._loop.unwatch(self._fd)
        self._on_room()

    def unwatch(self) -> None:
        """Stop waiting for room; on the loop's thread."""
        self._loop.unwatch(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class FdEndpoint:
    """Standard streams, or a file. The descriptors stay their owner's."""

    def __init__(
        self,
        loop: EventLoop,
        host: Host,
        fd_out: int,
        fd_in: int | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_end` is called when there is no more input."""
        self.is_file = stat.S_ISREG(os.fstat(fd_out).st_mode)
        self._output = Output(loop, *_own_writer(fd_out), host.endpoint_ready)
        self._input: Input | None = None
        self.may_be_early = fd_in is not None and not os.isatty(fd_in)
        if fd_in is not None:
            self._input = Input(loop, fd_in, host, on_end)

    def write(self, data: bytes) -> int:
        return self._output.write(data)

    def resume_input(self) -> None:
        if self._input is not None:
            self._input.resume()

    def close(self) -> None:
        self._output.close()


def _own_writer(fd: int) -> tuple[int, Callable[[int, bytes], int]]:
    """A descriptor of our own for what `fd` is, and a write that never blocks.

    O_NONBLOCK belongs to the open file, which we share with the shell that
    started us and with whatever else it runs; so it isn't set on `fd`.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):  # shares the offset, as `>>` and `{ a; b; } > f` need
        return os.dup(fd), os.write
    if stat.S_ISSOCK(mode):
        return os.dup(fd), send_nonblocking
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(f"/proc/self/fd/{fd}", flags), os.write
    except OSError:  # somebody else's terminal, after su
        return os.dup(fd), _write_if_ready


def send_nonblocking(fd: int, data: bytes) -> int:
    """send(2) on a socket with MSG_DONTWAIT. Raises OSError."""
    import socket  # most runs have none

    peer = socket.socket(fileno=fd)
    try:
        return peer.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        peer.detach()


def _write_if_ready(fd: int, data: bytes) -> int:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return os.write(fd, data[:SAFE_WRITE]) if poller.poll(0) else 0


def _in_foreground(fd: int) -> bool:
    from .terminal import in_foreground  # most runs have none

    return in_foreground(fd)
