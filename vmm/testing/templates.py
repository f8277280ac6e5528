"""Templates: the guests that tests' guests are clones of, each booted once."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vmm.console.config import ConsoleConfig
from vmm.devices.record import Record
from vmm.errors import VmmError

from .description import Description, FileHashes
from .store import Entry, Store
from .test_machine import TestMachine

if TYPE_CHECKING:
    from vmm.machine.snapshot import Snapshot

KERNEL_MARK: Final = "minivmm: tests go on from here\n"
NOT_KEPT: Final = "the booted guest isn't kept for the next run"
_HELD: Final = 8  # in memory, where the store has the others
_WAITS: Final = "vmm: waits for another process, which boots the guest"


class NotReady(VmmError):
    """The guest that tests are to have clones of doesn't come up, as is shown."""


class Surroundings(Record):
    """What Templates need of a run of pytest.

    `store` is None where nothing is kept. In `run_folder` processes of one run leave
    each other notes. `deadline_s` is for a boot; `show` and `warn` tell people.
    """

    store: Store | None
    files: FileHashes
    run_folder: Path
    is_fresh: bool
    deadline_s: float
    show: Callable[[str], None]
    warn: Callable[[str], None]


class Templates:
    """Finds a description's snapshot: here, in the store, or by a boot."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._snapshots: dict[str, Snapshot] = {}
        self._failures: dict[str, str] = {}

    def get(self, description: Description, folder: Path) -> "Snapshot":
        """The snapshot; the console of a boot goes into `folder`.

        Raises NotReady, without a second boot if one was in vain, ConfigError, OSError.
        """
        key = description.key(self._around.files)
        snapshot = self._snapshots.pop(key, None)
        if snapshot is None:
            snapshot = self._find(key, description, folder)
        self._snapshots[key] = snapshot  # the last, now
        if len(self._snapshots) > _HELD and self._around.store is not None:
            # Not closed: whoever has guests of it may make more.
            del self._snapshots[next(iter(self._snapshots))]
        return snapshot

    def close(self) -> None:
        """Let go of all."""
        while self._snapshots:
            self._snapshots.popitem()[1].close()

    def _find(self, key: str, description: Description, folder: Path) -> "Snapshot":
        if key in self._failures:
            raise NotReady(self._failures[key])
        with ExitStack() as stack:
            entry = self._enter(key, stack)
            if entry is None:
                return self._boot(key, description, folder)
            snapshot = self._load(key, entry)
            if snapshot is None:
                snapshot = self._boot(key, description, folder)
                self._save(key, snapshot, entry)
            return snapshot

    def _enter(self, key: str, stack: ExitStack) -> Entry | None:
        """Its place in the store, until `stack` ends; None where nothing is kept."""
        around = self._around
        if around.store is None:
            return None
        entering = around.store.entry(key, around.deadline_s, self._on_wait)
        try:
            return stack.enter_context(entering)
        except TimeoutError as error:
            raise self._failed(key, str(error)) from None
        except OSError as error:
            around.warn(f"{NOT_KEPT}: {error}")
            return None

    def _on_wait(self) -> None:
        self._around.show(_WAITS)

    def _load(self, key: str, entry: Entry) -> "Snapshot | None":
        with suppress(FileNotFoundError):
            raise self._failed(key, self._note(key, "failure").read_text("utf-8"))
        if self._around.is_fresh and not self._note(key, "fresh").exists():
            return None
        try:
            return entry.load()
        except (VmmError, OSError) as error:
            self._around.warn(
                f"a kept guest can't be used, and is booted anew: {error}"
            )
            return None

    def _save(self, key: str, snapshot: "Snapshot", entry: Entry) -> None:
        store = self._around.store
        assert store is not None
        try:
            entry.save(snapshot)
            self._note(key, "fresh").touch()
            store.shrink()
        except (VmmError, OSError) as error:
            self._around.warn(f"{NOT_KEPT}: {error}")

    def _boot(self, key: str, description: Description, folder: Path) -> "Snapshot":
        config = description.config.replace(
            console=ConsoleConfig(serial="capture"),
            debugcon=None if description.config.debugcon is None else "null",
            ports={name: "null" for name, _ in description.config.ports},
            timeout=self._around.deadline_s,
            on_reset="exit",
            on_panic="exit",
            on_crash="exit",
        )
        with TestMachine(config, folder) as machine:
            for make in description.devices:
                machine.plug(make())
            machine.start()
            try:
                if description.ready is not None:
                    machine.console.expect(description.ready, self._around.deadline_s)
                if config.agent:
                    machine.guest.wait_ready(self._around.deadline_s)
                    _mark_kernel_log(machine)
                return machine.snapshot()
            except (VmmError, TimeoutError) as error:
                machine.close()
                why = str(error).splitlines()[0].removesuffix("; it ends:")
                text = f"the guest doesn't come up: {why}\n{machine.describe()}"
                raise self._failed(key, text) from None

    def _failed(self, key: str, text: str) -> NotReady:
        """Nobody else in this run is to boot it in vain."""
        self._failures[key] = text
        with suppress(OSError):
            self._note(key, "failure").write_text(text, "utf-8")
        return NotReady(text)

    def _note(self, key: str, kind: str) -> Path:
        return self._around.run_folder / f"vmm-{kind}-{key}"


def _mark_kernel_log(machine: TestMachine) -> None:
    """So that a report has none of the boot; not on the console."""
    with suppress(VmmError, OSError):  # it may have no /dev/kmsg
        machine.guest.write_text("/dev/kmsg", f"<7>{KERNEL_MARK}")
