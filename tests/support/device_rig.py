"""A DeviceManager with what it manages, and a VM that keeps what it was told."""

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from vmm.devices.acpi_device import AcpiDevice
from vmm.devices.bus.io_manager import IoManager
from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.device_io import DeviceIo
from vmm.devices.doorbell import Doorbell
from vmm.devices.errors import ResourceError
from vmm.devices.resources import (
    DeviceResources,
    LegacyIrqConstraint,
    MmioAddressConstraint,
    PioAddressConstraint,
    ResourceConstraint,
)
from vmm.errors import KvmError
from vmm.event_loop import EventLoop
from vmm.kvm.abi import KVM_IRQ_ROUTING_MSI, kvm_irq_routing_entry
from vmm.machine.device_manager import DeviceManager
from vmm.vcpu.control import RunControl

if TYPE_CHECKING:
    from vmm.devices.trigger import Interrupt
    from vmm.kvm.vm import Vm
    from vmm.machine.video_window import VideoWindow

PORT = 0x500
CONSTRAINTS = (
    PioAddressConstraint.at(PORT, 4),
    MmioAddressConstraint(size=0x1000, align=0x1000),
    LegacyIrqConstraint(irq=5),
)


class Device(DeviceIo):
    """Notes the flow it goes through."""

    def __init__(self, constraints: Sequence[ResourceConstraint] = CONSTRAINTS) -> None:
        self.constraints = constraints
        self.calls: list[str] = []

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        self.calls.append("constraints")
        return self.constraints

    def assign_resources(
        self, resources: DeviceResources, interrupts: "Sequence[Interrupt]"
    ) -> None:
        self.calls.append("assign")
        super().assign_resources(resources, interrupts)

    def get_trapped_io_resources(self) -> DeviceResources:
        self.calls.append("trapped")
        return super().get_trapped_io_resources()

    def get_acpi_devices(self) -> Sequence[AcpiDevice]:
        return [AcpiDevice("ABCD0001", self.get_assigned_resources())]

    def reset(self) -> None:
        self.calls.append("reset")


class FakeVm:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bool]] = []
        self.refuses_lines = False
        self.irqfds: dict[int, int] = {}
        self.cut: list[int] = []
        self.ioeventfds: dict[int, Doorbell] = {}
        self.refuses_ioeventfds = False
        self.tables: list[Sequence[kvm_irq_routing_entry]] = []
        self.refuses_tables = False
        self.coalesced: list[int] = []

    def assign_irqfd(self, eventfd: int, gsi: int) -> None:
        os.fstat(eventfd)  # it is open
        self.irqfds[eventfd] = gsi

    def deassign_irqfd(self, eventfd: int, gsi: int) -> None:
        os.fstat(eventfd)
        assert self.irqfds.pop(eventfd) == gsi
        self.cut.append(gsi)

    def set_irq_line(self, gsi: int, high: bool) -> None:
        if self.refuses_lines:
            raise KvmError(errno.ENXIO, "KVM_IRQ_LINE failed: no line")
        self.lines.append((gsi, high))

    def set_gsi_routing(self, routes: Sequence[kvm_irq_routing_entry]) -> None:
        if self.refuses_tables:
            raise KvmError(errno.EINVAL, "Invalid argument")
        self.tables.append(routes)

    @property
    def messages(self) -> dict[int, tuple[int, int]]:
        """Address and data by GSI, as the last table has them."""
        return {
            route.gsi: (
                route.u.msi.address_hi << 32 | route.u.msi.address_lo,
                route.u.msi.data,
            )
            for route in self.tables[-1]
            if route.type == KVM_IRQ_ROUTING_MSI
        }

    def assign_ioeventfd(self, eventfd: int, bell: Doorbell) -> None:
        os.fstat(eventfd)
        if self.refuses_ioeventfds:
            raise KvmError(errno.ENOSPC, "No space left on device")
        places = [(other.base, other.value) for other in self.ioeventfds.values()]
        assert (bell.base, bell.value) not in places, "KVM says EEXIST"
        self.ioeventfds[eventfd] = bell

    def deassign_ioeventfd(self, eventfd: int, bell: Doorbell) -> None:
        os.fstat(eventfd)
        assert self.ioeventfds.pop(eventfd) == bell

    def register_coalesced_pio(self, port: int) -> None:
        self.coalesced.append(port)

    def unregister_coalesced_pio(self, port: int) -> None:
        self.coalesced.remove(port)


class FakeVideo:
    """Counts who has claimed video memory."""

    def __init__(self) -> None:
        self.claims = 0
        self.renewals = 0

    def open(self) -> None:
        self.claims += 1

    def close(self) -> None:
        self.claims -= 1

    def renew(self) -> None:
        self.renewals += 1


class Rig:
    """A DeviceManager with what it manages."""

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.resources = ResourceManager()
        self.bus = IoManager()
        self.control = RunControl()
        self.manager = DeviceManager(
            self.resources, self.bus, loop, self.control, posts=True
        )
        self.vm = FakeVm()
        self.video = FakeVideo()

    def power_on(self) -> None:
        self.manager.power_on(cast("Vm", self.vm), cast("VideoWindow", self.video))

    @property
    def is_empty(self) -> bool:
        """Whether the whole of CONSTRAINTS can be had, and nobody is on the bus."""
        try:
            given = self.resources.allocate_device_resources(CONSTRAINTS)
        except ResourceError:
            return False
        self.resources.free_device_resources(given)
        return self.bus == IoManager()
