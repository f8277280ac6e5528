"""A program on a terminal of its own, and what a person would type there."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from support.guests import DEADLINE


class Terminal:
    """Our end of a pseudo-terminal, and the process on the other."""

    def __init__(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        self.fd = fd
        self.process = process
        self._shown = b""  # and not yet asked for

    def type(self, data: bytes) -> None:
        """Type `data`."""
        while data:
            data = data[os.write(self.fd, data) :]

    def read_until(self, text: bytes) -> bytes:
        """All that is shown up to the next `text`; fails after the deadline."""
        end = time.monotonic() + DEADLINE
        while text not in self._shown:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                pytest.fail(f"no {text!r} within {DEADLINE} s after {self._shown!r}")
            self._shown += os.read(self.fd, 4096)
        at = self._shown.index(text) + len(text)
        shown, self._shown = self._shown[:at], self._shown[at:]
        return shown

    def hang_up(self) -> None:
        """Close it, as when its window is closed."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, self.fd)
        os.close(null)

    def resize(self, rows: int, columns: int) -> None:
        """Make the window larger or smaller; the program is sent SIGWINCH."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, size)

    def is_raw(self) -> bool:
        """Whether keys reach the program one by one."""
        lflag: int = termios.tcgetattr(self.fd)[3]
        return not lflag & termios.ICANON

    def is_stopped(self) -> bool:
        """Whether a signal has stopped the program: it takes no other but SIGCONT."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"


@contextmanager
def on_terminal(command: Sequence[str]) -> Iterator[Terminal]:
    """Run `command` in a session with a new terminal as its standard streams."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    )
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
