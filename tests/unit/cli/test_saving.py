"""`--save`: the thread that saves; the rest is in tests/kvm/test_saved_snapshot.py."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vmm import VmmError
from vmm.cli.options import Options
from vmm.cli.saving import Saver
from vmm.place import Place
from vmm.result import ExitReason, RunResult

ENDED = RunResult(ExitReason.RESET, 0)


class Machine:
    """Says how its snapshots are taken."""

    def __init__(self, snapshot: Callable[[], None]) -> None:
        self.snapshot = snapshot
        self.config = self
        self.console = self

    def own_exit_code(self, code: int) -> int:
        return code

    def reader(self) -> object:
        raise VmmError("it is closed")


def saver(path: Path, snapshot: Callable[[], None]) -> Saver:
    options = Options(
        save=path, save_when="x", quiet=False, serial=Place("stdio"), debug=False
    )
    made = Saver(options)
    made.connect(Machine(snapshot))  # type: ignore[arg-type]
    made.finish(ENDED)
    return made


def test_no_signal_goes_to_the_thread_that_saves(tmp_path: Path) -> None:
    masks: list[set[int]] = []

    def snapshot() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        raise VmmError("enough")

    made = saver(tmp_path / "s", snapshot)
    made.save_soon()
    assert made.finish(ENDED).exit_code == 1
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= masks[0]


def test_where_there_can_be_no_thread_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = saver(tmp_path / "s", lambda: None)
    capsys.readouterr()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    made.save_soon()  # on the event loop's thread: it is not to raise
    assert capsys.readouterr().err == (
        "vmm: error: not saved: vmm-save: can't start new thread\n"
    )
