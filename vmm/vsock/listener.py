"""VsockListener: where a program of the host's accepts a guest's connections."""

import errno
import os
import socket
from typing import Final

_PORT_SIZE: Final = 16  # bytes of the text that tells of a connection


class VsockListener(socket.socket):
    """A socket whose `accept` gives the guest's connections to `port`.

    It can be waited for by `selectors`, and has a timeout, as others. Those that nobody
    has accepted wait in it. It has no name, so that nobody else comes in by it.
    """

    def __init__(self, own: socket.socket, cid: int, port: int) -> None:
        super().__init__(fileno=own.detach())
        self.settimeout(socket.getdefaulttimeout())
        self._cid = cid
        self.port: Final = port

    def accept(self) -> tuple[socket.socket, tuple[int, int]]:
        """The next connection, and its guest's address: CID and port.

        Raises OSError when the machine is closed, TimeoutError after the timeout.
        """
        text, fds, _, _ = socket.recv_fds(self, _PORT_SIZE, 1)
        if not text:
            raise OSError("the machine is closed: it has no more connections")
        if not fds:  # there is no descriptor left for it
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        peer = socket.socket(fileno=fds[0])
        peer.settimeout(socket.getdefaulttimeout())
        return peer, (self._cid, int(text))


def offer(channel: socket.socket, peer: socket.socket, guest_port: int) -> bool:
    """Have `peer` accepted at the other end of `channel`, a VsockListener.

    False if nobody accepts there any more, or too many wait.
    """
    try:
        socket.send_fds(channel, [str(guest_port).encode()], [peer.fileno()])
    except OSError:
        return False
    return True
