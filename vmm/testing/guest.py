"""TestGuest: what the fixtures `guest`, `guest_class` and `guest_session` are."""

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any, Final, Self

from vmm.console.console import Console
from vmm.devices.device_io import DeviceIo
from vmm.errors import VmmError
from vmm.foreign_text import printable
from vmm.machine.snapshot import FREE

from .description import Description
from .factory import Scope
from .templates import KERNEL_MARK
from .test_machine import LAST_BYTES, LAST_LINES, TestMachine

if TYPE_CHECKING:
    from vmm.agent.guest import Guest
    from vmm.machine.snapshot import Snapshot
else:
    Guest = object

KEPT: Final = "guest"  # the snapshot's folder, in its machine's
_ENDED_FORKS: Final = 3  # that a report shows
_DMESG_S: Final = 5.0  # for all guests that one test has: they may all hang


class TestGuest(Guest):
    """A guest of a test's own that runs already: a clone of one that was booted before.

    It has what `machine.guest` has, if there is an agent: `guest.run(["uname", "-r"])`,
    `popen`, `shell`, `put`, `get`, `read_text`, `write_text`, `exists`. `machine`,
    `console` and `devices` are there in any case.
    """

    __test__ = False  # no class of tests

    def __init__(
        self,
        machine: TestMachine,
        devices: Sequence[DeviceIo],
        scope: "GuestScope",
        origin: "Snapshot",
    ) -> None:
        self.machine = machine
        """Its machine, to be paused, looked at, waited for."""
        self.devices = tuple(devices)
        """Those that the marker `vmm` names, in this clone."""
        self._scope = scope
        self._origin = origin

    if not TYPE_CHECKING:  # where it is a Guest

        def __getattr__(self, name: str) -> object:
            if name.startswith("_") or not hasattr(_agents_guest(), name):
                raise AttributeError(f"a guest has no {name!r}", name=name, obj=self)
            return getattr(self.machine.guest, name)

    @property
    def console(self) -> Console:
        """What it prints since the clone was made, and what is typed."""
        return self.machine.console

    def fork(self) -> "TestGuest":
        """Another guest that goes on from where this one is now.

        Both run on, each for itself. `close` it, or use it in a `with`, or it is there
        until the end of the fixture's scope. Raises what `Machine.snapshot` does.
        """
        return self._scope.clone(self.machine.picture())

    def fresh(self) -> "TestGuest":
        """Another guest that is as this one was at first. Otherwise as `fork`."""
        return self._scope.clone(self._origin)

    def reset(self) -> None:
        """Put it back to what it was at first.

        Quicker than another guest. What its console has printed stays.
        """
        self.machine.reset()

    def close(self) -> None:
        """End it before its time. Idempotent."""
        self._scope.end(self.machine, failed=sys.exc_info()[0] is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.machine.folder)!r}>"


def _agents_guest() -> type:
    from vmm.agent.guest import Guest

    return Guest


class GuestScope(Scope):
    """Makes the guests of one fixture; `is_kept` is --vmm-keep."""

    noun = "guest"

    def __init__(
        self,
        name: str,
        folder: Path,
        snapshot: "Snapshot",
        description: Description,
        *,
        is_kept: bool,
    ) -> None:
        super().__init__(name, folder)
        self._snapshot = snapshot
        self._description = description
        self._is_kept = is_kept
        self._seen: dict[TestMachine, list[tuple[str, str]]] = {}
        self._patience_s = _DMESG_S
        self._forks: list[TestMachine] = []
        self._ended: list[TestMachine] = []  # of the forks

    def clone(self, snapshot: "Snapshot | None" = None) -> TestGuest:
        """One more that runs. Raises what Machine does."""
        own = self._description.config
        settings: Any = {name: getattr(own, name) for name in FREE & {*own.field_names}}
        origin = snapshot or self._snapshot
        devices = [make() for make in self._description.devices]
        machine = self._make(origin.config_of_clone(settings), devices, origin)
        if machine is not self.machines[0]:
            self._forks.append(machine)
        machine.start()
        return TestGuest(machine, devices, self, origin)

    def look(self, machine: TestMachine) -> list[tuple[str, str]]:
        """The kernel's log, and how to get the guest: asked once for each test.

        The guest may be gone at the next call.
        """
        if machine not in self._seen:
            start = time.monotonic()
            log = _kernel_log(machine, self._patience_s)
            self._patience_s -= time.monotonic() - start
            self._seen[machine] = [*log, *self._keep(machine)]
        return self._seen[machine]

    def _keep(self, machine: TestMachine) -> list[tuple[str, str]]:
        title = "to look into it"
        if machine.result is not None:
            return []
        if not self._is_kept:
            hint = [(title, "pytest --vmm-keep saves the guest as it is now")]
            return hint if machine is self.machines[0] else []
        folder = _free(machine.folder / KEPT)
        try:
            with machine.picture() as snapshot:
                snapshot.save(folder)
        except (VmmError, OSError) as error:
            return [(title, f"the guest can't be saved: {error}")]
        shell = " --shell" if machine.config.agent else ""
        return [(title, f"vmm restore {shlex.quote(str(folder))}{shell}")]

    def look_again(self) -> None:
        """It will have said more by then."""
        self._seen.clear()
        self._patience_s = _DMESG_S

    def end(self, machine: TestMachine, *, failed: bool) -> None:
        """Close it. Of forks, of which there may be thousands, a report has the last.

        Hypothesis ends with the smallest that fails.
        """
        if failed:
            self.look(machine)
        machine.close()
        if machine in self._forks:
            self._forks.remove(machine)
            self._ended.append(machine)
        while len(self._ended) > _ENDED_FORKS:
            forgotten = self._ended.pop(0)
            self.machines.remove(forgotten)
            self._seen.pop(forgotten, None)
            forgotten.discard()

    def stop(self, detail: str) -> None:
        """End all that run; those that are kept are saved before that."""
        for machine in list(self.machines):
            self.look(machine)
        super().stop(detail)


def _free(path: Path) -> Path:
    """`path`, or `path`-2 and so on: the first that isn't there."""
    names = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(free for free in chain([path], names) if not free.exists())


def _kernel_log(machine: TestMachine, timeout: float) -> list[tuple[str, str]]:
    """What the kernel has said since the clone was made, also what no console shows."""
    if machine.result is not None or not machine.config.agent or timeout <= 0:
        return []
    log = ""
    with suppress(VmmError, OSError, SubprocessError):  # there may be no dmesg
        done = machine.guest.run("dmesg", timeout=timeout, errors="replace")
        log = printable(done.stdout).rpartition(KERNEL_MARK)[2]
    lines = log[-LAST_BYTES:].splitlines()[-LAST_LINES:]
    if not lines:
        return []
    text = "\n".join(f"  {line}" for line in lines)
    return [("kernel log since it was cloned", text)]
