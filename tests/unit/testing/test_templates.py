"""Each guest is booted once; needs no KVM."""

import io
import weakref
from pathlib import Path

import pytest

from vmm.errors import ExpectTimeout, ImageError
from vmm.machine.snapshot import Snapshot
from vmm.testing import description, templates
from vmm.testing.description import FileHashes, described
from vmm.testing.store import Store
from vmm.testing.templates import NotReady, Surroundings, Templates


class FakeSnapshot:
    """Keeps how often it was closed."""

    closed = 0

    def save(self, path: Path) -> None:
        path.mkdir()

    def close(self) -> None:
        self.closed += 1


class FakeMachine:
    """Comes up, unless `error` is set."""

    boots = 0
    error: Exception | None = None

    def __init__(self, config: object, folder: Path) -> None:
        self.console = self

    def __enter__(self) -> "FakeMachine":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    close = __exit__

    def start(self) -> None:
        type(self).boots += 1

    def expect(self, pattern: object, timeout: float) -> None:
        if self.error is not None:
            raise self.error

    def snapshot(self) -> FakeSnapshot:
        return FakeSnapshot()

    def describe(self) -> str:
        return "console: Kernel panic"


class World:
    """Runs of pytest that share a cache; `warnings` are what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self.runs = 0
        self.wanted = described({"ready": "up", "kernel": folder / "vmlinux"}, {})
        (folder / "vmlinux").touch()
        (folder / "cache").mkdir()

    def run(self, run: int | None = None, **changes: object) -> Templates:
        """One process of a run of its own, or of that `run`."""
        self.runs += 1
        run_folder = self.folder / f"run-{run or self.runs}"
        run_folder.mkdir(exist_ok=True)
        around = Surroundings(
            store=Store(self.folder / "cache", 1 << 30),
            files=FileHashes(),
            run_folder=run_folder,
            is_fresh=False,
            deadline_s=60,
            show=pytest.fail,
            warn=self.warnings.append,
        )
        return Templates(around.replace(**changes))

    def get(self, of: Templates) -> Snapshot:
        return of.get(self.wanted, self.folder / "boot")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(description, "_host", lambda: ("this",))
    monkeypatch.setattr(templates, "TestMachine", FakeMachine)
    monkeypatch.setattr(FakeMachine, "boots", 0)
    monkeypatch.setattr(FakeMachine, "error", None)
    load = lambda path: FakeSnapshot()  # noqa: E731
    monkeypatch.setattr(Snapshot, "load", load, raising=False)
    return World(tmp_path)


def test_a_guest_is_booted_once_for_all_runs(world: World) -> None:
    first = world.run()
    assert world.get(first) is world.get(first)
    world.get(world.run())
    assert FakeMachine.boots == 1
    assert not world.warnings


def test_without_a_cache_it_is_booted_once_a_process(world: World) -> None:
    first = world.run(store=None)
    assert world.get(first) is world.get(first)
    world.get(world.run(store=None))
    assert FakeMachine.boots == 2


def test_vmm_fresh_boots_it_anew_once_a_run(world: World) -> None:
    world.get(world.run())
    world.get(world.run(run=7, is_fresh=True))
    world.get(world.run(run=7, is_fresh=True))  # another of xdist's workers
    assert FakeMachine.boots == 2


def test_one_that_does_not_come_up_is_booted_once_a_run(world: World) -> None:
    FakeMachine.error = ExpectTimeout("no 'up' within 60 s; it ends:\n...")
    first, second = world.run(run=7), world.run(run=7)
    for process in (first, first, second):
        with pytest.raises(NotReady) as raised:
            world.get(process)
        assert str(raised.value).splitlines() == [
            "the guest doesn't come up: no 'up' within 60 s",
            "console: Kernel panic",
        ]
    assert FakeMachine.boots == 1
    FakeMachine.error = None
    world.get(world.run())
    assert FakeMachine.boots == 2


def test_what_its_console_says_needs_no_locale(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeMachine.error = ExpectTimeout("no 'up'")
    monkeypatch.setattr(FakeMachine, "describe", lambda _: "console: gr\u00fc\u00df")
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")
    for process in (world.run(run=7), world.run(run=7)):
        with pytest.raises(NotReady, match="console: gr\u00fc\u00df"):
            world.get(process)


def test_one_that_is_damaged_is_made_anew_with_a_warning(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path) -> None:
        raise ImageError(f"{path}: it is cut short")

    world.get(world.run())
    monkeypatch.setattr(Snapshot, "load", load)
    world.get(world.run())
    assert FakeMachine.boots == 2
    [warning] = world.warnings
    assert "it is cut short" in warning


def test_one_that_cannot_be_kept_is_used_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: object, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FakeSnapshot, "save", save)
    world.get(world.run())
    [warning] = world.warnings
    assert "isn't kept for the next run: [Errno 28] No space left" in warning


def test_a_cache_that_cannot_be_written_to_is_done_without(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Store, "_lock", open_)
    process = world.run()
    assert world.get(process) is world.get(process)
    [warning] = world.warnings
    assert "isn't kept for the next run: [Errno 30] Read-only file" in warning


def test_few_are_held_in_memory_and_none_is_booted_again(world: World) -> None:
    process = world.run()
    first = weakref.ref(world.get(process))
    for number in range(8):
        assert first() is not None
        settings = {"ready": "up", "kernel": world.folder / "vmlinux"}
        process.get(
            described(settings | {"append": f"{number}"}, {}), world.folder / "boot"
        )
    assert first() is None
    world.get(process)
    assert FakeMachine.boots == 9


def test_all_are_closed_at_the_end(world: World) -> None:
    process = world.run()
    snapshot = world.get(process)
    process.close()
    process.close()
    assert isinstance(snapshot, FakeSnapshot)
    assert snapshot.closed == 1
