"""A host and a loop for an endpoint, and what it may be connected to."""

import fcntl
import os
import queue
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from vmm.console.endpoint import FdEndpoint
from vmm.console.unix_endpoint import UnixEndpoint
from vmm.event_loop import EventLoop

DEADLINE = 10.0
PIPE_SIZE = 4096

OnLoop = Callable[[Callable[[], object]], None]


class FakeHost:
    """A console that notes what its endpoint tells it."""

    def __init__(self) -> None:
        self.takes_input = True
        self.input: queue.Queue[bytes] = queue.Queue()
        self.ready: queue.Queue[None] = queue.Queue()

    def endpoint_ready(self) -> None:
        self.ready.put(None)

    def endpoint_input(self, data: bytes) -> bool:
        self.input.put(data)
        return self.takes_input


class Rig:
    """A host, a loop, and a place for what has to be closed."""

    def __init__(self, loop: EventLoop, on_loop: OnLoop) -> None:
        self.loop = loop
        self.host = FakeHost()
        self.stack = ExitStack()
        self._on_loop = on_loop

    def serve(self, out: int, in_: int | None = None) -> FdEndpoint:
        endpoint = FdEndpoint(self.loop, self.host, out, in_)
        self.stack.callback(endpoint.close)
        self.loop.start()
        return endpoint

    def listen(self, path: Path, backlog: int = 1 << 19) -> UnixEndpoint:
        endpoint = UnixEndpoint(self.loop, self.host, str(path), backlog)
        self.stack.callback(endpoint.close)
        self.loop.start()
        return endpoint

    def write(self, endpoint: FdEndpoint | UnixEndpoint, data: bytes) -> int:
        taken: list[int] = []
        self._on_loop(lambda: taken.append(endpoint.write(data)))
        return taken[0]

    def resume(self, endpoint: FdEndpoint | UnixEndpoint) -> None:
        self._on_loop(endpoint.resume_input)

    def pipe(self) -> tuple[int, int]:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.stack.callback(os.close, reader)
        self.stack.callback(os.close, writer)
        return reader, writer

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        theirs.settimeout(DEADLINE)
        self.stack.enter_context(ours)
        self.stack.enter_context(theirs)
        return ours, theirs

    def connect(self, path: Path) -> socket.socket:
        client = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(DEADLINE)
        client.connect(str(path))
        return client

    def terminal(self) -> tuple[int, int]:
        ours, theirs = os.openpty()
        self.stack.callback(os.close, ours)
        self.stack.callback(os.close, theirs)
        return ours, theirs

    def input(self) -> bytes:
        return self.host.input.get(timeout=DEADLINE)

    def await_room(self) -> None:
        self.host.ready.get(timeout=DEADLINE)
