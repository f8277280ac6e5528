"""VcpuProfile: what one run loop calls, counted and timed.

It stands between the loop and KVM_RUN on one side, the buses on the other. A run
without a profile has none of this in its way.
"""

import heapq
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from ..devices.device_io import DeviceIo, Locked
from ..kvm.abi import (
    KVM_EXIT_IO,
    KVM_EXIT_MMIO,
    KVM_RUN_EXIT_REASON,
    KVM_RUN_UNION,
)
from ..vcpu.entry import Entry
from ..vcpu.run_loop import Bus

# A guest must not make us grow, whatever it touches.
MAX_PLACES: Final = 1024
MAX_LONGEST: Final = 2000
PAGE_MASK: Final = 0xFFF

# exit_reason, and in the union: direction, port; or phys_addr, is_write
_EXIT_IO: Final = Struct("<I20xBxH").unpack_from
_EXIT_MMIO: Final = Struct("<Q12xB").unpack_from

# The bus's method, the port or MMIO page, and whose it is. A plain tuple, for
# one is made per access. Address None: places that came after the first MAX_PLACES.
_Key: TypeAlias = tuple[str, int | None, DeviceIo | None]


class Place(NamedTuple):
    """Where an access went. `address` is a port, or that of a 4 KiB page of MMIO.

    None: any of the places that there was no more room to tell apart. `device` None:
    nobody's.
    """

    bus: str
    is_write: bool
    address: int | None
    device: str | None

    @property
    def name(self) -> str:
        """Such as "write port 0x3f8"."""
        verb = "write" if self.is_write else "read"
        kind = "port" if self.bus == "PIO" else "MMIO"
        where = "elsewhere" if self.address is None else f"{self.address:#x}"
        return f"{verb} {kind} {where}"


class Tally:
    """What was seen of one place.

    An exit of rep ins has several accesses; a write that KVM collected, no exit.
    """

    __slots__ = ("accesses", "exits", "longest_ns", "total_ns")

    def __init__(self) -> None:
        self.exits = 0
        self.accesses = 0
        self.total_ns = 0
        self.longest_ns = 0

    def add(self, other: "Tally") -> None:
        """Sum up."""
        self.exits += other.exits
        self.accesses += other.accesses
        self.total_ns += other.total_ns
        self.longest_ns = max(self.longest_ns, other.longest_ns)


class Slice(NamedTuple):
    """A stretch of a vCPU's time: in an access, or in guest and KVM."""

    start_ns: int
    duration_ns: int
    place: Place | None  # None: guest and KVM


class _Longest:
    """Keeps the longest of all stretches that it is shown."""

    def __init__(self) -> None:
        self.seen = 0
        self.least_ns = -1  # what is longer is kept
        self._heap: list[tuple[int, int, int, _Key | None]] = []

    def offer(self, duration_ns: int, start_ns: int, key: _Key | None) -> None:
        self.seen += 1  # and settles the order of what is equally long
        item = duration_ns, self.seen, start_ns, key
        if len(self._heap) < MAX_LONGEST:
            heapq.heappush(self._heap, item)
        elif duration_ns > self.least_ns:
            heapq.heapreplace(self._heap, item)
            self.least_ns = self._heap[0][0]

    def slices(self) -> list[Slice]:
        return [
            Slice(start, duration, _place(key) if key else None)
            for duration, _, start, key in self._heap
        ]

    @property
    def left_out(self) -> int:
        return self.seen - len(self._heap)


