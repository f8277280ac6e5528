"""Adapter: what puts a chip on a bus: its resources, its interrupt lines."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from .device_io import DeviceIo
from .resources import DeviceResources, ResourceConstraint
from .trigger import Interrupt, InterruptLine

if TYPE_CHECKING:
    from .state import State


class Chip(Protocol):
    """What any chip has, whatever its registers are like; see DeviceIo."""

    def reset(self) -> None:
        """Return to the power-on state."""

    def state(self) -> "State | None":
        """All that a guest could tell of it; None if it keeps nothing."""

    def restore(self, state: "State | None") -> None:
        """Go on from what `state` gave. Raises InvalidState for anything else."""


class Adapter(DeviceIo):
    """A chip's place: what it asks for, and where its interrupt lines go.

    A chip knows its registers and nothing else. It was given InterruptLines when it was
    made; its adapter connects them to what the resource manager found, and cuts them
    again when the device is unplugged.
    """

    def __init__(
        self,
        chip: Chip,
        constraints: Iterable[ResourceConstraint],
        lines: Iterable[InterruptLine],
    ) -> None:
        self._chip = chip
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

    def reset(self) -> None:
        self._chip.reset()

    def state(self) -> "State | None":
        return self._chip.state()

    def restore(self, state: "State | None") -> None:
        self._chip.restore(state)
