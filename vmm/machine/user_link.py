"""UserLink: the host's network, as passt gives it to a guest, without root.

It has a process of its own, which ends with the machine: it leaves when its socket is
closed, whatever becomes of us. Nothing of the host's loopback is the guest's, and only
the host's loopback reaches the guest, by the ports that are forwarded.
"""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError, VmmError
from ..net.stream import StreamLink
from ..vhost_user.program import Process, find_program

if TYPE_CHECKING:
    from ..devices.clock import Clock
    from ..event_loop import EventLoop

LOOPBACK: Final = "127.0.0.1"


class UserLink(StreamLink):
    """A NetLink to a passt of its own. `warn` is told when that has ended too early.

    `forward` are pairs of ports: a connection to the first of the host's is one to the
    second of the guest's. Raises ConfigError, which says what is missing or taken.
    """

    def __init__(
        self,
        loop: "EventLoop",
        clock: "Clock",
        forward: Sequence[tuple[int, int]],
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(loop, clock, self._on_end)
        self._warn = warn
        path = find_program(["passt"], "user", "install passt, of the same package")
        for port, _ in forward:
            _check_free(port)
        ports = [f"{LOOPBACK}/{host}:{guest}" for host, guest in forward] or ["none"]
        ours, its = socket.socketpair()
        with its:
            arguments = [path, "-f", "-q", "--no-map-gw", "-u", "none"]
            for port_spec in ports:
                arguments += ["-t", port_spec]
            arguments += ["-F", str(its.fileno())]
            try:
                self._process = Process("passt", arguments, [its.fileno()])
            except VmmError as error:
                ours.close()
                raise ConfigError(f"user: {error}") from None
        self.connect(ours)

    def _on_end(self) -> None:
        self._loop.call_soon(
            lambda: self._warn(f"nets: {self._process.last_words()}: its link is down")
        )

    def close(self) -> None:
        super().close()
        self._process.end()


def _check_free(port: int) -> None:
    """Raises ConfigError, which is more than passt would say in time."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            problem = os.strerror(error.errno or errno.EIO)
            raise ConfigError(f"forward: port {port}: {problem}") from None
