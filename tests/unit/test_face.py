"""`vmm`: every public name by one import."""

import pytest

import vmm
from vmm.place import Place


@pytest.mark.parametrize("name", vmm.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(vmm, name).__name__ == name


def test_what_a_configuration_keeps_is_of_a_public_type() -> None:
    assert vmm.Place is Place
    assert type(vmm.MachineConfig().console.serial) is vmm.Place
