"""The agent inside the software machine: runs one command for the supervisor.

It talks over four virtio-serial ports. "control" carries one JSON object per
line both ways; the others carry the bytes of the command's standard streams
and nothing else. To us come, on "control":

    {"op": "start", "argv", "cwd", "env", "umask", "out", "tty", "size"}
    {"op": "signal", "number"}    {"op": "resize", "size"}
    {"op": "eof", "sent"}         stdin ends after that many bytes
    {"op": "closed", "stream"}    nobody reads that stream any more
    {"op": "tick"}                answered by {"op": "tock"} once a command runs

and from us go {"op": "ready"}, {"op": "started"} and, last,
{"op": "exit", "status", "stdout", "stderr", "errors"} with the bytes sent per
stream and what failed in sending them.

A file of its own, standard library only: it runs with `python -I -S`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any, Final

CHUNK: Final = 1 << 15  # virtio_console sends at most 32 KiB at once
CANNOT_RUN: Final = 125  # the statuses of env(1), timeout(1) and their kin
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
DEVICE_WAIT_S: Final = 60.0
PORTS: Final = ("control", "stdin", "stdout", "stderr")

Message = dict[str, Any]


class Failure(Exception):
    """The command cannot be started; args are the status and the reason."""


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; blocks as long as the other side does not read."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Pump(threading.Thread):
    """Copies one descriptor to another until end of file, counting bytes."""

    def __init__(self, source: int, sink: int) -> None:
        super().__init__(daemon=True)
        self.source, self.sink = source, sink
        self.copied = 0
        self.sink_closed = False
        self.error: OSError | None = None

    def run(self) -> None:
        """Copy, then close the source, so that its writer sees SIGPIPE.

        EIO ends a pty's output and EPIPE a command's input; any other error
        is kept for the report of the command's end.
        """
        try:
            while (data := os.read(self.source, CHUNK)) and not self.sink_closed:
                write_all(self.sink, data)
                self.advance(len(data))
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                self.error = error
        os.close(self.source)

    def advance(self, count: int) -> None:
        """Count bytes copied."""
        self.copied += count


class InputPump(Pump):
    """Copies the input port to the command until the end that end_at() tells.

    The port itself cannot tell it: QEMU drops what it has not yet passed on
    when its side of a port closes.
    """

    def __init__(self, source: int, sink: int) -> None:
        super().__init__(source, sink)
        self._lock = threading.Lock()
        self._total: int | None = None

    def advance(self, count: int) -> None:
        """Count bytes copied; close the sink after the last."""
        with self._lock:
            self.copied += count
            self._close_at_end()

    def end_at(self, total: int) -> None:
        """Take the input's length; close the sink if that much is copied."""
        with self._lock:
            self._total = total
            self._close_at_end()

    def _close_at_end(self) -> None:
        if self.copied == self._total:
            os.close(self.sink)


class Streams:
    """The command's standard streams and the pumps that serve them."""

    def __init__(self, tty: list[bool], size: list[int], ports: list[int]) -> None:
        """Make a pty for the streams that are terminals, pipes for the rest."""
        self.master: int | None = None
        self.child: list[int] = []
        self.pumps: dict[str, Pump] = {}
        if any(tty):
            self.master, slave = os.openpty()
            self.resize(size)
        names = ("stdin", "stdout", "stderr")
        for number, (name, port) in enumerate(zip(names, ports, strict=True)):
            if tty[number]:
                self.child.append(os.dup(slave))
                self._serve_terminal(name, port)
            else:
                self._serve_pipe(name, port)
        if any(tty):
            os.close(slave)

    def _serve_terminal(self, name: str, port: int) -> None:
        assert self.master is not None
        if name == "stdin":
            self.pumps[name] = InputPump(port, os.dup(self.master))
        elif "stdout" not in self.pumps:  # one reader serves both outputs
            self.pumps[name] = Pump(os.dup(self.master), port)

    def _serve_pipe(self, name: str, port: int) -> None:
        reader, writer = os.pipe()
        if name == "stdin":
            self.child.append(reader)
            self.pumps[name] = InputPump(port, writer)
        else:
            self.child.append(writer)
            self.pumps[name] = Pump(reader, port)

    def resize(self, size: list[int]) -> None:
        """Set the terminal's rows and columns; the kernel sends SIGWINCH."""
        if self.master is not None:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))

    def started(self) -> None:
        """Drop the command's ends, which it has by now, and start copying."""
        for fd in self.child:
            os.close(fd)
        for pump in self.pumps.values():
            pump.start()

    def sent(self, name: str) -> int:
        """Wait until all output of `name` is sent; return its byte count."""
        if name not in self.pumps:
            return 0
        self.pumps[name].join()
        return self.pumps[name].copied


def take_terminal() -> None:
    """In the child: make the terminal on a standard stream the controlling one."""
    for fd in (0, 1, 2):
        if os.isatty(fd):
            fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
            return


