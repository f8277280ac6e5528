"""`--result FILE.json`: written as a whole or not at all."""

import json
import os
import tempfile
from pathlib import Path

from .errors import ConfigError, VmmError
from .result import RunResult


def check_result_path(path: str, option: str = "result") -> None:
    """Raises ConfigError now where `write_whole` would fail after the run."""
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.basename(path):
        raise ConfigError(f"{option}: {path!r} names no file")
    if os.path.isdir(path):
        raise ConfigError(f"{option}: {path!r} is a directory")
    if _is_special(path):
        return
    if not os.path.isdir(folder):
        raise ConfigError(f"{option}: there is no directory {folder!r}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option}: no permission to write in {folder!r}")


def write_result(path: str, result: RunResult) -> None:
    """Put `result` in place of what `path` was. Raises VmmError."""
    write_whole(path, json.dumps(result.to_dict(), indent=2) + "\n", "result")


def write_whole(path: str, text: str, option: str) -> None:
    """Put `text` in place of what `path` was, for `--option`. Raises VmmError."""
    target = os.path.realpath(path)  # a link stays, the file it names is replaced
    folder = os.path.dirname(target)
    try:
        if _is_special(path):
            Path(path).write_text(text, encoding="utf-8")
            return
        with tempfile.TemporaryDirectory(prefix=".vmm-", dir=folder) as scratch:
            whole = os.path.join(scratch, "whole")
            Path(whole).write_text(text, encoding="utf-8")
            os.replace(whole, target)
    except OSError as error:
        raise VmmError(f"{option}: {path!r}: {error.strerror}") from None


def _is_special(path: str) -> bool:
    """Whether it is a device or a FIFO, which no file must replace."""
    return os.path.exists(path) and not os.path.isfile(path)
