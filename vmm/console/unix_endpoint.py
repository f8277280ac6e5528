"""UnixEndpoint: ttyS0 on a unix socket that we listen on."""

import os
import select
import socket
from typing import Final

from ..event_loop import READ, EventLoop
from .endpoint import Host, Input, Output, send_nonblocking
from .socket_file import PRIVATE, ListeningSocket

RETRY_NS: Final = 100_000_000  # where there is no descriptor left for a client


class UnixEndpoint:
    """Serves one client at a time; a second one is hung up on.

    While nobody is connected, the last `backlog` bytes are kept for the next
    client and what is older is thrown away: the guest must not wait for a
    client that may never come. `mode` says who may connect. Raises ConfigError,
    naming `field`, if it can't listen.
    """

    may_be_early = True

    def __init__(
        self,
        loop: EventLoop,
        host: Host,
        path: str,
        backlog: int = 1 << 19,
        field: str = "serial",
        mode: int = PRIVATE,
    ) -> None:
        self._loop = loop
        self._host = host
        self._backlog = backlog
        self._kept = bytearray()
        self._client: socket.socket | None = None
        self._input: Input | None = None
        self._output: Output | None = None
        self._listener = ListeningSocket(path, mode, field)
        self._listen()

    def _listen(self) -> None:
        self._loop.watch(self._listener.socket.fileno(), READ, self._on_connect)

    def _wait_for_descriptors(self) -> None:
        """A client waits whom we can't serve: don't be told of it without pause."""
        self._loop.unwatch(self._listener.socket.fileno())
        self._loop.call_at(self._loop.now_ns() + RETRY_NS, self._listen)

    def write(self, data: bytes) -> int:
        taken = 0
        if self._output is not None and not self._kept:
            taken = self._send(data)
        if self._output is not None:
            return taken
        self._kept += data  # for the next client
        del self._kept[: -self._backlog]
        return len(data)

    def resume_input(self) -> None:
        if self._input is not None:
            self._input.resume()

    def close(self) -> None:
        self._hang_up()
        self._listener.close()

    def _on_connect(self) -> None:
        try:
            client, _ = self._listener.socket.accept()
        except (BlockingIOError, ConnectionError):  # it went away before we came
            return
        except OSError:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
            self._wait_for_descriptors()
            return
        if self._client is not None and not _is_hung_up(self._client):
            client.close()
            return
        try:  # a descriptor of its own, so that both directions are watched apart
            own = os.dup(client.fileno())
        except OSError:
            client.close()
            self._wait_for_descriptors()
            return
        self._hang_up()
        self._client = client
        self._input = Input(self._loop, client.fileno(), self._host, self._on_gone)
        self._output = Output(self._loop, own, send_nonblocking, self._on_room)
        self._on_room()

    def _on_gone(self) -> None:
        self._hang_up()
        self._host.endpoint_ready()  # what it didn't take is kept for the next

    def _hang_up(self) -> None:
        self._close_output()
        if self._client is not None:
            self._loop.unwatch(self._client.fileno())
            self._client.close()
        self._client = self._input = None

    def _close_output(self) -> None:
        if self._output is not None:
            self._output.unwatch()
            self._output.close()
        self._output = None

    def _on_room(self) -> None:
        while self._kept and self._output is not None:
            taken = self._send(bytes(self._kept))
            del self._kept[:taken]
            if taken == 0 and self._output is not None:
                return
        self._host.endpoint_ready()

    def _send(self, data: bytes) -> int:
        """How much the client takes; it may turn out that it takes no more."""
        assert self._output is not None
        try:
            return self._output.write(data)
        except OSError:  # it is gone, but what it typed last may be unread yet
            self._close_output()
            return 0


def _is_hung_up(peer: socket.socket) -> bool:
    """Whether both directions are closed, though input may be left to read."""
    poller = select.poll()
    poller.register(peer, 0)  # hang-up and error are reported regardless
    return bool(poller.poll(0))
