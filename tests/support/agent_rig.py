"""The real vmm-agent as a process of the host's, on a pty in place of ttyS1."""

import os
import queue
import select
import subprocess
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmm.agent.guest import Guest
from vmm.agent.session import Session


class PtyWire:
    """Carries the session's bytes to an agent, and back."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.line = os.ttyname(slave)
        self._slave = slave
        self.session = Session(self)
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._write),
            threading.Thread(target=self._read),
        ]
        self._stop, self._stopper = os.pipe()
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        return 0

    def send(self, data: bytes) -> None:
        self._queue.put(data)

    def clear(self) -> None:
        """What has been sent is on its way."""

    def _write(self) -> None:
        while (data := self._queue.get()) is not None:
            while data:
                data = data[os.write(self.master, data) :]

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self.master, self._stop], [], [])
            if self._stop in ready:
                return
            data = os.read(self.master, 4096)
            self.session.receive(lambda data=data: data)  # type: ignore[misc]

    def close(self) -> None:
        self._queue.put(None)
        os.write(self._stopper, b"x")
        for thread in self._threads:
            thread.join()
        for fd in (self.master, self._slave, self._stop, self._stopper):
            os.close(fd)


@contextmanager
def agent_process(program: Path, heard: bytes = b"") -> Iterator[tuple[Guest, PtyWire]]:
    """A Guest whose commands run here; `heard` came on the line before its agent."""
    wire = PtyWire()
    wire.session.receive(lambda: heard)
    env = {"VMM_AGENT_LINE": wire.line, "PATH": os.environ["PATH"]}
    process = subprocess.Popen([program], env=env, start_new_session=True)
    guest = Guest(wire.session)
    guest.is_started = True
    try:
        yield guest, wire
    finally:
        process.terminate()
        process.wait()
        wire.close()
