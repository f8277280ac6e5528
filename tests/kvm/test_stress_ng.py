"""Debian's stress-ng in our full kernel: what it does, it verifies."""

from pathlib import Path

import pytest
from support.debian import FetchError
from support.guests import kernel
from support.stress_ng import STRESSORS, stress

pytestmark = [
    pytest.mark.linux,
    pytest.mark.long,
    pytest.mark.foreign("stress-ng"),
]

SECONDS = 5


@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng_verifies(stressor: str, tmp_path: Path) -> None:
    try:
        result = stress(stressor, SECONDS, kernel("full"), tmp_path)
    except FetchError as error:
        pytest.skip(f"no network? {error}")
    assert result.guest_status == 0, (result.detail, result.output, result.report)
