"""A PCI bus behind its host bridge, with real buses of accesses, and drivers for it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final

from support.plain_ram import PlainRam
from support.serial_rig import CountingTrigger
from vmm.devices.bus.io_manager import IoManager, IoManagerContext
from vmm.devices.bus.resource_manager import PoolLayout, ResourceManager
from vmm.devices.device_io import DeviceIo
from vmm.devices.errors import DeviceOverlap, InvalidState, TriggerError
from vmm.devices.pci.bar import Bar, BarKind
from vmm.devices.pci.bus import PciBus
from vmm.devices.pci.device import BarDoorbell, PciDevice
from vmm.devices.pci.host_bridge import PciHostBridge
from vmm.devices.pci.reg import (
    PCI_BASE_ADDRESS_0,
    PCI_CAPABILITY_LIST,
    PCI_CLASS_PROG,
    PCI_COMMAND,
    PCI_COMMAND_IO,
    PCI_COMMAND_MEMORY,
    PCI_DEVICE_ID,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
    PCI_VENDOR_ID,
)
from vmm.devices.pci.windows import PciWindows
from vmm.devices.record import Record
from vmm.devices.resources import Resource
from vmm.devices.state import State

ECAM: Final = 0xE000_0000
WINDOWS: Final = PciWindows(
    io=(0xC000, 0xFFFF),
    mem32=(0xE010_0000, 0xEFFF_FFFF),
    mem64=(0x60_0000_0000, 0x7F_FFFF_FFFF),
)
RAM_SIZE: Final = 0x10000


class MessageLine(CountingTrigger):
    """An interrupt of either kind: what it was sent to, and how often it was."""

    def __init__(self) -> None:
        super().__init__()
        self.routes: list[tuple[int, int]] = []
        self.together: Callable[[], AbstractContextManager[None]] = nullcontext
        self.heard: set[int] = set()

    def listen(self, eventfd: int) -> None:
        self.heard.add(eventfd)

    def unlisten(self, eventfd: int) -> None:
        self.heard.discard(eventfd)

    def route(self, address: int, data: int) -> None:
        if not address:
            raise TriggerError("nothing is there")
        self.routes.append((address, data))


class ScratchState(State):
    """What was written last."""

    last: tuple[int, int, int]


class Scratch(PciDevice):
    """A BAR of each kind, whose reads give the BAR's number, and every interrupt."""

    vendor_id = 0x1234
    device_id = 0x5678
    class_code = 0x088001
    revision = 3
    subsystem_vendor_id = 0x4321
    subsystem_id = 0x8765
    bars = (
        Bar(0, 0x4000, BarKind.MEM64, prefetchable=True),
        Bar(2, 0x20, BarKind.IO),
        Bar(3, 0x10_0000),
    )
    msix_vectors = 5
    msi_vectors = 4
    uses_intx = True

    def __init__(self) -> None:
        super().__init__()
        self.last = (0, 0, 0)
        self.rings: list[int] = []

    def read_bar(self, bar: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([bar]) * len(data)

    def write_bar(self, bar: int, offset: int, data: memoryview) -> None:
        self.last = bar, offset, data[0]

    def get_bar_doorbells(self) -> Iterable[BarDoorbell]:
        for bar, offset in (0, 0x10), (2, 4):
            ring = partial(self.rings.append, bar)
            yield BarDoorbell(bar=bar, offset=offset, size=2, on_ring=ring)

    def reset_device(self) -> None:
        self.last = (0, 0, 0)

    def device_state(self) -> ScratchState:
        return ScratchState(self.last)

    def restore_device(self, state: State) -> None:
        last = ScratchState.of(state).last
        if last[0] not in range(6):
            raise InvalidState(f"BAR {last[0]} is none")
        self.last = last

    @property
    def messages(self) -> list[MessageLine]:
        """The lines of MSI-X, then of MSI."""
        return [line for line in self.interrupts[:-1] if isinstance(line, MessageLine)]

    @property
    def line(self) -> MessageLine:
        line = self.interrupts[-1]
        assert isinstance(line, MessageLine)
        return line


class PciRig:
    """A machine's PCI bus. `moves` are the calls of remap, and what came of them."""

    def __init__(self, *devices: PciDevice, has_ecam: bool = True) -> None:
        self.io = IoManager()
        self.ram = PlainRam(RAM_SIZE)
        self.moves: list[tuple[list[Resource], list[Resource], bool]] = []
        self.resets = CountingTrigger()
        self.bus = PciBus(WINDOWS, self._remap, self.ram)
        self._resources = ResourceManager(PoolLayout(msi=((24, 4095),)))
        ecam = ECAM if has_ecam else None
        self.bridge = PciHostBridge(self.bus, self.resets, ecam)
        self.plug(self.bridge)
        for device in devices:
            self.bus.attach(device)
            self.plug(device)

    def plug(self, device: DeviceIo) -> None:
        """As a machine's device manager does."""
        constraints = device.get_resource_constraints()
        resources = self._resources.allocate_device_resources(constraints)
        lines = [MessageLine() for _ in resources.get_interrupts()]
        device.assign_resources(resources, lines)
        self.io.register_device_io(device, device.get_trapped_io_resources())

    def _remap(
        self, device: DeviceIo, before: Sequence[Resource], after: Sequence[Resource]
    ) -> bool:
        context = IoManagerContext(self.io)
        moved = True
        try:
            with context.transaction() as tx:
                context.unregister_device_io(tx, before)
                context.register_device_io(tx, device, after)
        except DeviceOverlap:
            moved = False
        self.moves.append((list(before), list(after), moved))
        return moved

    # The guest

    def inb(self, port: int, size: int = 1) -> int:
        data = bytearray(size)
        self.io.pio_read(port, memoryview(data))
        return int.from_bytes(data, "little")

    def outb(self, port: int, value: int, size: int = 1) -> None:
        self.io.pio_write(port, memoryview(bytearray(value.to_bytes(size, "little"))))

    def load(self, address: int, size: int = 4) -> int:
        data = bytearray(size)
        self.io.mmio_read(address, memoryview(data))
        return int.from_bytes(data, "little")

    def store(self, address: int, value: int, size: int = 4) -> None:
        data = bytearray(value.to_bytes(size, "little"))
        self.io.mmio_write(address, memoryview(data))


class Function:
    """A driver's access to one function's configuration space, as Linux has it.

    By the ports as `pci_conf1_read`, or by the window; both look the same.
    """

    def __init__(self, rig: PciRig, slot: int, *, by_ports: bool = False) -> None:
        self.rig = rig
        self.slot = slot
        self.by_ports = by_ports

    def get(self, at: int, size: int = 4) -> int:
        if not self.by_ports:
            return self.rig.load(ECAM | self.slot << 15 | at, size)
        self.rig.outb(0xCF8, 1 << 31 | self.slot << 11 | at & ~3, 4)
        return self.rig.inb(0xCFC + (at & 3), size)

    def set(self, at: int, value: int, size: int = 4) -> None:
        if not self.by_ports:
            self.rig.store(ECAM | self.slot << 15 | at, value, size)
            return
        self.rig.outb(0xCF8, 1 << 31 | self.slot << 11 | at & ~3, 4)
        self.rig.outb(0xCFC + (at & 3), value, size)

    def command(self, bits: int) -> None:
        self.set(PCI_COMMAND, bits, 2)

    def capabilities(self) -> dict[int, int]:
        """Their offsets by their IDs, as `__pci_find_next_cap_ttl` walks."""
        if not self.get(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST:
            return {}
        found: dict[int, int] = {}
        at = self.get(PCI_CAPABILITY_LIST, 1)
        for _ in range(48):  # PCI_FIND_CAP_TTL
            if at < 0x40:
                break
            found[self.get(at, 1)] = at
            at = self.get(at + 1, 1) & ~3
        return found


class ProbedBar(Record):
    """What Linux makes of a BAR: `is_64` has taken the next register, too."""

    index: int
    base: int
    size: int
    is_io: bool
    is_64: bool
    is_prefetchable: bool


def probe_bars(function: Function) -> list[ProbedBar]:
    """As `pci_read_bases` in drivers/pci/probe.c: decoding off, sized, put back."""
    command = function.get(PCI_COMMAND, 2)
    function.command(command & ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY))
    bars: list[ProbedBar] = []
    index = 0
    while index < 6:
        bar = _probe_bar(function, index)
        if bar is not None:
            bars.append(bar)
        index += 2 if bar is not None and bar.is_64 else 1
    function.command(command)
    return bars


def _probe_bar(function: Function, index: int) -> ProbedBar | None:
    at = PCI_BASE_ADDRESS_0 + 4 * index
    value, sizing = _size_register(function, at)
    if sizing == 0:
        return None
    is_io = bool(value & 1)
    flag_bits = 0x3 if is_io else 0xF
    is_64 = not is_io and value & 0x6 == 0x4
    base, mask = value & ~flag_bits, sizing & ~flag_bits
    if is_64:
        high, high_mask = _size_register(function, at + 4)
        base, mask = base | high << 32, mask | high_mask << 32
    size = (mask & -mask) if not is_io else mask & 0xFFFF & -(mask & 0xFFFF)
    return ProbedBar(index, base, size, is_io, is_64, not is_io and bool(value & 0x8))


def _size_register(function: Function, at: int) -> tuple[int, int]:
    value = function.get(at)
    function.set(at, 0xFFFF_FFFF)
    sizing = function.get(at)
    function.set(at, value)
    return value, sizing


def enumerate_bus(rig: PciRig, *, by_ports: bool = False) -> dict[int, Function]:
    """The functions by their slots, as `pci_scan_slot` finds them."""
    found: dict[int, Function] = {}
    for slot in range(32):
        function = Function(rig, slot, by_ports=by_ports)
        if function.get(PCI_VENDOR_ID) not in (0xFFFF_FFFF, 0, 0xFFFF, 0xFFFF_0000):
            found[slot] = function
    return found


def identity(function: Function) -> tuple[int, int, int]:
    """Vendor, device and class."""
    return (
        function.get(PCI_VENDOR_ID, 2),
        function.get(PCI_DEVICE_ID, 2),
        function.get(PCI_CLASS_PROG - 1) >> 8,
    )
