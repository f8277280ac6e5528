"""`--profile FILE`: a trace for Perfetto, or a page to read, by the file's name."""

import json
import os

from ..errors import ConfigError
from ..profile.recorder import Profile
from ..result import RunResult
from .result_file import check_result_path, write_whole


def check_profile_path(path: str, result_path: str | None) -> None:
    """Raises ConfigError now where `write_profile` would fail after the run.

    `result_path` is where `--result` goes, which would be lost if it were the same.
    """
    if _suffix(path) not in (".json", ".html"):
        raise ConfigError(f"profile: {path!r} ends neither in .json nor in .html")
    if result_path and os.path.realpath(path) == os.path.realpath(result_path):
        raise ConfigError(f"profile: {path!r} is where the result goes")
    check_result_path(path, "profile")


def write_profile(path: str, profile: Profile, result: RunResult) -> None:
    """Put the report in place of what `path` was. Raises VmmError."""
    if _suffix(path) == ".html":
        from ..profile.page import page

        text = page(profile, result)
    else:
        from ..profile.trace import trace

        text = json.dumps(trace(profile, result))
    write_whole(path, text, "profile")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
