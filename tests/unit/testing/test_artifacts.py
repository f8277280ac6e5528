"""Where a machine's files go."""

import threading
from pathlib import Path

from vmm.testing.artifacts import LONGEST, folder_for, new_folder


def test_every_machine_has_a_folder_of_its_own_whoever_asks(tmp_path: Path) -> None:
    wanted = tmp_path / "test_it.py" / "TestX"
    made: list[Path] = []

    def ask() -> None:
        for _ in range(5):
            made.append(new_folder(wanted))  # noqa: PERF401

    workers = [threading.Thread(target=ask) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    names = {"TestX", *(f"TestX-{number}" for number in range(2, 21))}
    assert {folder.name for folder in made} == names
    assert sorted(made) == sorted(wanted.parent.iterdir())


def test_a_folder_has_its_tests_name_and_none_is_outside(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "tests/test_x.py::TestX::test_y[a-1]")
    assert folder == tmp_path / "tests/test_x.py/TestX.test_y[a-1]"
    odd = folder_for(tmp_path, f"../test_x.py::test[{'x/..' * LONGEST}]")
    assert odd.parent == tmp_path / "test_x.py"
    assert len(odd.name) < 2 * LONGEST
