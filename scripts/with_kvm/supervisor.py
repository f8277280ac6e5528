"""The host side of a command in the software machine.

Threads copy the standard streams to and from the machine's ports and block
when the other side does; the main thread follows the agent's messages, and
Python runs the signal handlers in it. agent.py describes the messages.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from scripts.with_kvm.terminal import raw_terminal, terminals, window_size

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from types import FrameType

    from scripts.with_kvm.qemu import Machine

CHUNK: Final = 1 << 16
START_TIMEOUT_S: Final = 300.0
TICK_S: Final = 0.25
SILENCE_S: Final = 120.0  # in which a machine that lives answers a tick
PATIENCE_S: Final = 5.0  # a signal repeated after this ends the machine
FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
HOST_ONLY: Final = ("DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "SSH_AUTH_SOCK",
                    "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR")  # fmt: skip


class MachineError(Exception):
    """The software machine failed, not the command."""


class Stopped(Exception):
    """A signal ends the run; args are its number."""


def inner_environment(environment: dict[str, str], out: str | None) -> dict[str, str]:
    """Return what the command sees: the caller's, less what names host sockets."""
    inner = {k: v for k, v in environment.items() if k not in HOST_ONLY}
    inner.pop("WITH_KVM_OUT", None)
    if out:
        inner["WITH_KVM_OUT"] = out
    return inner


class Control:
    """The control port: one JSON object per line."""

    def __init__(self, port: socket.socket) -> None:
        """Take the host's end."""
        self._port = port
        self._pending = b""

    def send(self, **message: object) -> None:
        """Send one message; a machine that is gone shows up in receive()."""
        with contextlib.suppress(OSError):
            self._port.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the next message that is no mere sign of life.

        Raises MachineError at the end, or after a silence of `timeout`.
        """
        while (message := self._receive(timeout))["op"] == "tock":
            pass
        return message

    def _receive(self, timeout: float) -> dict[str, Any]:
        self._port.settimeout(timeout)
        while b"\n" not in self._pending:
            try:
                data = self._port.recv(CHUNK)
            except TimeoutError:
                raise MachineError(f"no answer for {timeout:.0f} s") from None
            except ConnectionError:
                data = b""
            if not data:
                raise MachineError("it ended before the command did")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message


class Heartbeat(threading.Thread):
    """Ticks at the machine, so that it can neither doze off nor die unnoticed.

    It was seen to sleep for good when idle, and to wake at a signal, as if a timer
    interrupt had been lost (see CPUS in qemu.py for how that may come). A tick is
    another interrupt.
    """

    def __init__(self, control: Control) -> None:
        """Take the port to the machine."""
        super().__init__(daemon=True)
        self._control = control
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Tick until stopped."""
        while not self._stop_asked.wait(TICK_S):
            self._control.send(op="tick")

    def stop(self) -> None:
        """End the thread."""
        self._stop_asked.set()
        self.join()


class OutputPump(threading.Thread):
    """Copies a port to a descriptor of ours; goes on reading if that closes."""

    def __init__(
        self, port: socket.socket, name: str, fd: int, control: Control
    ) -> None:
        super().__init__(daemon=True)
        self._port, self._name, self._fd, self._control = port, name, fd, control
        self._copied = 0
        self._progress = threading.Condition()

    def run(self) -> None:
        """Copy until the port ends."""
        with contextlib.suppress(ConnectionError):
            while data := self._port.recv(CHUNK):
                self._write(data)
                with self._progress:
                    self._copied += len(data)
                    self._progress.notify()
        with self._progress:
            self._copied = 1 << 62  # nothing more will come
            self._progress.notify()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and self._fd >= 0:
                view = view[os.write(self._fd, view) :]
        except OSError:  # EPIPE, EIO of a terminal that is gone, EBADF
            self._fd = -1
            self._control.send(op="closed", stream=self._name)

    def wait(self, total: int) -> None:
        """Wait until the command's `total` bytes are written."""
        with self._progress:
            self._progress.wait_for(lambda: self._copied >= total)


def copy_input(port: socket.socket, control: Control) -> None:
    """Copy our stdin to the port, then tell how much it was."""
    sent = 0
    with contextlib.suppress(OSError):
        while data := os.read(0, CHUNK):
            port.sendall(data)
            sent += len(data)
    control.send(op="eof", sent=sent)


class Supervisor:
    """One command's run in a machine that has just been started."""

    def __init__(self, machine: Machine) -> None:
        """Take the machine; the caller closes it."""
        self._machine = machine
        self._control = Control(machine.ports["control"])
        self._started = False
        self._exited = False
        self._first_signal: float | None = None

    def run(self, argv: list[str], out: str | None) -> int:
        """Run `argv`; return its status, 128 + n for a signal.

        Raises MachineError, and Stopped for a signal before the command
        runs, after it, or repeated after PATIENCE_S.
        """
        control, ports = self._control, self._machine.ports
        ttys = terminals()
        with ExitStack() as stack:
            stack.enter_context(self._handlers())
            control.receive(START_TIMEOUT_S)  # ready
            heartbeat = Heartbeat(control)
            heartbeat.start()
            stack.callback(heartbeat.stop)
            control.send(op="start", **self._start(argv, out, ttys))
            reply = control.receive(START_TIMEOUT_S)  # started, or exit at once
            self._started = True
            pumps = {
                name: OutputPump(ports[name], name, fd, control)
                for name, fd in (("stdout", 1), ("stderr", 2))
            }
            for pump in pumps.values():
                pump.start()
            if reply["op"] == "started":
                if ttys[0]:
                    stack.enter_context(raw_terminal())
                copy = (ports["stdin"], control)
                threading.Thread(target=copy_input, args=copy, daemon=True).start()
                reply = control.receive(SILENCE_S)
            self._exited = True
            for name, pump in pumps.items():
                pump.wait(reply[name])
        if reply["errors"]:
            raise MachineError(f"it lost output: {reply['errors']}")
        status: int = reply["status"]
        return status

    def _start(
        self, argv: list[str], out: str | None, ttys: list[bool]
    ) -> dict[str, object]:
        umask = os.umask(0)
        os.umask(umask)
        return {
            "argv": argv,
            "cwd": os.getcwd(),
            "env": inner_environment(dict(os.environ), out),
            "umask": umask,
            "out": out,
            "tty": ttys,
            "size": window_size(),
        }

    @contextlib.contextmanager
    def _handlers(self) -> Iterator[None]:
        numbers = [n for n in FORWARDED if signal.getsignal(n) != signal.SIG_IGN]
        saved = {n: signal.signal(n, self._on_signal) for n in numbers}
        saved[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._on_resize)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
            yield
        finally:
            for number, handler in saved.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        first = self._first_signal
        impatient = first is not None and now - first > PATIENCE_S
        if not self._started or self._exited or impatient:
            raise Stopped(number)
        self._first_signal = first or now
        self._control.send(op="signal", number=number)

    def _on_resize(self, number: int, frame: FrameType | None) -> None:
        if self._started:
            self._control.send(op="resize", size=window_size())
