"""The machines of this process: closed at its end, and disowned in a forked child."""

import atexit
import os
from _weakref import ref  # weakref imports a lot more
from contextlib import ExitStack
from typing import Final, NoReturn, Protocol

from ..config import MachineConfig
from ..errors import VmmError


class Closable(Protocol):
    """What is registered: a Machine."""

    config: MachineConfig

    def close(self) -> None: ...
    def disown(self) -> None: ...


_open: "Final[dict[int, ref[Closable]]]" = {}
_started: "Final[dict[int, Closable]]" = {}  # their guests run, whoever forgets them


def open_machines() -> list[Closable]:
    """All machines of this process that were made and not closed."""
    machines = (weak() for weak in list(_open.values()))
    return [machine for machine in machines if machine is not None]


def register(machine: Closable) -> None:
    """It is open from here on."""
    key = id(machine)
    _open[key] = ref(machine, lambda _: _open.pop(key, None))


def keep(machine: Closable) -> None:
    """It starts: from here on somebody has to close it."""
    _started[id(machine)] = machine


def unregister(machine: Closable) -> None:
    """It is closed. Idempotent."""
    _started.pop(id(machine), None)
    _open.pop(id(machine), None)


@atexit.register
def close_all() -> None:
    """What nobody has closed, before the interpreter goes, and its threads with it."""
    with ExitStack() as stack:  # all of them, whatever one raises
        for machine in open_machines():
            stack.callback(machine.close)


def _disown_all() -> None:
    for machine in open_machines():
        machine.disown()
    _open.clear()
    _started.clear()


os.register_at_fork(after_in_child=_disown_all)


class Elsewhere:
    """Stands for the parts of a machine that another process has."""

    def __init__(self, process: int) -> None:
        self._process = process

    def __getattr__(self, name: str) -> NoReturn:
        raise VmmError(
            f"this machine belongs to process {self._process}: a forked child has no "
            "part in it"
        )
