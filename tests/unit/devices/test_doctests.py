"""The examples in docstrings do what they say."""

import doctest
from types import ModuleType

import pytest

from vmm.devices.bus import io_manager
from vmm.devices.pc import i8042
from vmm.devices.serial import uart
from vmm.devices.virtio import device


@pytest.mark.parametrize("module", [io_manager, i8042, uart, device])
def test_examples(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
