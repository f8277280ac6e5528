"""Debian's fio on our disks: what it writes, it verifies."""

import os
from pathlib import Path

import pytest
from support import fio
from support.debian import FetchError
from support.guests import kernel

pytestmark = [
    pytest.mark.linux,
    pytest.mark.foreign("fio"),
]

SECONDS = 3


@pytest.mark.parametrize("how", ["", ",cow", ",cache=writethrough"])
def test_fio_verifies(tmp_path: Path, how: str) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, fio.SIZE)
    try:
        result = fio.verify(f"{image}{how}", SECONDS, 1, kernel("full"))
    except FetchError as error:
        pytest.skip(f"no network? {error}")
    assert result.guest_status == 0, (result.detail, result.output, result.report)
    found = fio.figures(result)
    assert found["errors"] == 0
    assert found["reads"] > 0
    assert found["writes"] > 0
