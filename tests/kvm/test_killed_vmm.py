"""kill -9 of a VMM whose guest writes: what a flush has promised is there."""

from pathlib import Path

import pytest
from support.killed_vmm import KINDS, kill_often

pytestmark = pytest.mark.linux

SEED = 19


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_promised_is_there_after_a_kill(kind: str, tmp_path: Path) -> None:
    kill_often(KINDS[kind], 3, tmp_path, SEED)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_after_many(kind: str, tmp_path: Path) -> None:
    kill_often(KINDS[kind], 20, tmp_path, SEED + 1)