def spawn(message: Message, streams: Streams) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own; raises Failure."""
    argv, cwd = message["argv"], message["cwd"]
    try:
        os.chdir(cwd)
    except OSError as error:
        raise Failure(CANNOT_RUN, f"{cwd}: {error.strerror} in there") from error
    os.environ.clear()
    os.environ.update(message["env"])  # Popen looks argv[0] up in this PATH
    stdin, stdout, stderr = streams.child
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            umask=message["umask"],
            start_new_session=True,
            preexec_fn=take_terminal if any(message["tty"]) else None,
        )
    except FileNotFoundError as error:
        raise Failure(NOT_FOUND, f"{argv[0]}: command not found") from error
    except OSError as error:
        raise Failure(NOT_EXECUTABLE, f"{argv[0]}: {error.strerror}") from error


def wait(child: subprocess.Popen[bytes]) -> int:
    """Reap until `child` ends; return its status, 128 + n for signal n."""
    code = child.wait()
    return 128 - code if code < 0 else code


class Agent:
    """One command's life: start it, serve its streams, tell its end."""

    def __init__(self, ports: list[int], *, alone: bool) -> None:
        """Take control, stdin, stdout and stderr; `alone`: the machine is ours."""
        self.control, *self.ports = ports
        self.alone = alone
        self.lines = os.fdopen(self.control, "rb", closefd=False)
        self.sending = threading.Lock()
        self.child: subprocess.Popen[bytes] | None = None
        self.streams: Streams | None = None

    def send(self, **message: object) -> None:
        """Send one message to the supervisor; from any thread."""
        with self.sending:
            write_all(self.control, json.dumps(message).encode() + b"\n")

    def run(self) -> None:
        """Serve one command from "ready" to "exit"."""
        self.send(op="ready")
        messages = map(json.loads, self.lines)
        start = next(message for message in messages if message["op"] == "start")
        try:
            self.prepare(start)
            self.streams = Streams(start["tty"], start["size"], self.ports)
            self.child = spawn(start, self.streams)
        except Failure as failure:
            status, reason = failure.args
            text = f"with-kvm: {reason}\n".encode()
            write_all(self.ports[2], text)
            self.send(op="exit", status=status, stdout=0, stderr=len(text), errors=[])
            return
        self.streams.started()
        self.send(op="started")
        threading.Thread(target=self.obey, daemon=True).start()
        status = wait(self.child)
        self.finish(status)

    def prepare(self, start: Message) -> None:
        """Mount what the command's results go to, wait for /dev/kvm."""
        if not self.alone:
            return
        if start["out"]:
            mount = "mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 out"
            done = subprocess.run(
                ["busybox", *mount.split(), start["out"]], capture_output=True
            )
            if done.returncode:
                raise Failure(CANNOT_RUN, done.stderr.decode(errors="replace"))
        deadline = time.monotonic() + DEVICE_WAIT_S
        while not os.path.exists("/dev/kvm"):
            if time.monotonic() > deadline:
                raise Failure(CANNOT_RUN, "no /dev/kvm came up in there")
            time.sleep(0.02)

    def obey(self) -> None:
        """Carry out the supervisor's messages; its end is the machine's."""
        assert self.child is not None
        assert self.streams is not None
        for line in self.lines:
            message = json.loads(line)
            if message["op"] == "tick":
                self.send(op="tock")
            elif message["op"] == "signal":
                self.deliver(message["number"])
            elif message["op"] == "resize":
                self.streams.resize(message["size"])
            elif message["op"] == "eof":
                self.end_input(message["sent"])
            elif message["op"] == "closed" and message["stream"] in self.streams.pumps:
                self.streams.pumps[message["stream"]].sink_closed = True
        if self.alone:
            Path("/proc/sysrq-trigger").write_text("o")

    def end_input(self, total: int) -> None:
        """End the command's input after `total` bytes; a terminal has no end."""
        assert self.streams is not None
        pump = self.streams.pumps["stdin"]
        assert isinstance(pump, InputPump)
        pump.end_at(total)

    def deliver(self, number: int) -> None:
        """Send a signal as a terminal or kill(1) would: SIGINT to the group."""
        assert self.child is not None
        send = os.killpg if number == signal.SIGINT else os.kill
        with contextlib.suppress(ProcessLookupError):
            send(self.child.pid, number)

    def finish(self, status: int) -> None:
        """Tell the end, after the last byte of output.

        What the command left running would keep its streams open for ever, and
        ends with the machine anyway: it ends here.
        """
        assert self.streams is not None
        if self.alone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        stdout, stderr = self.streams.sent("stdout"), self.streams.sent("stderr")
        if self.alone:
            os.sync()
        errors = [f"{n}: {p.error}" for n, p in self.streams.pumps.items() if p.error]
        self.send(op="exit", status=status, stdout=stdout, stderr=stderr, errors=errors)


def open_port(name: str) -> int:
    """Open a virtio-serial port by its name, as soon as it is there."""
    deadline = time.monotonic() + DEVICE_WAIT_S
    while time.monotonic() < deadline:
        for port in Path("/sys/class/virtio-ports").glob("vport*"):
            if (port / "name").read_text().strip() == name:
                return os.open(f"/dev/{port.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.02)
    sys.exit(f"agent.py: no virtio port {name}")


def main() -> None:
    """Serve the ports of the machine that we are alone in."""
    if sys.argv[1:] != ["--alone"] or os.getppid() != 1:
        sys.exit("agent.py: only for the init of the software machine")
    Agent([open_port(name) for name in PORTS], alone=True).run()
    threading.Event().wait()  # the supervisor ends the machine once all is read


if __name__ == "__main__":
    main()
