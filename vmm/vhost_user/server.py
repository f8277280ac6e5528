"""Server: a device for one front end after another, until it is told to end."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from .. import threads
from ..errors import VmmError
from ..event_loop import READ, EventLoop
from .backend import Backend
from .protocol import Channel

if TYPE_CHECKING:
    from ..devices.virtio.device import VirtioDevice


class Server:
    """Serves `device` on a thread of its own, between `start` and `close`.

    `sock` is a Unix stream socket that listens, or one that is connected to the only
    front end that there will be; it is closed with the rest. `tell` is given a line for
    the user when a front end breaks the rules, or its driver those of the device.
    """

    def __init__(
        self,
        device: "VirtioDevice",
        sock: socket.socket,
        tell: Callable[[str], None],
    ) -> None:
        self._device = device
        self._socket = sock
        self._tell = tell
        self._backend: Backend | None = None
        self._changed = threading.Condition()
        self._is_over = False
        self._error: Exception | None = None
        self._loop = EventLoop(self._on_error)
        device.on_trouble = lambda why: tell(f"{device.name}: {why}")

    def start(self) -> None:
        """Raises VmmError if the host gives no thread."""
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._socket.setblocking(False)
            self._listen()
        else:
            self._serve(self._socket.dup(), self._leave)
        self._loop.start()

    def wait(self) -> None:
        """Until `leave`, or the end of the only front end.

        Raises what the device has raised, as the VmmError that names it.
        """
        with self._changed:
            threads.wait_for(self._changed, lambda: self._is_over)
        if self._error is not None:
            what = f"{type(self._error).__name__}: {self._error}"
            raise VmmError(f"{self._device.name}: {what}") from self._error

    def leave(self) -> None:
        """Have `wait` return; from any thread, or a signal's handler."""
        self._is_over = True

    def close(self) -> None:
        """Reset the device, and end all. Idempotent."""
        self._loop.stop()
        if self._backend is not None:
            self._backend.close()
        self._socket.close()
        self._loop.close()

    def _leave(self, why: str) -> None:
        self._report(why)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _on_error(self, error: Exception) -> None:
        self._error = error
        self._leave("")

    def _report(self, why: str) -> None:
        if why:
            self._tell(f"the front end breaks the rules of vhost-user: {why}")

    def _listen(self) -> None:
        self._loop.watch(self._socket.fileno(), READ, self._accept)

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):  # it has gone again
            sock, _ = self._socket.accept()
            self._loop.unwatch(self._socket.fileno())  # the others wait for their turn
            self._serve(sock, self._on_end)

    def _serve(self, sock: socket.socket, on_end: Callable[[str], None]) -> None:
        self._backend = Backend(self._device, Channel(sock), self._loop, on_end)

    def _on_end(self, why: str) -> None:
        self._report(why)
        self._backend = None
        self._listen()
