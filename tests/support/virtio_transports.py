"""Drivers of the two transports of a VirtioDevice: registers by their common names."""

from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from support.pci_rig import Function, MessageLine, PciRig
from support.plain_ram import PlainRam
from support.serial_rig import CountingTrigger
from support.virtio_driver import Request, VirtioDriver
from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.clock import VirtualClock
from vmm.devices.device_io import DeviceIo
from vmm.devices.guest_ram import GuestRam
from vmm.devices.pci.reg import (
    PCI_BASE_ADDRESS_0,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_VNDR,
    PCI_CAPABILITY_LIST,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_TABLE,
)
from vmm.devices.resources import DeviceResources
from vmm.devices.virtio.device import VirtioDevice
from vmm.devices.virtio.mmio import VirtioMmio
from vmm.devices.virtio.pci import (
    COMMON_CFG,
    DEVICE_CFG,
    ISR_CFG,
    NOTIFY_CFG,
    PCI_CFG,
    VirtioPci,
)

ACKNOWLEDGE: Final = 1
DRIVER: Final = 2
DRIVER_OK: Final = 4
FEATURES_OK: Final = 8
NEEDS_RESET: Final = 64
FAILED: Final = 128
VERSION_1: Final = 1 << 32

RAM_SIZE: Final = 0x40000
SLOT: Final = 3  # of a PCI bus
QUEUES_AT_MOST: Final = 8  # have memory of their own
REGION: Final = 0x4000
"""Of RAM for each queue and its buffers; that of queue 0 begins here."""

AREAS: Final = ("desc", "driver", "device")

Event = Literal["used", "config"]


class TransportDriver:
    """What a driver does to one device; heirs know where its registers are.

    `registers`: offset and size by their names in VIRTIO 1.3's `struct
    virtio_pci_common_cfg`; 64 bits are in two halves, `_lo` and `_hi`.
    """

    registers: ClassVar[dict[str, tuple[int, int]]]
    transport: DeviceIo

    def __init__(self, device: VirtioDevice, ram: GuestRam | None = None) -> None:
        self.device = device
        self.ram: GuestRam = ram or PlainRam(RAM_SIZE)
        self.clock = VirtualClock()
        self.told: list[str] = []
        self.features = VERSION_1
        self.rings: dict[int, VirtioDriver] = {}
        device.on_trouble = self.told.append

    def plug(self, transport: DeviceIo) -> None:
        self.transport = transport
        constraints = transport.get_resource_constraints()
        resources = ResourceManager().allocate_device_resources(constraints)
        self.lines = [CountingTrigger() for _ in resources.get_interrupts()]
        transport.assign_resources(resources, self.lines)

    def reset_machine(self) -> None:
        """And find the device again."""
        self.transport.reset()

    def unplug(self) -> None:
        """As a machine does."""
        self.transport.assign_resources(DeviceResources(), [])

    # For heirs

    def load(self, offset: int, size: int) -> bytes:
        raise NotImplementedError

    def store(self, offset: int, data: bytes) -> None:
        raise NotImplementedError

    def read_config(self, offset: int, size: int) -> bytes:
        raise NotImplementedError

    def write_config(self, offset: int, data: bytes) -> None:
        raise NotImplementedError

    def kick(self, queue: int) -> None:
        raise NotImplementedError

    def events(self) -> set[Event]:
        """What the driver was interrupted for since this was called last."""
        raise NotImplementedError

    @property
    def stray_kicks(self) -> int:
        raise NotImplementedError

    # For tests

    def get(self, name: str) -> int:
        return int.from_bytes(self.load(*self.registers[name]), "little")

    def set(self, name: str, value: int) -> None:
        offset, size = self.registers[name]
        self.store(offset, value.to_bytes(size, "little"))

    @property
    def status(self) -> int:
        return self.get("device_status")

    @status.setter
    def status(self, value: int) -> None:
        self.set("device_status", value)

    def offered(self) -> int:
        """All 64 bits of the device's features."""
        return self._features("device")

    def _features(self, whose: str) -> int:
        words = []
        for select in (0, 1):
            self.set(f"{whose}_feature_select", select)
            words.append(self.get(f"{whose}_feature"))
        return words[0] | words[1] << 32

    def accept(self, features: int) -> None:
        """Write 64 bits of features."""
        for select in (0, 1):
            self.set("driver_feature_select", select)
            self.set("driver_feature", features >> 32 * select & 0xFFFF_FFFF)

    def negotiate(self, features: int = VERSION_1) -> None:
        """From a reset to FEATURES_OK."""
        self.features = features
        self.status = 0
        self.status = ACKNOWLEDGE
        self.status |= DRIVER
        self.accept(features)
        self.status |= FEATURES_OK

    def set_up(self, queue: int, size: int = 4) -> None:
        """Give a queue a ring, and enable it."""
        self.set("queue_select", queue)
        self.set("queue_size", size)
        at = REGION * (1 + queue % QUEUES_AT_MOST)
        region = range(at, at + REGION)
        ring = VirtioDriver.make(self.ram, region, max(size % 64, 1), self.features)
        self.rings[queue] = ring
        for area, address in zip(AREAS, ring.areas, strict=True):
            self.set(f"queue_{area}_lo", address)
            self.set(f"queue_{area}_hi", 0)
        self.set("queue_enable", 1)

    def send(
        self, queue: int, readable: Sequence[bytes], writable: Sequence[int] = ()
    ) -> Request:
        """Have a request made available, and kick if the device wants that."""
        request = self.rings[queue].send(readable, writable)
        if self.rings[queue].needs_kick():
            self.kick(queue)
        return request

    def start(self, features: int = VERSION_1) -> None:
        """All that a driver does until its device is ready."""
        self.negotiate(features)
        for queue in range(len(self.device.queues)):
            self.set_up(queue)
        self.status |= DRIVER_OK


