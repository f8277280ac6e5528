"""IoManager: the PIO bus and the MMIO bus, from a guest's access to its device.

Readers take no lock. All registrations live in one table that never changes
once it is published; registering builds another and swaps the reference, so an
access sees a change wholly or not at all. An access that was dispatched just
before the swap may still be inside a device that has been unregistered: a VMM
waits until it is out before it takes anything from the device.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from ..device_io import DeviceIo
from ..errors import (
    DeviceOverlap,
    InvalidDevice,
    NoDevice,
    TransactionConflict,
    TransactionError,
)
from ..fast_port import FastPort, FastPorts
from ..resources import MmioAddressRange, PioAddressRange, Resource

# Stray places that `on_stray` is told of; a guest must not make us grow.
MAX_REPORTED_STRAYS: Final = 1024
_PAGE_SHIFT: Final = 12

OnStray: TypeAlias = Callable[[str, int, int, bool], None]
_Access: TypeAlias = Callable[[int, int, memoryview], None]
# base, end, read, write, device: a plain tuple unpacks fastest. The methods are
# bound once, at registration.
_Entry: TypeAlias = tuple[int, int, _Access, _Access, DeviceIo]
_Span: TypeAlias = "tuple[_Bus, int, int]"


class _Bus:
    """Disjoint ranges, sorted by base."""

    __slots__ = ("bases", "entries", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.bases: list[int] = []
        self.entries: list[_Entry] = []

    def copy(self) -> "_Bus":
        bus = _Bus(self.name)
        bus.bases = self.bases.copy()
        bus.entries = self.entries.copy()
        return bus

    def find(self, address: int) -> _Entry | None:
        index = bisect_right(self.bases, address) - 1
        if index >= 0 and address < self.entries[index][1]:
            return self.entries[index]
        return None

    def insert(self, entry: _Entry) -> None:
        base, end, _, _, device = entry
        index = bisect_left(self.bases, base)
        for base_at, end_at, _, _, other in self.entries[max(index - 1, 0) : index + 1]:
            if base < end_at and base_at < end:
                raise DeviceOverlap(
                    f"{self.name} {base:#x}..{end - 1:#x} of {_name(device)} overlaps "
                    f"{base_at:#x}..{end_at - 1:#x} of {_name(other)}"
                )
        self.bases.insert(index, base)
        self.entries.insert(index, entry)

    def index(self, base: int, end: int) -> int:
        """Where exactly `base`..`end - 1` is. Raises NoDevice."""
        index = bisect_left(self.bases, base)
        if index == len(self.bases) or self.entries[index][:2] != (base, end):
            raise NoDevice(
                f"no device has {self.name} {base:#x}..{end - 1:#x} registered"
            )
        return index

    def remove(self, base: int, end: int) -> _Entry:
        index = self.index(base, end)
        del self.bases[index]
        return self.entries.pop(index)

    def ranges(self) -> list[tuple[int, int, int]]:
        return [(base, end, id(device)) for base, end, _, _, device in self.entries]


class _Table:
    """Both buses. Changed only before it is published."""

    __slots__ = ("fast", "mmio", "pio", "ports")

    def __init__(self) -> None:
        self.pio = _Bus("PIO")
        self.mmio = _Bus("MMIO")
        self.ports: dict[int, _Entry] = {}  # pio, by every port: O(1)
        self.fast: dict[int, FastPort] = {}

    def copy(self) -> "_Table":
        table = _Table()
        table.pio = self.pio.copy()
        table.mmio = self.mmio.copy()
        table.ports = self.ports.copy()
        table.fast = self.fast.copy()
        return table

    def add(self, device: DeviceIo, resources: Iterable[Resource]) -> None:
        """Add all trapped ranges, or raise and leave the table as it was."""
        if not isinstance(device, DeviceIo):
            raise InvalidDevice(
                f"{device!r} is not a DeviceIo: derive from it, or wrap a DeviceIoMut "
                "in Locked"
            )
        fast_ports = device.get_fast_ports()  # a user's code: it may raise
        done: list[_Span] = []
        try:
            for bus, base, end in self._trapped(resources):
                bus.insert(_entry(bus is self.pio, base, end, device))
                done.append((bus, base, end))
        except DeviceOverlap:
            for bus, base, end in done:
                bus.remove(base, end)
            raise
        for bus, base, end in done:
            if bus is self.pio:
                entry = bus.entries[bus.index(base, end)]
                self.ports.update(dict.fromkeys(range(base, end), entry))
        for port, fast in fast_ports.items():
            if port in self.ports and self.ports[port][4] is device:
                self.fast[port] = fast

    def discard(self, resources: Iterable[Resource]) -> None:
        """Remove all trapped ranges, or raise and leave the table as it was."""
        ranges = set(self._trapped(resources))
        for bus, base, end in ranges:
            bus.index(base, end)
        for bus, base, end in ranges:
            bus.remove(base, end)
            if bus is self.pio:
                for port in range(base, end):
                    del self.ports[port]
                    self.fast.pop(port, None)

    def _trapped(
        self, resources: Iterable[Resource]
    ) -> Iterator[tuple[_Bus, int, int]]:
        for resource in resources:
            if isinstance(resource, PioAddressRange):
                yield self.pio, resource.base, resource.base + resource.size
            elif isinstance(resource, MmioAddressRange):
                yield self.mmio, resource.base, resource.base + resource.size


class IoManager:
    """Dispatches accesses by range. `on_stray` is told once a port or MMIO page.

    What a guest does here never raises: an access that no device claims
    (counted in `unclaimed_accesses`), or that runs over the end of the range
    it starts in (`crossing_accesses`), reads all ones and writes nothing. What
    a device raises passes through; `device_at_port` and `device_at_address`
    tell whose it was. `on_stray(bus, address, size, is_write)` gets "PIO" or
    "MMIO" and runs on the vCPU's thread.

    >>> from vmm.devices import DeviceIo, IoManager, PioAddressRange
    >>> class Answer(DeviceIo):
    ...     def pio_read(self, base, offset, data):
    ...         data[0] = 42
    >>> bus = IoManager()
    >>> bus.register_device_io(Answer(), [PioAddressRange(0x500, 1)])
    >>> data = memoryview(bytearray(1))
    >>> bus.pio_read(0x500, data)
    >>> data[0]
    42
    """

    def __init__(self, on_stray: OnStray | None = None) -> None:
        self.on_stray = on_stray
        self.unclaimed_accesses = 0
        self.crossing_accesses = 0
        self._fast_ports = FastPorts({}, bytearray(1))
        self._publish(_Table())
        self._write_lock = threading.Lock()  # for those who replace _table
        self._stray_lock = threading.Lock()  # for the counters and _reported
        self._reported: set[tuple[str, int]] = set()

    def register_device_io(
        self, device: DeviceIo, resources: Iterable[Resource]
    ) -> None:
        """Trap every PIO and MMIO range of `resources` for `device`, or none.

        Other resources are ignored. Raises DeviceOverlap, which names both
        ranges and devices, and InvalidDevice; then nothing has changed.
        """
        with self._write_lock:
            table = self._table.copy()
            table.add(device, resources)
            self._publish(table)

    def unregister_device_io(self, resources: Iterable[Resource]) -> None:
        """Free every PIO and MMIO range of `resources`, or none.

        Raises NoDevice unless each is registered with exactly this base and
        size; then nothing has changed.
        """
        with self._write_lock:
            table = self._table.copy()
            table.discard(resources)
            self._publish(table)

    @property
    def fast_ports(self) -> FastPorts:
        """The fast ports as of now, and a flag that says when to ask again."""
        return self._fast_ports

    def _publish(self, table: _Table) -> None:
        """Let accesses see `table` from now on; last, tell who keeps its own copy."""
        before = self._fast_ports
        self._table = table
        self._fast_ports = FastPorts(table.fast, bytearray(1))
        before.replaced[0] = 1

    def pio_read(self, port: int, data: memoryview) -> None:
        """Fill `data` from `port` on."""
        entry = self._table.ports.get(port)
        if entry is not None:
            base, end, read, _, _ = entry
            if port + len(data) <= end:
                read(base, port - base, data)
                return
        data[:] = b"\xff" * len(data)
        self._stray("PIO", port, len(data), False)

    def pio_write(self, port: int, data: memoryview) -> None:
        """Write `data` to `port`."""
        entry = self._table.ports.get(port)
        if entry is not None:
            base, end, _, write, _ = entry
            if port + len(data) <= end:
                write(base, port - base, data)
                return
        self._stray("PIO", port, len(data), True)

    def mmio_read(self, address: int, data: memoryview) -> None:
        """Fill `data` from guest physical `address` on."""
        bus = self._table.mmio
        index = bisect_right(bus.bases, address) - 1
        if index >= 0:
            base, end, read, _, _ = bus.entries[index]
            if address + len(data) <= end:
                read(base, address - base, data)
                return
        data[:] = b"\xff" * len(data)
        self._stray("MMIO", address, len(data), False)

    def mmio_write(self, address: int, data: memoryview) -> None:
        """Write `data` to guest physical `address`."""
        bus = self._table.mmio
        index = bisect_right(bus.bases, address) - 1
        if index >= 0:
            base, end, _, write, _ = bus.entries[index]
            if address + len(data) <= end:
                write(base, address - base, data)
                return
        self._stray("MMIO", address, len(data), True)

    def device_at_port(self, port: int) -> DeviceIo | None:
        """The device that claims `port`, or None."""
        entry = self._table.ports.get(port)
        return entry[4] if entry else None

    def device_at_address(self, address: int) -> DeviceIo | None:
        """The device that claims guest physical `address`, or None."""
        entry = self._table.mmio.find(address)
        return entry[4] if entry else None

    def clone(self) -> "IoManager":
        """Another manager with the same devices; counters start at zero."""
        other = IoManager(self.on_stray)
        other._publish(self._table)  # shared until either replaces its own
        return other

    def __eq__(self, other: object) -> bool:
        """Whether the same devices are at the same ranges."""
        if not isinstance(other, IoManager):
            return NotImplemented
        mine, theirs = self._table, other._table
        return mine is theirs or (
            mine.pio.ranges() == theirs.pio.ranges()
            and mine.mmio.ranges() == theirs.mmio.ranges()
        )

    __hash__ = None  # type: ignore[assignment]  # mutable

    def _stray(self, bus: str, address: int, size: int, is_write: bool) -> None:
        if bus == "PIO":
            crossing = self.device_at_port(address) is not None
            place = bus, address
        else:
            crossing = self.device_at_address(address) is not None
            place = bus, address >> _PAGE_SHIFT
        with self._stray_lock:
            if crossing:
                self.crossing_accesses += 1
            else:
                self.unclaimed_accesses += 1
            full = len(self._reported) >= MAX_REPORTED_STRAYS
            if self.on_stray is None or full or place in self._reported:
                return
            self._reported.add(place)
        self.on_stray(bus, address, size, is_write)


class IoTransaction:
    """Changes that nobody sees yet. Made by `IoManagerContext.begin_tx`."""

    __slots__ = ("_base", "_table")

    def __init__(self, base: _Table) -> None:
        self._base = base
        self._table: _Table | None = base.copy()

    def _open_table(self) -> _Table:
        if self._table is None:
            raise TransactionError("the transaction is over: begin another")
        return self._table


class IoManagerContext:
    """Hotplug: several registrations that take effect in one instant.

    Transactions are optimistic: none waits for another, and of two that
    overlap in time the one that commits second raises TransactionConflict and
    changes nothing; begin it again. A transaction itself is for one thread.
    """

    def __init__(self, io_manager: IoManager) -> None:
        self.io_manager = io_manager

    def begin_tx(self) -> IoTransaction:
        """Start from what is registered now."""
        return IoTransaction(self.io_manager._table)

    def register_device_io(
        self, tx: IoTransaction, device: DeviceIo, resources: Iterable[Resource]
    ) -> None:
        """`IoManager.register_device_io`, seen by the guest after the commit."""
        tx._open_table().add(device, resources)

    def unregister_device_io(
        self, tx: IoTransaction, resources: Iterable[Resource]
    ) -> None:
        """`IoManager.unregister_device_io`, seen by the guest after the commit."""
        tx._open_table().discard(resources)

    def commit_tx(self, tx: IoTransaction) -> None:
        """Publish all of it. Raises TransactionConflict; ends `tx` either way."""
        table = tx._open_table()
        manager = self.io_manager
        tx._table = None
        with manager._write_lock:
            if manager._table is not tx._base:
                raise TransactionConflict(
                    "the buses have changed since the transaction began"
                )
            manager._publish(table)

    def cancel_tx(self, tx: IoTransaction) -> None:
        """Forget all of it."""
        tx._open_table()
        tx._table = None

    @contextmanager
    def transaction(self) -> Iterator[IoTransaction]:
        """Commit at the end of the ``with``; cancel if its body raises."""
        tx = self.begin_tx()
        try:
            yield tx
        except BaseException:
            self.cancel_tx(tx)
            raise
        self.commit_tx(tx)


def _entry(is_pio: bool, base: int, end: int, device: DeviceIo) -> _Entry:
    if is_pio:
        return base, end, device.pio_read, device.pio_write, device
    return base, end, device.read, device.write, device


def _name(device: DeviceIo) -> str:
    return type(device).__name__
