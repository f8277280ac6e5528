"""Where booted guests are kept for other processes, and later runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmm.machine.snapshot import Snapshot
from vmm.testing import store
from vmm.testing.store import Entry, Store

DEADLINE = 60


class Saved:
    """Stands for a Snapshot: a file of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def save(self, path: Path) -> None:
        path.mkdir()
        (path / "memory").write_bytes(b"x" * self.size)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(Snapshot, "load", str, raising=False)
    monkeypatch.setattr(store, "PATIENCE_S", 0)
    return Store(tmp_path, limit=100 << 10)


def put(kept: Store, key: str, size: int = 40 << 10) -> None:
    with kept.entry(key, DEADLINE, pytest.fail) as entry:
        entry.save(Saved(size))  # type: ignore[arg-type]
        os.utime(entry.folder, ns=(0, len(list(kept.folder.iterdir()))))


def names(kept: Store) -> list[str]:
    return sorted(path.name for path in kept.folder.iterdir() if path.is_dir())


def test_what_is_saved_is_there_and_what_was_there_before_is_gone(kept: Store) -> None:
    with kept.entry("k", DEADLINE, pytest.fail) as entry:
        assert entry.load() is None
        entry.folder.mkdir()
        (entry.folder / "leftover").touch()  # of one that was killed
        entry.save(Saved(1))  # type: ignore[arg-type]
        assert entry.load() == str(entry.folder / "snapshot")  # type: ignore[comparison-overlap]
        assert [path.name for path in entry.folder.iterdir()] == ["snapshot"]
        assert entry.folder.stat().st_mode & 0o777 == 0o700


def test_the_one_used_longest_ago_goes_first(kept: Store) -> None:
    for key in "abc":
        put(kept, key)
    with kept.entry("a", DEADLINE, pytest.fail) as entry:
        entry.load()
    kept.shrink()
    assert names(kept) == ["a", "c"]
    assert not (kept.folder / "b.lock").exists()


def test_one_that_was_not_kept_leaves_no_lock(kept: Store) -> None:
    with kept.entry("k", DEADLINE, pytest.fail) as entry:
        assert entry.load() is None
    assert not [*kept.folder.iterdir()]


def test_what_another_removes_at_the_same_time_is_passed_over(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "abc":
        put(kept, key)
    is_dir = Path.is_dir

    def removed_then(path: Path) -> bool:
        found = is_dir(path)
        if path.name == "b" and found:
            (path / "snapshot/memory").unlink()
            (path / "snapshot").rmdir()
            path.rmdir()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", removed_then)
        kept.shrink()
    assert names(kept) == ["a", "c"]


def test_one_in_use_stays(kept: Store) -> None:
    for key in "abc":
        put(kept, key)
    with kept.entry("a", DEADLINE, pytest.fail) as entry:
        kept.shrink()
        assert entry.folder.exists()
    assert names(kept) == ["a", "c"]


def test_a_key_has_one_user_and_the_others_wait_and_say_so(kept: Store) -> None:
    waits: list[None] = []
    with (
        kept.entry("k", DEADLINE, pytest.fail),
        pytest.raises(TimeoutError, match=r"boots this guest for 0\.2 s already"),
        kept.entry("k", 0.2, lambda: waits.append(None)),
    ):
        pytest.fail("two are in it")
    assert waits == [None]


def test_a_user_that_dies_leaves_it_free(kept: Store) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from vmm.testing.store import Store\n"
        "with Store(Path(sys.argv[1]), 0).entry('k', 1, lambda: None):\n"
        "    print('in', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(kept.folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        with pytest.raises(TimeoutError), kept.entry("k", 0, pytest.fail):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait(DEADLINE)
    with kept.entry("k", DEADLINE, pytest.fail) as entry:
        assert isinstance(entry, Entry)
