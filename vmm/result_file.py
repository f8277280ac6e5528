"""`--result FILE.json`: written as a whole or not at all."""

import json
import os
import tempfile

from .errors import ConfigError, VmmError
from .result import RunResult


def check_result_path(path: str) -> None:
    """Raises ConfigError now where `write_result` would fail after the run."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise ConfigError(f"result: {path!r} is a directory")
    if not os.path.isdir(folder):
        raise ConfigError(f"result: there is no directory {folder!r}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"result: no permission to write in {folder!r}")


def write_result(path: str, result: RunResult) -> None:
    """Put `result` in place of what `path` was. Raises VmmError."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with tempfile.TemporaryDirectory(prefix=".vmm-", dir=folder) as scratch:
            whole = os.path.join(scratch, "result")
            with open(whole, "w", encoding="utf-8") as file:
                json.dump(result.to_dict(), file, indent=2)
                file.write("\n")
            os.replace(whole, path)
    except OSError as error:
        raise VmmError(f"result: {path!r}: {error.strerror}") from None
