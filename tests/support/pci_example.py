"""The PCI device and the driver of examples/."""

import importlib.util
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

from vmm.devices.pci.device import PciDevice

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
DEVICE: Final = EXAMPLES / "pci_device.py"
DRIVER: Final = EXAMPLES / "pci_driver.c"
IDENTITY: Final = "1234:0c32"


@cache
def example() -> ModuleType:
    """The module, imported once: the class of a state is the same each time."""
    spec = importlib.util.spec_from_file_location("pci_device", DEVICE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summer() -> PciDevice:
    """A new device of the example's."""
    device: PciDevice = example().Summer()
    return device


def build_program(source: Path, folder: Path) -> bytes:
    """A static program for Linux, whose name is its source's without ".c"."""
    program = folder / source.stem
    flags = "-static -O2 -s -Wall -Werror".split()
    subprocess.run(["gcc", *flags, "-o", program, source], check=True)
    return program.read_bytes()
