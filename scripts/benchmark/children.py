"""Running one VMM as a child: with a deadline, and gone when we go on.

A child has a session of its own, so that a terminal's Ctrl-C is for us alone, and
a directory of its own, in which it starts and writes.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

CHUNK: Final = 1 << 16
PATIENCE_S: Final = 10.0  # for a child to end in good order


class NotMeasured(Exception):
    """Something cannot be measured; the message is the reason, one line."""


@dataclass(frozen=True)
class Command:
    """What to start: arguments, and variables added to our environment."""

    argv: Sequence[str]
    environment: Mapping[str, str]


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return our environment without what would change vmm.

    PYTHONPATH finds it by another way than a user does, and under
    PYTHONDONTWRITEBYTECODE it is compiled at each start.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(("VMM_", "PYTHON"))
    }


@contextmanager
def started(
    command: Command,
    folder: Path,
    stdout: int | IO[bytes],
    stdin: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child in `folder`, its stderr in a file there; end it at the end.

    Raises NotMeasured where it can't be started.
    """
    with open(folder / "stderr", "wb") as errors:
        try:
            process = subprocess.Popen(
                command.argv,
                cwd=folder,
                env={**inherited(os.environ), **command.environment},
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise NotMeasured(f"{command.argv[0]}: {error.strerror}") from None
    with process:
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a child to end, so that it can clean up, and kill what is left of its group.

    It isn't waited for in between: until then nobody else can get its group's number.
    """
    if process.returncode is not None:
        return
    with open(os.pidfd_open(process.pid), "rb", closefd=True) as ended:
        os.killpg(process.pid, signal.SIGTERM)
        select.select([ended], [], [], PATIENCE_S)
    os.killpg(process.pid, signal.SIGKILL)


def run(command: Command, folder: Path, deadline_s: float) -> bytes:
    """Run a child to its end; return what it printed.

    Its output goes to a file: nobody who reads along takes time from it. Raises
    NotMeasured if it doesn't end. Its status tells nothing: see `complaint`.
    """
    path = folder / "stdout"
    with path.open("wb") as output, started(command, folder, output) as process:
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"it did not end within {deadline_s:.0f} s") from None
    return path.read_bytes()


def wait_for(
    process: subprocess.Popen[bytes], marker: bytes, folder: Path, deadline_s: float
) -> int:
    """Return when `marker` came on the child's stdout: CLOCK_MONOTONIC in ns.

    Raises NotMeasured if it doesn't come.
    """
    _, now = _read_until(process, marker, folder, deadline_s)
    return now


def read_until(
    process: subprocess.Popen[bytes], marker: bytes, folder: Path, deadline_s: float
) -> bytes:
    """Return what came on the child's stdout up to the line's end after `marker`.

    Raises NotMeasured if that doesn't come.
    """
    output, _ = _read_until(process, marker, folder, deadline_s)
    while b"\n" not in output[output.index(marker) :]:
        more, _ = _read_until(process, b"\n", folder, deadline_s)
        output += more
    return output


def _read_until(
    process: subprocess.Popen[bytes], marker: bytes, folder: Path, deadline_s: float
) -> tuple[bytes, int]:
    """Return what came, `marker` in it, and when: CLOCK_MONOTONIC in ns."""
    assert process.stdout is not None
    end = time.monotonic() + deadline_s
    output = bytearray()
    now = 0
    while marker not in output[-CHUNK - len(marker) :]:
        left = max(0.0, end - time.monotonic())
        ready, _, _ = select.select([process.stdout], [], [], left)
        now = time.monotonic_ns()
        if not ready:
            raise NotMeasured(f"no {marker.decode()!r} within {deadline_s:.0f} s")
        data = os.read(process.stdout.fileno(), CHUNK)
        if not data:
            raise NotMeasured(complaint(process, folder))
        output += data
    return bytes(output), now


def end_in_good_order(process: subprocess.Popen[bytes]) -> None:
    """Wait until a child that ends by itself has; raises NotMeasured."""
    try:
        process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"it did not end within {PATIENCE_S:.0f} s") from None


def complaint(process: subprocess.Popen[bytes] | None, folder: Path) -> str:
    """Return why a child failed: the last line that it wrote to stderr."""
    text = (folder / "stderr").read_text(errors="replace").split("\n")
    lines = [line.strip() for line in text if line.strip()]
    if lines:
        return lines[-1]
    status = process.wait() if process else None
    return "it ended without a result" + (f", status {status}" if status else "")
