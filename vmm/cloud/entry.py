"""BootEntry: what an image's boot loader would start."""

import re
from collections.abc import Mapping
from typing import Final

from ..devices.record import Record

_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_DEVICE: Final = re.compile(r"^\([^()]*\)")  # ($root), which is where we look anyway


class BootEntry(Record):
    """One of its menu's: paths are the image's, and begin with a slash."""

    kernel: str
    initrds: tuple[str, ...]
    cmdline: str


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """With the values of $name and ${name}; what isn't set is nothing, as for GRUB."""
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], ""), text)


def file_path(text: str) -> str:
    """Of a file on the partition where the configuration is."""
    path = _DEVICE.sub("", text)
    return path if path.startswith("/") else f"/{path}"


def read_environment(text: str) -> dict[str, str]:
    """A grubenv's variables. Source: GRUB manual, "The GRUB environment block"."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, equals, value in pairs if equals}
