"""What can go wrong while building guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class BuildError(Exception):
    """Base of all; the message is one line for the user and says what to do."""


class CommandFailedError(BuildError):
    """A command ended with a status other than 0; its output is in `log`."""

    def __init__(self, command: str, status: int, log: Path) -> None:
        """Name the command, its status (negative: the signal), and its log."""
        super().__init__(f"{command} failed with status {status}; see {log}")
        self.log = log
