"""VirtioMmio: a virtio device behind registers at an address of its own.

For kernels that have no PCI. They are told of it by ACPI, or on their command line.
Source: VIRTIO 1.3, section 4.2; Linux drivers/virtio/virtio_mmio.c.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

from ..acpi_device import AcpiDevice
from ..device_io import DeviceIo
from ..doorbell import Doorbell
from ..resources import (
    DeviceResources,
    LegacyIrqConstraint,
    MmioAddressConstraint,
    ResourceConstraint,
)
from ..state import State
from .device import VirtioDevice
from .queue import Virtqueue
from .registers import Area, Registers, TransportState

if TYPE_CHECKING:
    from ..clock import Clock
    from ..guest_ram import GuestRam
    from ..trigger import Interrupt

MAGIC: Final = int.from_bytes(b"virt", "little")
VERSION: Final = 2
VENDOR: Final = int.from_bytes(b"MVMM", "little")

MAGIC_VALUE: Final = 0x000
VERSION_NUMBER: Final = 0x004
DEVICE_ID: Final = 0x008
VENDOR_ID: Final = 0x00C
DEVICE_FEATURES: Final = 0x010
DEVICE_FEATURES_SEL: Final = 0x014
DRIVER_FEATURES: Final = 0x020
DRIVER_FEATURES_SEL: Final = 0x024
QUEUE_SEL: Final = 0x030
QUEUE_SIZE_MAX: Final = 0x034
QUEUE_SIZE: Final = 0x038
QUEUE_READY: Final = 0x044
QUEUE_NOTIFY: Final = 0x050
INTERRUPT_STATUS: Final = 0x060
INTERRUPT_ACK: Final = 0x064
STATUS: Final = 0x070
QUEUE_DESC_LOW: Final = 0x080
QUEUE_DESC_HIGH: Final = 0x084
QUEUE_DRIVER_LOW: Final = 0x090
QUEUE_DRIVER_HIGH: Final = 0x094
QUEUE_DEVICE_LOW: Final = 0x0A0
QUEUE_DEVICE_HIGH: Final = 0x0A4
SHM_LEN_LOW: Final = 0x0B0
SHM_BASE_HIGH: Final = 0x0BC
QUEUE_RESET: Final = 0x0C0
CONFIG_GENERATION: Final = 0x0FC
CONFIG: Final = 0x100

SIZE: Final = 0x200
"""Of the registers, unless the configuration space is larger than what is left."""

USED_BUFFER: Final = 1  # of INTERRUPT_STATUS
CONFIG_CHANGE: Final = 2

_LOW: Final = (1 << 32) - 1
_ADDRESSES: "Final[dict[int, tuple[Area, int]]]" = {
    QUEUE_DESC_LOW: ("desc", 0),
    QUEUE_DESC_HIGH: ("desc", 32),
    QUEUE_DRIVER_LOW: ("driver", 0),
    QUEUE_DRIVER_HIGH: ("driver", 32),
    QUEUE_DEVICE_LOW: ("device", 0),
    QUEUE_DEVICE_HIGH: ("device", 32),
}


class VirtioMmioState(TransportState, kw_only=True):
    """And what of its interrupts the driver has not acknowledged."""

    interrupt_status: Annotated[int, range((USED_BUFFER | CONFIG_CHANGE) + 1)]


class VirtioMmio(DeviceIo):
    """`device`, whose rings are in `ram`, at an address and an interrupt of its own.

    The interrupt is an edge for each notification, at which the driver reads what it
    was for. With `by_acpi` ACPI's tables have it, else the kernel's command line has.
    Accesses to registers are of 32 bits, aligned: others read all
    ones and write nothing. In the configuration space any are right.
    """

    def __init__(
        self,
        device: VirtioDevice,
        ram: "GuestRam",
        clock: "Clock",
        *,
        by_acpi: bool = True,
    ) -> None:
        self.device = device
        self.own_thread = device.own_thread
        self.registers = Registers(device, ram, clock)
        self._by_acpi = by_acpi
        self._interrupt_status = 0
        # Apart from the device's: its driver's handler isn't to wait for its queues.
        self._interrupt_lock = threading.Lock()
        device.transport = self
        self._readers = self._make_readers()
        self._writers = self._make_writers()

    # What it needs, and how it is found

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        needed = CONFIG + len(self.device.config())
        size = max(SIZE, 1 << (needed - 1).bit_length())
        return [MmioAddressConstraint(size=size, align=size), LegacyIrqConstraint()]

    def assign_resources(
        self, resources: DeviceResources, interrupts: "Sequence[Interrupt]"
    ) -> None:
        super().assign_resources(resources, interrupts)
        if not interrupts:  # unplugged
            self.reset()

    def get_acpi_devices(self) -> Sequence[AcpiDevice]:
        if not self._by_acpi:
            return []
        return [AcpiDevice("LNRO0005", self.get_assigned_resources())]

    def get_kernel_parameters(self) -> Sequence[str]:
        """For CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES, unless it is found by ACPI."""
        if self._by_acpi:
            return []
        ((base, size),) = self.get_assigned_resources().get_mmio_address_ranges()
        irq = self.get_assigned_resources().get_legacy_irq()
        return [f"virtio_mmio.device={size}@{base:#x}:{irq}"]

    def get_doorbells(self) -> Sequence[Doorbell]:
        ((base, _),) = self.get_assigned_resources().get_mmio_address_ranges()
        return [
            Doorbell(
                base=base + QUEUE_NOTIFY,
                size=4,
                value=queue.index,
                on_ring=partial(self.device.serve, queue),
                eventfd=self.device.kick_fd(queue),
            )
            for queue in self.device.queues
        ]

    def get_author_device(self) -> VirtioDevice:
        return self.device

    def get_report(self) -> str:
        return self.device.get_report()

    # Interrupts, as the device's Transport

    def interrupt_queue(self, _: Virtqueue) -> None:
        self._interrupt(USED_BUFFER)

    def interrupt_config(self) -> None:
        self._interrupt(CONFIG_CHANGE)

    def serve_again(self, queue: Virtqueue) -> None:
        self.registers.serve_again(queue, self.call_soon)

    def _interrupt(self, why: int) -> None:
        with self._interrupt_lock:
            self._interrupt_status |= why
        for interrupt in self.interrupts:
            interrupt.trigger()

    def _acknowledge(self, why: int) -> None:
        with self._interrupt_lock:
            self._interrupt_status &= ~why

    # Accesses

    def read(self, base: int, offset: int, data: memoryview) -> None:
        if offset >= CONFIG:
            with self.device.lock:
                self.registers.read_config(offset - CONFIG, data)
        elif len(data) != 4 or offset % 4:
            data[:] = b"\xff" * len(data)
        elif offset == INTERRUPT_STATUS:
            data[:] = self._interrupt_status.to_bytes(4, "little")
        else:
            reader = self._readers.get(offset)
            with self.device.lock:
                value = _LOW if reader is None else reader()
            data[:] = value.to_bytes(4, "little")

    def write(self, base: int, offset: int, data: memoryview) -> None:
        if offset >= CONFIG:
            with self.device.lock:
                self.registers.write_config(offset - CONFIG, data)
            return
        writer = self._writers.get(offset)
        if writer is None or len(data) != 4:
            return
        value = int.from_bytes(data, "little")
        if offset == INTERRUPT_ACK:
            self._acknowledge(value)
            return
        with self.device.lock:
            writer(value)

    def _make_readers(self) -> dict[int, Callable[[], int]]:
        registers = self.registers

        def size_max() -> int:
            return 0 if registers.queue is None else registers.queue.max_size

        readers: dict[int, Callable[[], int]] = {
            MAGIC_VALUE: lambda: MAGIC,
            VERSION_NUMBER: lambda: VERSION,
            DEVICE_ID: lambda: self.device.device_type,
            VENDOR_ID: lambda: VENDOR,
            DEVICE_FEATURES: registers.read_device_features,
            QUEUE_SIZE_MAX: size_max,
            QUEUE_READY: lambda: registers.is_queue_enabled,
            STATUS: lambda: registers.status,
            QUEUE_RESET: lambda: 0,  # it is over by the time that it was written
            CONFIG_GENERATION: lambda: registers.generation,
        }
        no_shared_memory = range(SHM_LEN_LOW, SHM_BASE_HIGH + 4, 4)
        return readers | dict.fromkeys(no_shared_memory, lambda: _LOW)

    def _make_writers(self) -> dict[int, Callable[[int], None]]:
        registers = self.registers
        writers: dict[int, Callable[[int], None]] = {
            DEVICE_FEATURES_SEL: partial(setattr, registers, "device_feature_select"),
            DRIVER_FEATURES: registers.write_driver_features,
            DRIVER_FEATURES_SEL: partial(setattr, registers, "driver_feature_select"),
            QUEUE_SEL: partial(setattr, registers, "queue_select"),
            QUEUE_SIZE: registers.write_queue_size,
            QUEUE_READY: self._write_ready,
            QUEUE_NOTIFY: registers.kick,
            INTERRUPT_ACK: self._acknowledge,
            STATUS: self._write_status,
            QUEUE_RESET: self._write_queue_reset,
        }
        for offset, (area, shift) in _ADDRESSES.items():
            writers[offset] = partial(self._write_address, area, shift)
        return writers

    def _write_address(self, area: Area, shift: int, value: int) -> None:
        self.registers.write_queue_address(area, value << shift, _LOW << shift)

    def _write_ready(self, value: int) -> None:
        if value & 1:
            self.registers.enable_queue()
        else:
            self.registers.disable_queue()

    def _write_queue_reset(self, value: int) -> None:
        if value & 1:
            self.registers.reset_queue()

    def _write_status(self, value: int) -> None:
        if value == 0:
            self.reset()
        else:
            self.registers.write_status(value)

    # Reset and state

    def reset(self) -> None:
        with self.device.lock:
            self.registers.reset()
            self._acknowledge(USED_BUFFER | CONFIG_CHANGE)

    def state(self) -> VirtioMmioState:
        with self.device.lock:
            return self.registers.state_of(
                VirtioMmioState, interrupt_status=self._interrupt_status
            )

    def restore(self, state: State | None) -> None:
        with self.device.lock:
            new = self.registers.restore(self.state(), state)
            with self._interrupt_lock:
                self._interrupt_status = new.interrupt_status
            self.registers.go_on()
        if new.interrupt_status:
            for interrupt in self.interrupts:
                interrupt.trigger()