class MmioDriver(TransportDriver):
    """Of VirtioMmio."""

    registers: ClassVar = {
        "device_feature_select": (0x14, 4),
        "device_feature": (0x10, 4),
        "driver_feature_select": (0x24, 4),
        "driver_feature": (0x20, 4),
        "device_status": (0x70, 4),
        "config_generation": (0xFC, 4),
        "queue_select": (0x30, 4),
        "queue_size_max": (0x34, 4),
        "queue_size": (0x38, 4),
        "queue_enable": (0x44, 4),
        "queue_desc_lo": (0x80, 4),
        "queue_desc_hi": (0x84, 4),
        "queue_driver_lo": (0x90, 4),
        "queue_driver_hi": (0x94, 4),
        "queue_device_lo": (0xA0, 4),
        "queue_device_hi": (0xA4, 4),
        "queue_reset": (0xC0, 4),
    }

    def __init__(self, device: VirtioDevice, ram: GuestRam | None = None) -> None:
        super().__init__(device, ram)
        self._mmio = VirtioMmio(device, self.ram, self.clock)
        self.plug(self._mmio)
        self._seen_edges = 0

    def load(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        self.transport.read(0, offset, memoryview(data))
        return bytes(data)

    def store(self, offset: int, data: bytes) -> None:
        self.transport.write(0, offset, memoryview(data))

    def read_config(self, offset: int, size: int) -> bytes:
        return self.load(0x100 + offset, size)

    def write_config(self, offset: int, data: bytes) -> None:
        self.store(0x100 + offset, data)

    def kick(self, queue: int) -> None:
        self.store(0x50, queue.to_bytes(4, "little"))

    def events(self) -> set[Event]:
        edges, self._seen_edges = self._seen_edges, self.lines[0].edges
        if edges == self.lines[0].edges:
            return set()
        pending = self.load(0x60, 4)
        self.store(0x64, pending)
        names: list[Event] = ["used", "config"]
        return {name for bit, name in enumerate(names) if pending[0] >> bit & 1}

    @property
    def stray_kicks(self) -> int:
        return self._mmio.registers.stray_kicks


class PciDriver(TransportDriver):
    """Of VirtioPci: it finds its way by capabilities, and takes MSI-X, or INTx."""

    registers: ClassVar = {
        "device_feature_select": (0x00, 4),
        "device_feature": (0x04, 4),
        "driver_feature_select": (0x08, 4),
        "driver_feature": (0x0C, 4),
        "config_msix_vector": (0x10, 2),
        "num_queues": (0x12, 2),
        "device_status": (0x14, 1),
        "config_generation": (0x15, 1),
        "queue_select": (0x16, 2),
        "queue_size_max": (0x18, 2),
        "queue_size": (0x18, 2),
        "queue_msix_vector": (0x1A, 2),
        "queue_enable": (0x1C, 2),
        "queue_notify_off": (0x1E, 2),
        "queue_desc_lo": (0x20, 4),
        "queue_desc_hi": (0x24, 4),
        "queue_driver_lo": (0x28, 4),
        "queue_driver_hi": (0x2C, 4),
        "queue_device_lo": (0x30, 4),
        "queue_device_hi": (0x34, 4),
        "queue_reset": (0x3A, 2),
    }
    takes_messages = True

    def __init__(self, device: VirtioDevice, ram: GuestRam | None = None) -> None:
        super().__init__(device, ram)
        self.pci = self.transport = VirtioPci(device, self.ram, self.clock, slot=SLOT)
        self.rig = PciRig(self.pci)
        self.function = Function(self.rig, SLOT)
        self.lines = [it for it in self.pci.interrupts if isinstance(it, MessageLine)]
        self._seen = [line.edges for line in self.lines]
        self._find()

    def reset_machine(self) -> None:
        super().reset_machine()
        self._find()

    def _find(self) -> None:
        self.function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
        self.places = self._find_places()
        if self.takes_messages:
            self._set_up_messages()

    def _find_places(self) -> dict[int, tuple[int, int]]:
        """Address and size of each structure, by cfg_type."""
        function, found = self.function, {}
        at = function.get(PCI_CAPABILITY_LIST, 1)
        while at:
            if function.get(at, 1) == PCI_CAP_ID_VNDR:
                kind, bar = function.get(at + 3, 1), function.get(at + 4, 1)
                base = function.get(PCI_BASE_ADDRESS_0 + 4 * bar) & ~0xF
                offset, size = function.get(at + 8), function.get(at + 12)
                found[kind] = base + offset, size
                if kind == NOTIFY_CFG:
                    self.multiplier = function.get(at + 16)
                if kind == PCI_CFG:
                    self.window = at
            at = function.get(at + 1, 1)
        return found

    def _set_up_messages(self) -> None:
        at = self.function.capabilities()[PCI_CAP_ID_MSIX]
        where = self.function.get(at + PCI_MSIX_TABLE)
        table = self.function.get(PCI_BASE_ADDRESS_0 + 4 * (where & 7)) & ~0xF
        for vector in range(len(self.lines) - 1):
            entry = table + 16 * vector
            self.rig.store(entry, 0xFEE0_0000)
            self.rig.store(entry + 8, 0x40 + vector)
            self.rig.store(entry + 12, 0)  # not masked
        self.function.set(at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2)

    def negotiate(self, features: int = VERSION_1) -> None:
        super().negotiate(features)
        if self.takes_messages:
            self.set("config_msix_vector", 0)

    def set_up(self, queue: int, size: int = 4) -> None:
        if self.takes_messages:
            self.set("queue_select", queue)
            self.set("queue_msix_vector", 1 + queue & 0xFFFF)
        super().set_up(queue, size)

    def _load(self, kind: int, offset: int, size: int) -> bytes:
        data = bytearray(size)
        self.rig.io.mmio_read(self.places[kind][0] + offset, memoryview(data))
        return bytes(data)

    def _store(self, kind: int, offset: int, data: bytes) -> None:
        self.rig.io.mmio_write(self.places[kind][0] + offset, memoryview(data))

    def load(self, offset: int, size: int) -> bytes:
        return self._load(COMMON_CFG, offset, size)

    def store(self, offset: int, data: bytes) -> None:
        self._store(COMMON_CFG, offset, data)

    def read_config(self, offset: int, size: int) -> bytes:
        return self._load(DEVICE_CFG, offset, size)

    def write_config(self, offset: int, data: bytes) -> None:
        self._store(DEVICE_CFG, offset, data)

    def kick(self, queue: int) -> None:
        self._store(NOTIFY_CFG, self.multiplier * queue, queue.to_bytes(2, "little"))

    def events(self) -> set[Event]:
        before, self._seen = self._seen, [line.edges for line in self.lines]
        news = map(int.__sub__, self._seen, before)
        config, *queues, _ = news
        found: set[Event] = set()
        if config:
            found.add("config")
        if any(queues):
            found.add("used")
        return found

    @property
    def stray_kicks(self) -> int:
        return self.pci.registers.stray_kicks


class IntxDriver(PciDriver):
    """Of VirtioPci, without MSI-X: a line, and the ISR status says what for."""

    takes_messages = False

    def events(self) -> set[Event]:
        if not self.lines[-1].is_high:
            return set()
        (isr,) = self._load(ISR_CFG, 0, 1)
        assert not self.lines[-1].is_high
        names: list[Event] = ["used", "config"]
        return {name for bit, name in enumerate(names) if isr >> bit & 1}


DRIVERS: Final[dict[str, type[TransportDriver]]] = {
    "mmio": MmioDriver,
    "pci": PciDriver,
    "pci, INTx": IntxDriver,
}
