"""Boot Loader Specification, type 1: entries as files, one for each kernel.

Source: uapi-group.org, "The Boot Loader Specification"; GRUB's blscfg for `$name`s.
"""

import re
from collections.abc import Mapping
from typing import Final

from .entry import BootEntry, expanded, file_path

SUFFIX: Final = ".conf"
_NUMBERS: Final = re.compile(r"(\d+)")


def default_name(names: list[str], default: str) -> str | None:
    """The entry's file that is booted: `default`'s, or that of the newest kernel."""
    entries = [name for name in names if name.endswith(SUFFIX)]
    by_age = sorted(entries, key=_version, reverse=True)
    if default.isdecimal() and int(default) < len(by_age):
        return by_age[int(default)]
    if f"{default}{SUFFIX}" in entries:
        return f"{default}{SUFFIX}"
    return by_age[0] if by_age else None


def bls_entry(text: str, variables: Mapping[str, str]) -> BootEntry | None:
    """None where it names no Linux kernel."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if value and not key.startswith("#"):
            values.setdefault(key, []).append(expanded(value.strip(), variables))
    kernel = next(iter(values.get("linux", [])), "")
    if not kernel:
        return None
    initrds = (path for value in values.get("initrd", []) for path in value.split())
    words = (word for value in values.get("options", []) for word in value.split())
    return BootEntry(
        kernel=file_path(kernel),
        initrds=tuple(map(file_path, initrds)),
        cmdline=" ".join(words),
    )


def _version(name: str) -> list[tuple[int, int, str]]:
    """What sorts 6.10 above 6.9."""
    parts = _NUMBERS.split(name.removesuffix(SUFFIX))
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts]
