"""VmGenerationId: 128 bits that tell a guest that it isn't the only one it was.

They are in its RAM, and are others each time it goes on from what others may go on
from, too; then an interrupt says so, and it stirs its random numbers. There is no
register. Sources: Microsoft, "Virtual Machine Generation ID" (2012); Linux
drivers/virt/vmgenid.c, which looks for the IDs, and takes the notification.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..acpi_device import AcpiDevice
from ..device_io import DeviceIo
from ..resources import DeviceResources, LegacyIrqConstraint, ResourceConstraint
from ..state import State, refuse_state

if TYPE_CHECKING:
    from ..guest_ram import GuestRam

GENERATION_IRQ: Final = 23
"""The IOAPIC's last pin, where no ISA device is: its driver has it by ACPI alone."""
GENERATION_ID_SIZE: Final = 16
NAME: Final = "VM_Gen_Counter"
_LOW: Final = (1 << 32) - 1


def _random_id() -> bytes:
    return os.urandom(GENERATION_ID_SIZE)


class VmGenerationId(DeviceIo):
    """The ID at `address`, a multiple of 8 in a page that the guest has no use for.

    It has a new one from `new_id` when it is made, with each reset and each restore.
    """

    def __init__(
        self,
        ram: "GuestRam",
        address: int,
        new_id: Callable[[], bytes] = _random_id,
    ) -> None:
        self._ram = ram
        self._address = address
        self._new_id = new_id
        self.reset()

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [LegacyIrqConstraint(irq=GENERATION_IRQ)]

    def get_acpi_devices(self) -> Sequence[AcpiDevice]:
        """Known by what it is compatible with: Hyper-V's two names for it."""
        return [
            AcpiDevice(
                "MVMM0001",
                DeviceResources(),
                compatible=(NAME, "VMGENCTR"),
                description=NAME,
                packages={"ADDR": (self._address & _LOW, self._address >> 32)},
                events=self.get_assigned_resources(),
            )
        ]

    def reset(self) -> None:
        """A machine that boots again is another one."""
        self._ram.write(self._address, self._new_id())

    def restore(self, state: State | None) -> None:
        """So is one that goes on from a snapshot, and has to be told.

        What was raised before is nothing to keep: it is raised here, once.
        """
        refuse_state(self, state)
        self.reset()
        for interrupt in self.interrupts:
            interrupt.trigger()