class VcpuProfile:
    """One vCPU's: the bus that its run loop dispatches to, and its entry to the guest.

    For one thread at a time. Times are in nanoseconds: `guest_ns` in KVM_RUN, which
    is the guest, KVM, and a halted vCPU's sleep; `device_ns` in accesses; `own_ns`
    in neither, but between them: the run loop and this.
    """

    # What a run loop asks of an entry: how many exits it doesn't get to see.
    served = collected = 0

    def __init__(self, index: int, now_ns: Callable[[], int]) -> None:
        self.index = index
        self.entries = 0
        self.guest_ns = 0
        self.device_ns = 0
        self._outside_ns = 0
        self._now_ns = now_ns
        self._left_ns: int | None = None  # when KVM_RUN last returned
        self._tallies: dict[_Key, Tally] = {}
        self._longest_stays = _Longest()
        self._longest_accesses = _Longest()

    @property
    def own_ns(self) -> int:
        return max(0, self._outside_ns - self.device_ns)

    @property
    def left_out(self) -> int:
        """Stretches that `slices` doesn't have."""
        return self._longest_stays.left_out + self._longest_accesses.left_out

    def slices(self) -> list[Slice]:
        """The longest stretches, in the order of time."""
        slices = self._longest_stays.slices() + self._longest_accesses.slices()
        return sorted(slices, key=lambda piece: piece.start_ns)

    def tallies(self) -> dict[Place, Tally]:
        """What was seen of each place. Devices of one name at one place are one."""
        merged: dict[Place, Tally] = {}
        for key, tally in self._tallies.items():
            merged.setdefault(_place(key), Tally()).add(tally)
        return merged

    # At power on and off

    def connect(self, run: memoryview, io_manager: Bus, entry: Entry) -> None:
        """What to stand before, from here on; `run` is the vCPU's kvm_run."""
        self._run = run
        self._entry = entry
        self._enter = entry.enter
        self._pio_read = io_manager.pio_read
        self._pio_write = io_manager.pio_write
        self._mmio_read = io_manager.mmio_read
        self._mmio_write = io_manager.mmio_write
        self.device_at_port = io_manager.device_at_port
        self.device_at_address = io_manager.device_at_address
        self._left_ns = None

    def disconnect(self) -> None:
        """The run loop has ended. Idempotent."""
        if self._left_ns is not None:
            self._outside_ns += self._now_ns() - self._left_ns
            self._left_ns = None

    # What the run loop calls

    def begin(self) -> None:
        """As the entry does that it times."""
        self._entry.begin()

    def end(self) -> None:
        """As the entry does that it times; a pause is nobody's time."""
        self.disconnect()
        self._entry.end()

    def enter(self, fd: int, request: int, argument: int) -> None:
        """KVM_RUN. Raises what it raises."""
        started = self._now_ns()
        if self._left_ns is not None:
            self._outside_ns += started - self._left_ns
        try:
            self._enter(fd, request, argument)
        finally:
            self._left_ns = ended = self._now_ns()
            self.guest_ns += ended - started
            self.entries += 1
            self._longest_stays.offer(ended - started, started, None)
        self._count_exit()

    def pio_read(self, port: int, data: memoryview) -> None:
        key = "pio_read", port, self.device_at_port(port)
        started = self._now_ns()
        self._pio_read(port, data)
        self._note(key, started, self._now_ns())

    def pio_write(self, port: int, data: memoryview) -> None:
        key = "pio_write", port, self.device_at_port(port)
        started = self._now_ns()
        self._pio_write(port, data)
        self._note(key, started, self._now_ns())

    def mmio_read(self, address: int, data: memoryview) -> None:
        key = "mmio_read", address & ~PAGE_MASK, self.device_at_address(address)
        started = self._now_ns()
        self._mmio_read(address, data)
        self._note(key, started, self._now_ns())

    def mmio_write(self, address: int, data: memoryview) -> None:
        key = "mmio_write", address & ~PAGE_MASK, self.device_at_address(address)
        started = self._now_ns()
        self._mmio_write(address, data)
        self._note(key, started, self._now_ns())

    def _note(self, key: _Key, started: int, ended: int) -> None:
        tally, spent = self._tally(key), ended - started
        tally.accesses += 1
        tally.total_ns += spent
        tally.longest_ns = max(tally.longest_ns, spent)
        self.device_ns += spent
        self._longest_accesses.offer(spent, started, key)

    def _count_exit(self) -> None:
        """Whose exit it is: not every access that follows has one of its own."""
        reason, is_write, where = _EXIT_IO(self._run, KVM_RUN_EXIT_REASON)
        if reason == KVM_EXIT_IO:
            method = "pio_write" if is_write else "pio_read"
            key: _Key = method, where, self.device_at_port(where)
        elif reason == KVM_EXIT_MMIO:
            where, is_write = _EXIT_MMIO(self._run, KVM_RUN_UNION)
            method = "mmio_write" if is_write else "mmio_read"
            key = method, where & ~PAGE_MASK, self.device_at_address(where)
        else:
            return
        self._tally(key).exits += 1

    def _tally(self, key: _Key) -> Tally:
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= MAX_PLACES:
                key = key[0], None, None
            tally = self._tallies.setdefault(key, Tally())
        return tally


def _place(key: _Key) -> Place:
    method, address, device = key
    bus, _, verb = method.partition("_")
    name = "(several)" if address is None else None
    if device is not None:
        chip = device.device if isinstance(device, Locked) else device
        name = type(chip).__name__
    return Place(bus.upper(), verb == "write", address, name)
