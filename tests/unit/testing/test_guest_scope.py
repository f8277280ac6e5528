"""What a report asks of guests, which may not answer."""

import subprocess
import time
from pathlib import Path

import pytest

from vmm.testing import guest
from vmm.testing.guest import GuestScope


class Hung:
    """A guest whose agent says nothing; `asked` are the times that it was given."""

    asked: list[float]
    result = None

    def __init__(self) -> None:
        self.config = self.guest = self
        self.agent = True

    def run(self, command: str, *, timeout: float, errors: str) -> None:
        self.asked.append(timeout)
        time.sleep(timeout)
        raise subprocess.TimeoutExpired(command, timeout)


def test_guests_that_hang_have_a_time_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guest, "_DMESG_S", 0.2)
    monkeypatch.setattr(Hung, "asked", [], raising=False)
    scope = GuestScope("guest", tmp_path, None, None, is_kept=False)  # type: ignore[arg-type]
    scope.machines += [Hung() for _ in range(5)]  # type: ignore[misc]
    for machine in scope.machines:
        scope.look(machine)
    assert Hung.asked == [0.2]
    scope.look_again()  # another test begins
    scope.look(scope.machines[0])
    assert Hung.asked == [0.2, 0.2]
