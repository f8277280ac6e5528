"""Guest: what a user does with a running guest whose agent answers."""

import errno
import os
import subprocess
import time
from contextlib import suppress
from typing import Any, Final, Unpack

from .. import threads
from ..errors import VmmError
from .archive import ArchiveReader, write_archive
from .order import Args, Env, Size, StrOrBytesPath, Surroundings, order
from .process import GuestProcess
from .session import Session
from .text_mode import TextMode

PIPE: Final = subprocess.PIPE
STDOUT_TOO: Final = subprocess.STDOUT
DEVNULL: Final = subprocess.DEVNULL


class Guest:
    """Runs commands in the guest, as `subprocess` does here, and moves files.

    Any number of threads may, with up to 32 commands at once. What is asked before the
    agent answers waits for it; `wait_ready` does only that. Timeouts count our time: a
    guest that is paused makes them no longer. GuestEnded is raised, by all of it, when
    the guest ends, or has: its `result` has the kernel's last words.

    >>> from vmm import Machine, MachineConfig
    >>> with Machine(MachineConfig(agent=True, timeout=600)) as machine:
    ...     machine.start()
    ...     machine.guest.run(["echo", "hello"], text=True).stdout
    'hello\\n'
    """

    def __init__(self, session: Session) -> None:
        self.is_started = False
        """Whether there is a guest that could answer."""
        self._session = session

    def wait_ready(self, timeout: float | None = 30) -> None:
        """Wait until the agent answers. Raises TimeoutError, GuestEnded."""
        session = self._session
        self._check_started()
        end = None if timeout is None else time.monotonic() + timeout
        with session.changed:
            while not session.is_ready:
                session.check()
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(
                        f"guest: its agent didn't answer within {timeout:g} s: is the "
                        "guest still booting, or has it no ttyS1?"
                    )
                threads.nap(session.changed, left)

    def reconnect(self, *, set_clock: bool = False) -> None:
        """Begin anew with the agent, whoever it has spoken with before.

        For the clone of a machine: commands of the time before run on, unheard, and
        the guest gets new entropy. With `set_clock` its real time becomes ours.
        """
        self._session.greet(tells_time=set_clock)
        self.is_started = True

    def run(
        self,
        args: Args,
        *,
        check: bool = False,
        input: Any = None,  # noqa: A002, ANN401, as subprocess has it
        timeout: float | None = None,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        **settings: Unpack[Surroundings],
    ) -> "subprocess.CompletedProcess[Any]":
        """Run a command to its end; what it printed is in the result, kept apart.

        `args` is a list of words, or a line for the guest's /bin/sh. `env`, `cwd`,
        `user` and `group` are as `popen` has them. stdin is `input`, or /dev/null.
        Output is kept up to 64 MiB. Raises subprocess's CalledProcessError (by
        `check`) and TimeoutExpired, with what was printed so far, the command and its
        process group being killed; FileNotFoundError, PermissionError and other
        OSErrors if it can't be started.
        """
        _refuse_unknown(settings)
        mode = TextMode(text, encoding, errors)
        data = None if input is None else mode.input(input)
        process = self._open(args, mode, has_input=data is not None, **settings)
        with process:
            try:
                output, error_output = process.communicate_bytes(data or b"", timeout)
            except subprocess.TimeoutExpired as expired:
                expired.stdout = mode.part(expired.stdout or b"")
                expired.stderr = mode.part(expired.stderr or b"")
                raise
            code = process.wait()
        done: subprocess.CompletedProcess[Any] = subprocess.CompletedProcess(
            args, code, mode.output(output), mode.output(error_output)
        )
        if check:
            done.check_returncode()
        return done

    def popen(
        self,
        args: Args,
        *,
        stdin: int | None = PIPE,
        stderr: int = PIPE,
        pty: Size | None = None,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        **settings: Unpack[Surroundings],
    ) -> GuestProcess:
        """Start a command; returns when it runs.

        `stdin` is PIPE or DEVNULL, `stderr` PIPE or STDOUT. `pty`, rows and columns,
        gives it a terminal of its own, whose output is all stdout. Keywords: `env`, all
        of its environment, `cwd`, and `user` and `group`, numbers of whom it is to be.
        Raises OSError if it can't be started.
        """
        _refuse_unknown(settings)
        mode = TextMode(text, encoding, errors)
        has_input = stdin == PIPE or pty is not None
        if stdin not in (PIPE, DEVNULL, None) or stderr not in (PIPE, STDOUT_TOO):
            raise ValueError("stdin is PIPE or DEVNULL, stderr PIPE or STDOUT")
        err_is_out = stderr == STDOUT_TOO or pty is not None
        process = self._open(
            args,
            mode,
            has_input=has_input,
            err_is_out=err_is_out,
            size=pty,
            tells_start=True,
            **settings,
        )
        try:
            process.wait_started(None)
        except BaseException:
            process.close()
            raise
        process.open_files(has_errors=not err_is_out)
        return process

    def shell(
        self,
        size: Size = (24, 80),
        args: Args = ("/bin/sh", "-i"),
        **settings: Unpack[Surroundings],
    ) -> GuestProcess:
        """Start an interactive shell on a terminal of so many rows and columns."""
        return self.popen(args, pty=size, **settings)

    def put(self, local: StrOrBytesPath, remote: StrOrBytesPath) -> None:
        """Copy a file, or a directory with all that is in it, into the guest.

        With permissions, times, links and holes; the owner is root. `remote` is its
        name there; a file whose `remote` is a directory, or ends in "/", goes into it;
        a directory that is there is added to. A file appears whole. Raises OSError.
        """
        source, target = os.fsdecode(local), os.fsdecode(remote)
        os.stat(source)  # before anything is done there
        with self._tool(["--put", target], has_input=True) as process:
            with suppress(BrokenPipeError):  # its status says why
                write_archive(source, process.write_all)
            process.communicate_bytes(b"", None)
            _check_errno(process.wait(), target)

    def get(self, remote: StrOrBytesPath, local: StrOrBytesPath) -> None:
        """Copy a file, or a directory with all that is in it, out of the guest.

        As `put`; `local` is its name here, or a directory that it goes into. It
        appears whole, or not at all; devices, FIFOs and sockets in a directory are
        left out, and its links point where the guest says: follow none that you don't
        trust. Raises OSError, the guest's or ours.
        """
        source, target = os.fsdecode(remote), os.fsdecode(local)
        with self._tool(["--get", source]) as process:
            process.open_files(has_errors=True)
            assert process.stdout is not None
            ArchiveReader(process.stdout, source).extract(target)

    def read_bytes(self, remote: StrOrBytesPath) -> bytes:
        """A file's content, or what a device gives; up to 64 MiB. Raises OSError."""
        path = os.fsdecode(remote)
        with self._tool(["--read", path]) as process:
            data, _ = process.communicate_bytes(b"", None)
            _check_errno(process.wait(), path)
        return data

    def read_text(self, remote: StrOrBytesPath, encoding: str = "utf-8") -> str:
        """Likewise, as text."""
        text: str = TextMode(True, encoding, None).output(self.read_bytes(remote))
        return text

    def write_bytes(
        self, remote: StrOrBytesPath, data: bytes, *, mode: int = 0o644
    ) -> None:
        """Write a file, a device, or a knob in /proc or /sys. Raises OSError.

        `mode` has the permissions of a file that wasn't there.
        """
        path = os.fsdecode(remote)
        words = ["--write", path, f"{mode:o}"]
        with self._tool(words, has_input=True) as process:
            process.communicate_bytes(bytes(memoryview(data)), None)
            _check_errno(process.wait(), path)

    def write_text(
        self, remote: StrOrBytesPath, text: str, *, mode: int = 0o644
    ) -> None:
        """Likewise, text, as UTF-8."""
        if not isinstance(text, str):
            raise TypeError(f"text: {type(text).__name__} is no str")
        self.write_bytes(remote, text.encode(), mode=mode)

    def exists(self, remote: StrOrBytesPath) -> bool:
        """Whether there is such a file, a link being followed. Raises OSError."""
        path = os.fsdecode(remote)
        with self._tool(["--exists", path]) as process:
            code = process.wait()
        if code in (errno.ENOENT, errno.ENOTDIR):
            return False
        _check_errno(code, path)
        return True

    # How

    def _open(
        self,
        args: Args,
        mode: TextMode,
        *,
        cwd: StrOrBytesPath | None = None,
        env: Env | None = None,
        user: int | None = None,
        group: int | None = None,
        **how: Any,  # noqa: ANN401, order's
    ) -> GuestProcess:
        payload = order(args, env=env, cwd=cwd, user=user, group=group, **how)
        self._check_started()
        with self._session.changed:
            channel = self._session.open(payload)
        has_input = bool(how.get("has_input"))
        return GuestProcess(
            self._session, channel, args, mode, has_input=has_input, cwd=cwd
        )

    def _tool(self, words: list[str], *, has_input: bool = False) -> GuestProcess:
        """The agent's own program, which does it where the guest may have none."""
        mode = TextMode(None, None, None)
        args = ["vmm-agent", *words]
        return self._open(args, mode, has_input=has_input, is_tool=True)

    def _check_started(self) -> None:
        if not self.is_started:
            raise VmmError("guest: the machine isn't started: start() it first")


def _refuse_unknown(settings: Surroundings) -> None:
    for name in settings.keys() - Surroundings.__annotations__.keys():
        raise TypeError(
            f"unexpected keyword argument {name!r}: all output is captured, and a text "
            "is a line for the shell, without being asked"
        )


def _check_errno(code: int, path: str) -> None:
    """Raises what the agent's own program ended with."""
    if code > 0:
        raise OSError(code, os.strerror(code), path)
    if code < 0:
        raise VmmError(f"guest: its agent's program was killed by signal {-code}")
