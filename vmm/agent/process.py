"""GuestProcess: a command of the guest's, as subprocess.Popen has one of the host's."""

import errno
import io
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import IO, Any, Final, Self

from .. import threads
from ..errors import VmmError
from .channel import CAPTURE_LIMIT, STDERR, STDOUT, Channel
from .order import Args, StrOrBytesPath, checked_size
from .session import Session
from .text_mode import TextMode

# Stages of a start that has failed; the agent's
_AT_CHDIR: Final = 1
_AT_USER: Final = 2
_AT_INTERPRETER: Final = 4
_AT_TERMINAL: Final = 5
_READ_SIZE: Final = 64 << 10
_NO_INTERPRETER: Final = (
    "it is there, but the guest hasn't what its first line names to run it or, if it "
    "is a program, its dynamic loader"
)


class GuestProcess:
    """One that runs, or has ended. Thread-safe; also a context manager, which kills it.

    `stdin`, `stdout` and `stderr` are file objects, or None; reading waits for output,
    and a command whose output nobody reads waits for that. All methods raise GuestEnded
    when the guest ends under it, and VmmError when its agent is lost.
    """

    def __init__(
        self,
        session: Session,
        channel: Channel,
        args: Args,
        mode: TextMode,
        *,
        has_input: bool,
        cwd: StrOrBytesPath | None = None,
    ) -> None:
        self.args = args
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self._session = session
        self._channel = channel
        self._changed = session.changed
        self._mode = mode
        self._cwd = cwd
        self._input_is_open = has_input
        self._unsent = memoryview(b"")  # what communicate() has had no time for

    def open_files(self, *, has_errors: bool) -> None:
        """Make the file objects."""
        if self._input_is_open:
            raw: Any = _Input(self)
            mode = self._mode
            self.stdin = (
                raw
                if mode.encoding is None
                else _TextInput(raw, mode.encoding, mode.errors, write_through=True)
            )
        self.stdout = self._file(io.BufferedReader(_Output(self, STDOUT), _READ_SIZE))
        if has_errors:
            errors = io.BufferedReader(_Output(self, STDERR), _READ_SIZE)
            self.stderr = self._file(errors)

    def _file(self, raw: Any) -> IO[Any]:  # noqa: ANN401
        if self._mode.encoding is None:
            binary: IO[Any] = raw
            return binary
        return io.TextIOWrapper(
            raw, self._mode.encoding, self._mode.errors, write_through=True
        )

    @property
    def pid(self) -> int:
        """Its process id in the guest."""
        self.wait_started(None)
        assert self._channel.pid is not None
        return self._channel.pid

    @property
    def returncode(self) -> int | None:
        """Its status; -N for signal N; None while it runs."""
        status = self._channel.status
        return None if status is None else os.waitstatus_to_exitcode(status)

    def wait_started(self, timeout: float | None) -> None:
        """Wait until it runs. Raises OSError for one that can't be started."""
        channel = self._channel
        self._wait_for(
            lambda: channel.pid is not None or channel.is_over, _end_of(timeout)
        )
        self._check()

    def poll(self) -> int | None:
        """Its status, if it has one by now."""
        code = self.returncode
        if code is None:  # it may have none ever
            self._check()
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        channel = self._channel
        if not self._wait_for(
            lambda: channel.status is not None or channel.is_over, _end_of(timeout)
        ):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        if channel.status is None:
            self._check()
        code = self.returncode
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it hasn't ended."""
        self._signal(number, group=False)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self) -> None:
        """Send SIGKILL to it, and to all that it has started in its process group."""
        self._signal(signal.SIGKILL, group=True)

    def _signal(self, number: int, *, group: bool) -> None:
        if not 0 <= number <= signal.SIGRTMAX:
            raise ValueError(f"there is no signal {number}")
        with self._changed:
            if not self._channel.is_over and self._channel.status is None:
                self._channel.signal(number, group=group)

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal, which `popen(pty=...)` has given it, of its new size."""
        rows, columns = checked_size((rows, columns))
        with self._changed:
            if not self._channel.is_over:
                self._channel.resize(rows, columns)

    def communicate(
        self,
        input: Any = None,  # noqa: A002, ANN401, as subprocess has it
        timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Send all input, read all output, and wait for its end.

        Raises subprocess.TimeoutExpired with what came so far; it may be called again,
        without the input, the rest of which is sent then.
        """
        data = b"" if input is None else self._mode.input(input)
        output, errors = self.communicate_bytes(data, timeout)
        return (
            self._mode.output(output),
            None if self.stderr is None else self._mode.output(errors),
        )

    def communicate_bytes(
        self, data: bytes, timeout: float | None
    ) -> tuple[bytes, bytes]:
        """Likewise, whatever its files are."""
        if data and not self._input_is_open:
            raise ValueError("input: the command has no stdin: popen(stdin=PIPE)")
        if data and self._unsent:
            raise ValueError("input: there is some yet that wasn't sent")
        channel, end = self._channel, _end_of(timeout)
        with self._changed:
            channel.keep_all(CAPTURE_LIMIT)
            if data:
                self._unsent = memoryview(data)
            while True:
                if self._unsent and not channel.input_is_broken:
                    self._unsent = self._unsent[channel.write(self._unsent) :]
                if not self._unsent or channel.input_is_broken:
                    self.end_input()
                if channel.is_over:
                    break
                if not threads.nap(self._changed, _left(end)) and _left(end) == 0:
                    assert timeout is not None
                    output, errors = map(bytes, channel.output)
                    raise subprocess.TimeoutExpired(self.args, timeout, output, errors)
            self._check()
            return bytes(channel.output[STDOUT]), bytes(channel.output[STDERR])

    def close(self) -> None:
        """Kill it, with its group, if it hasn't ended, and forget it. Idempotent."""
        with self._changed:
            self._session.forget(self._channel)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For the files, on any thread

    def read_some(self, stream: int, most: int) -> bytes:
        """Wait for output; b"" is its end."""
        channel = self._channel
        self._wait_for(
            lambda: channel.output[stream] or channel.ended[stream] or channel.is_over,
            None,
        )
        with self._changed:
            data = channel.read(stream, most)
        if not data and not channel.ended[stream]:
            self._check()
        return data

    def write_all(self, data: Any) -> None:  # noqa: ANN401, a buffer
        """Send input as it finds room. Raises BrokenPipeError."""
        channel = self._channel
        view = memoryview(data).cast("B")
        with self._changed:
            while view:
                if channel.input_is_broken or channel.status is not None:
                    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
                if channel.is_over:
                    self._check()
                taken = channel.write(view)
                view = view[taken:]
                if not taken:
                    threads.nap(self._changed)

    def drop_input(self) -> None:
        """Nobody can send any more. Takes no lock: see `Session.dropped`."""
        if self._input_is_open:
            self._session.dropped.append(self._channel)

    def end_input(self) -> None:
        """It reads to its end. Idempotent."""
        with self._changed:
            is_open, self._input_is_open = self._input_is_open, False
            if is_open and not self._channel.is_over:
                self._channel.end_input()

    def _wait_for(self, condition: Callable[[], Any], end: float | None) -> bool:
        with self._changed:
            return threads.wait_for(self._changed, condition, _left(end))

    def _check(self) -> None:
        """Raises what has become of it, if that is no end of its own."""
        channel = self._channel
        if channel.failure is not None:
            raise self._start_error(*channel.failure)
        if channel.error is not None:
            raise channel.error

    def _start_error(self, number: int, stage: int) -> Exception:
        name = os.fsdecode(_first(self.args))
        text = os.strerror(number)
        if stage == _AT_CHDIR:
            return OSError(number, text, os.fsdecode(self._cwd or "/"))
        if stage == _AT_INTERPRETER:
            return OSError(number, f"{text}: {_NO_INTERPRETER}", name)
        if stage == _AT_USER:
            return OSError(
                number, f"its user can't be changed to: {text.lower()}", name
            )
        if stage == _AT_TERMINAL:
            return VmmError(
                f"guest: it has no terminal for the command: {text.lower()} "
                "(CONFIG_UNIX98_PTYS, and devpts at /dev/pts)"
            )
        return OSError(number, text, name)


class _Output(io.RawIOBase):
    """What it prints."""

    def __init__(self, process: GuestProcess, stream: int) -> None:
        self._process = process
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        data = self._process.read_some(self._stream, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Input(io.RawIOBase):
    """What it reads."""

    def __init__(self, process: GuestProcess) -> None:
        self._process = process

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401
        self._process.write_all(data)
        return len(memoryview(data).cast("B"))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._process.end_input()

    def __del__(self) -> None:
        """Instead of closing it, which takes locks."""
        self._process.drop_input()


class _TextInput(io.TextIOWrapper):
    """It as text."""

    def __del__(self) -> None:
        """Instead of closing what it writes to, which is dropped as well."""


def _first(args: Args) -> Any:  # noqa: ANN401
    if isinstance(args, str | bytes):
        return "/bin/sh"
    return os.fspath(args if isinstance(args, os.PathLike) else args[0])


def _end_of(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())
