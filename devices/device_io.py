"""DeviceIo: what a device shows to the bus. dbs-device's traits in Python.

Deriving from :class:`DeviceIo` is all a device needs: override the accesses it
answers and the constraints it has. The rest has defaults that do nothing.
"""

from typing import TYPE_CHECKING

from .resources import DeviceResources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .resources import ResourceConstraint
    from .trigger import Trigger


class DeviceIo:
    """A device that is safe to call from several vCPU threads at once.

    An access names the `base` of the trapped range that was hit, the `offset`
    into it, and `data`: 1, 2, 4 or 8 bytes, little-endian, that lie wholly
    within the range. A read must fill all of `data`, which is only valid
    during the call. Nothing a guest passes may make an access raise: a device
    that raises ends the run, as the bug of ours or of the user's that it is.
    """

    resources: "DeviceResources | None" = None
    interrupts: "Sequence[Trigger]" = ()

    def read(self, base: int, offset: int, data: memoryview) -> None:
        """MMIO read of `len(data)` bytes at `base + offset`. Default: all ones."""
        data[:] = b"\xff" * len(data)

    def write(self, base: int, offset: int, data: memoryview) -> None:
        """MMIO write of `data` at `base + offset`. Default: ignored."""

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        """Port read of `len(data)` bytes at `base + offset`. Default: all ones."""
        data[:] = b"\xff" * len(data)

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        """Port write of `data` at `base + offset`. Default: ignored."""

    def get_resource_constraints(self) -> "Sequence[ResourceConstraint]":
        """What the device needs allocated before it can be registered."""
        return ()

    def assign_resources(
        self, resources: "DeviceResources", interrupts: "Sequence[Trigger]"
    ) -> None:
        """Take what was allocated, and one Trigger per interrupt in its order."""
        self.resources = resources
        self.interrupts = interrupts

    def get_assigned_resources(self) -> "DeviceResources":
        """All resources assigned to the device; none before the assignment."""
        return self.resources or DeviceResources()

    def get_trapped_io_resources(self) -> "DeviceResources":
        """The PIO and MMIO ranges to be trapped. Default: the assigned ones."""
        return self.get_assigned_resources()

    def reset(self) -> None:
        """Return to the power-on state: the machine is about to boot again."""
