"""Debian's stress-ng in our full kernel: what it does, it verifies."""

from pathlib import Path

import pytest
from foreign import FetchError
from guests import built
from stress_ng import KERNEL, STRESSORS, stress

from scripts.with_kvm.host_kvm import host_kvm

pytestmark = [
    pytest.mark.linux,
    pytest.mark.long,
    pytest.mark.foreign("stress-ng"),
]

SECONDS = 5


@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng_verifies(stressor: str, tmp_path: Path) -> None:
    kernel = built(KERNEL if host_kvm().kind == "pvm" else "vmlinux-full")
    try:
        result = stress(stressor, SECONDS, kernel, tmp_path)
    except FetchError as error:
        pytest.skip(f"no network? {error}")
    assert result.guest_status == 0, (result.detail, result.output, result.report)
