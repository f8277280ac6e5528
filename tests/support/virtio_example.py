"""The virtio device of examples/."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "virtio_device.py"


@cache
def example() -> ModuleType:
    """The module, imported once: the class of a state is the same each time."""
    spec = importlib.util.spec_from_file_location("virtio_device", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ram_disk(sectors: int) -> Any:  # noqa: ANN401, a class of the example's
    """A new device of the example's."""
    return example().RamDisk(sectors)
