"""Telling the user what is done, and running commands meanwhile.

All of it goes to stderr: stdout is for answers. Long commands show a moving
hint on a terminal, and a line every 20 s elsewhere, so that a CI log shows life.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from .errors import CommandFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TERMINAL_PERIOD_S: Final = 0.5
LOG_PERIOD_S: Final = 20.0
TAIL_BYTES: Final = 4096


def say(text: str) -> None:
    """Print one progress line."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def detail(text: str) -> None:
    """Print one line that belongs to the progress line before it."""
    print(f"    {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return `seconds` (≥ 0) as people say it: 7 s, 2 min 05 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def run(
    command: Sequence[str | os.PathLike[str]],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run `command` with its output appended to `log`, showing that it lives.

    The command has a session of its own: whatever ends us (Ctrl-C too) ends all
    of its processes before this returns. Raises CommandFailedError.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _watch(process, log)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if process.returncode:
        raise CommandFailedError(os.fspath(command[0]), process.returncode, log)


def last_lines(log: Path, count: int) -> list[str]:
    """Return up to `count` of the last lines of `log` that are not blank."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()][-count:]


def _watch(process: subprocess.Popen[bytes], log: Path) -> None:
    terminal = sys.stderr.isatty()
    started = time.monotonic()
    hinted = False
    while process.returncode is None:
        try:
            process.wait(TERMINAL_PERIOD_S if terminal else LOG_PERIOD_S)
        except subprocess.TimeoutExpired:
            _hint(time.monotonic() - started, log, terminal)
            hinted = True
    if terminal and hinted:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _hint(elapsed: float, log: Path, terminal: bool) -> None:
    doing = " ".join(" ".join(last_lines(log, 1)).split())
    text = f"    {duration(elapsed)}  {doing}"
    if terminal:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]}\x1b[K", end="", file=sys.stderr, flush=True)
    else:
        print(text[:100], file=sys.stderr, flush=True)
