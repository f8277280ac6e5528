"""`vmm.devices`: every public name by one import, and nothing loaded for it."""

import subprocess
import sys

import pytest

import vmm.devices
from vmm.devices.pc.i8042 import I8042Device
from vmm.devices.serial import Serial
from vmm.devices.state import Byte, Nanoseconds


@pytest.mark.parametrize(
    "name", sorted({*vmm.devices.__all__} - {"Byte", "Nanoseconds"})
)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(vmm.devices, name).__name__ == name


def test_kinds_of_numbers_are_there() -> None:
    assert vmm.devices.Byte is Byte
    assert vmm.devices.Nanoseconds is Nanoseconds


def test_it_is_the_same_thing_as_in_its_own_module() -> None:
    assert vmm.devices.Serial is Serial
    assert vmm.devices.I8042Device is I8042Device


def test_all_and_dir_have_what_there_is() -> None:
    assert set(vmm.devices.__all__) == set(vmm.devices._HOMES)
    assert set(vmm.devices.__all__) <= set(dir(vmm.devices))


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match=r"'vmm\.devices' has no attribute 'Ne2k'"):
        vmm.devices.Ne2k  # type: ignore[attr-defined]  # noqa: B018


def test_importing_it_imports_no_device() -> None:
    script = (
        "import sys, vmm.devices; print(*(m for m in sys.modules if 'vmm.' in m)); "
        "vmm.devices.Doorbell; print('vmm.devices.serial' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded, has_serial = done.stdout.splitlines()
    assert set(loaded.split()) == {"vmm.devices"}
    assert has_serial == "False"
