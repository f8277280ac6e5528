"""grub.cfg, as grub-mkconfig writes it, as far as it says what is booted.

It is a script, of which we take what has no conditions: menu entries, in their order
and submenus, variables that are set to something, and the number, title or id of the
default. Source: GRUB manual, "Writing your own configuration file".
"""

import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final

from .entry import BootEntry, expanded, file_path

_LINUX: Final = ("linux", "linux16", "linuxefi")
_INITRD: Final = ("initrd", "initrd16", "initrdefi")
_MENUS: Final = ("menuentry", "submenu")
_ID: Final = ("--id", "$menuentry_id_option", "${menuentry_id_option}")
_DEEPEST: Final = 32


class Menu:
    """A menu, or an entry: that has no items, but commands."""

    def __init__(self, title: str = "", name: str = "") -> None:
        self.title = title
        self.name = name
        self.items: list[Menu] = []
        self.kernel: list[str] | None = None
        self.initrds: list[str] = []

    def chosen(self, default: str) -> "Menu | None":
        """The entry for "2", "title", "id" or "1>0"; else the first that boots."""
        first, _, rest = default.partition(">")
        for number, item in enumerate(self.items):
            if first in (str(number), item.title, item.name) and first:
                found = item if item.kernel else item.chosen(rest)
                if found is not None:
                    return found
        return next(self._bootable(), None)

    def _bootable(self) -> "Iterator[Menu]":
        if self.kernel:
            yield self
        for item in self.items:
            yield from item._bootable()


class GrubConfig:
    """One, read; `environment` is grubenv's."""

    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        self.variables = dict(environment)
        self.uses_bls = False
        """Whether it has its entries elsewhere: see `vmm.cloud.bls`."""
        self._menu = Menu()
        # What each open brace belongs to: a menu, an entry, or a function (None).
        self._open: list[Menu | None] = []
        for line in text.replace("\\\n", " ").splitlines():
            self._take(_words(line))

    @property
    def default(self) -> str:
        """Which entry: a number, a title or an id."""
        return self.variables.get("default", "0")

    def entry(self) -> BootEntry | None:
        """The one that is booted, if one boots a Linux."""
        chosen = self._menu.chosen(self.default)
        if chosen is None or not chosen.kernel:
            return None
        kernel, *words = self._expanded(chosen.kernel)
        return BootEntry(
            kernel=file_path(kernel),
            initrds=tuple(map(file_path, self._expanded(chosen.initrds))),
            cmdline=" ".join(words),
        )

    def _expanded(self, words: list[str]) -> list[str]:
        found = (expanded(word, self.variables).strip() for word in words)
        return [word for word in found if word]

    def _take(self, words: list[str]) -> None:
        if not words:
            return
        command, *rest = words
        if command == "}":
            if self._open:
                self._open.pop()
        elif rest and rest[-1] == "{":
            self._enter(command, rest[:-1])
        elif self._open and self._open[-1] is not None:
            _take_command(self._open[-1], command, rest)
        elif command == "blscfg":
            self.uses_bls = True
        elif command == "set" and rest and not self._open:
            self._set(rest[0])

    def _enter(self, command: str, words: list[str]) -> None:
        opened: Menu | None = None
        within = self._open[-1] if self._open else self._menu
        if (
            command in _MENUS
            and words
            and within is not None
            and len(self._open) < _DEEPEST
        ):
            names = (b for a, b in pairwise(words) if a in _ID)
            opened = Menu(words[0], next(names, ""))
            within.items.append(opened)
        self._open.append(opened)

    def _set(self, assignment: str) -> None:
        """Where it comes to nothing, as what isn't there, the one before stays."""
        name, _, value = assignment.partition("=")
        if value := expanded(value, self.variables):
            self.variables[name] = value


def _take_command(entry: Menu, command: str, words: list[str]) -> None:
    if command in _LINUX and words:
        entry.kernel = words
    elif command in _INITRD:
        entry.initrds += words


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a text of several lines: nothing that boots
        return []
