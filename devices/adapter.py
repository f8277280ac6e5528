"""Adapter: what puts a chip on a bus: its resources, its interrupt lines."""

from collections.abc import Iterable, Sequence

from .device_io import DeviceIo
from .resources import DeviceResources, ResourceConstraint
from .trigger import Interrupt, InterruptLine


class Adapter(DeviceIo):
    """A chip's place: what it asks for, and where its interrupt lines go.

    A chip knows its registers and nothing else. It was given InterruptLines when it was
    made; its adapter connects them to what the resource manager found, and cuts them
    again when the device is unplugged.
    """

    def __init__(
        self,
        constraints: Iterable[ResourceConstraint],
        lines: Iterable[InterruptLine],
    ) -> None:
        self._constraints = tuple(constraints)
        self._lines = tuple(lines)

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return self._constraints

    def assign_resources(
        self, resources: DeviceResources, interrupts: Sequence[Interrupt]
    ) -> None:
        super().assign_resources(resources, interrupts)
        for at, line in enumerate(self._lines):
            line.connect(interrupts[at] if at < len(interrupts) else None)
