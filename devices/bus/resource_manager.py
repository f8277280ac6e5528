"""ResourceManager: the pools from which constraints become resources.

dbs-device leaves the allocator outside the crate; this has the pools that its
VMM has: ports, addresses (MMIO and memory), legacy IRQs, MSIs and memory slots.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import TypeAlias

from ..errors import Exhausted, InvalidRange, ResourceError, UnknownResource
from ..record import Record
from ..resources import (
    PIO_END,
    DeviceResources,
    GenericIrqConstraint,
    KvmMemSlot,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MacAddress,
    MemAddressConstraint,
    MemAddressRange,
    MmioAddressConstraint,
    MmioAddressRange,
    MsiIrq,
    MsiIrqType,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressConstraint,
    PioAddressRange,
    Resource,
    ResourceConstraint,
)

# (first, last), both included, as constraints have them; ascending and disjoint.
Ranges: TypeAlias = tuple[tuple[int, int], ...]


class PoolLayout(Record):
    """What each pool holds. The defaults are those of a PC with 39 address bits.

    Ports below `any_port_from` belong to ISA devices, which ask for them by
    number; likewise the IRQs that are not in `any_irqs`. `pio` and `irqs` lack what
    the PC itself uses: the ports of the interrupt controllers and the timer, the
    IRQs 0 of the timer, 2 of the cascade, 13 of the FPU; of the IOAPIC's further pins
    `irqs` has only the last. A device that asks for some shared IRQ gets `shared_irq`,
    as everybody else, or `shared_level_irq`; one that asks for MMIO or memory anywhere
    gets it in `any_mmio` or `any_mem`, in their order. `addresses` is where both may
    be: all but RAM, and what the PC itself has there.
    """

    pio: Ranges = (
        (0x00, 0x1F),  # then the master PIC
        (0x22, 0x3F),  # the timer
        (0x44, 0x60),  # its gate and the speaker
        (0x62, 0x9F),  # the slave PIC
        (0xA2, 0x4CF),  # both PICs' edge/level control
        (0x4D2, 0xFFFF),
    )
    any_port_from: int = 0x1000
    addresses: Ranges = (
        (0xE000_0000, 0xFEBF_FFFF),  # then the IOAPIC
        (0xFEC0_1000, 0xFEDF_FFFF),  # the LAPICs, and where MSIs go
        (0xFEF0_0000, 0x7F_FFFF_FFFF),
    )
    any_mmio: Ranges = ((0xE000_0000, 0xFEBF_FFFF), (0x40_0000_0000, 0x7F_FFFF_FFFF))
    any_mem: Ranges = ((0x1_0000_0000, 0x3F_FFFF_FFFF),)
    irqs: tuple[int, ...] = (1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 23)
    any_irqs: tuple[int, ...] = (10, 11, 9, 7, 6)
    shared_irq: int = 5
    shared_level_irq: int = 11
    msi: Ranges = ((24, 1023),)
    mem_slots: Ranges = ((0, 508),)


class _Pool:
    """Numbers, handed out in runs; the lowest run that satisfies wins."""

    def __init__(self, name: str, ranges: Ranges) -> None:
        end = 0
        for first, last in ranges:
            if not end <= first <= last:
                raise InvalidRange(
                    f"{name}: {first:#x}..{last:#x} is empty or overlaps what "
                    f"precedes it, which ends before {end:#x}"
                )
            end = last + 1
        self._name = name
        self._whole = [(first, last + 1) for first, last in ranges]
        self._free = self._whole.copy()  # (start, end), sorted
        self._taken: dict[int, int] = {}  # base: size

    def take(
        self, size: int, align: int = 1, limits: tuple[int, int] | None = None
    ) -> int:
        """Take `size` numbers wholly within `limits`, if given; return the first."""
        limits = limits or (0, self._whole[-1][1] - 1)
        return self._take((limits,), (limits,), size, align)

    def take_preferably(
        self, preferred: Ranges, size: int, align: int, limits: tuple[int, int] | None
    ) -> int:
        """Likewise, in the first of `preferred` that has room; else in `limits`."""
        if limits is None:
            return self._take(preferred, preferred, size, align)
        low, last = limits
        inside = ((max(low, start), min(last, end)) for start, end in preferred)
        return self._take((*inside, limits), (limits,), size, align)

    def _take(self, choices: Ranges, asked: Ranges, size: int, align: int) -> int:
        fits = (
            _first_fit(self._free, size, align, (low, last + 1))
            for low, last in choices
        )
        base = next((fit for fit in fits if fit is not None), None)
        if base is None:
            raise self._refusal(size, align, asked)
        index = bisect_right(self._free, base, key=_start) - 1
        start, end = self._free[index]
        rest = [(start, base), (base + size, end)]
        self._free[index : index + 1] = [r for r in rest if r[0] < r[1]]
        self._taken[base] = size
        return base

    def take_singles(self, size: int, limits: tuple[int, int] | None) -> range:
        """Take a run whose numbers are released one by one."""
        base = self.take(size, 1, limits)
        numbers = range(base, base + size)
        self._taken.update(dict.fromkeys(numbers, 1))
        return numbers

    def release(self, base: int, size: int) -> None:
        """Take back just what `take` handed out, or raise InvalidRange."""
        if self._taken.get(base) != size:
            raise InvalidRange(
                f"{self._name} {base:#x}..{base + size - 1:#x} is not allocated"
            )
        del self._taken[base]
        start, end = base, base + size
        index = bisect_left(self._free, base, key=_start)
        first = after = index
        if index > 0 and self._free[index - 1][1] == start:
            first = index - 1
            start = self._free[first][0]
        if index < len(self._free) and self._free[index][0] == end:
            after = index + 1
            end = self._free[index][1]
        self._free[first:after] = [(start, end)]

    def _refusal(self, size: int, align: int, choices: Ranges) -> ResourceError:
        asked = f"{self._name}: {size:#x} aligned to {align:#x} in {_text(choices)}"
        could = (
            _first_fit(self._whole, size, align, (low, last + 1))
            for low, last in choices
        )
        if all(fit is None for fit in could):
            whole = _text((start, end - 1) for start, end in self._whole)
            return InvalidRange(f"{asked} can't be: the pool has {whole}")
        runs = [
            min(end, last + 1) - max(start, low)
            for low, last in choices
            for start, end in self._free
            if max(start, low) <= min(end - 1, last)
        ]
        return Exhausted(
            f"{asked} is not free: {sum(runs):#x} left there, "
            f"the largest run {max(runs, default=0):#x}"
        )


class _IrqPool:
    """Single lines, each held by one device or shared by many."""

    def __init__(self, layout: PoolLayout) -> None:
        self._layout = layout
        self._exclusive: set[int] = set()
        self._sharers: dict[int, list[LegacyIrq]] = {}

    def take(self, wanted: int | None, shared: bool, level: bool) -> LegacyIrq:
        irq = self._choose(shared, level) if wanted is None else wanted
        if irq not in self._layout.irqs:
            raise InvalidRange(f"IRQ {irq} can't be: the pool has {self._layout.irqs}")
        if irq in self._exclusive or (irq in self._sharers and not shared):
            held = "shared by others" if irq in self._sharers else "taken"
            raise Exhausted(f"IRQ {irq} is {held}; {self._left()}")
        line = LegacyIrq(irq, shared, level)
        if not shared:
            self._exclusive.add(irq)
            return line
        sharers = self._sharers.get(irq, [])
        if sharers and line not in sharers:
            how = "edge" if level else "level"
            raise Exhausted(f"IRQ {irq} is shared by others, {how}-triggered")
        self._sharers[irq] = [*sharers, line]
        return line

    def release(self, line: LegacyIrq) -> None:
        held = self._sharers.get(line.irq, []) if line.shared else self._exclusive
        if (line if line.shared else line.irq) not in held:
            how = "shared" if line.shared else "exclusively"
            raise InvalidRange(f"IRQ {line.irq} is not allocated {how}")
        if not line.shared:
            self._exclusive.remove(line.irq)
            return
        self._sharers[line.irq].remove(line)
        if not self._sharers[line.irq]:
            del self._sharers[line.irq]

    def _choose(self, shared: bool, level: bool) -> int:
        if shared:
            layout = self._layout
            return layout.shared_level_irq if level else layout.shared_irq
        for irq in self._layout.any_irqs:
            if irq not in self._exclusive and irq not in self._sharers:
                return irq
        raise Exhausted(
            f"no IRQ is free of {self._layout.any_irqs}, which are for devices "
            f"that take any; {self._left()}"
        )

    def _left(self) -> str:
        held = self._exclusive | self._sharers.keys()
        return f"left are {[irq for irq in self._layout.irqs if irq not in held]}"


class ResourceManager:
    """Allocates what devices ask for. Callable from any thread."""

    def __init__(self, layout: PoolLayout | None = None) -> None:
        self.layout = layout = PoolLayout() if layout is None else layout
        self._lock = threading.Lock()
        self._pio = _Pool("ports", layout.pio)
        self._addresses = _Pool("addresses", layout.addresses)
        self._irqs = _IrqPool(layout)
        self._msi = _Pool("MSIs", layout.msi)
        self._mem_slots = _Pool("memory slots", layout.mem_slots)

    def allocate_device_resources(
        self, constraints: Iterable[ResourceConstraint]
    ) -> DeviceResources:
        """Satisfy all of `constraints`, in order, or take nothing.

        Raises UnknownResource for what no pool has, InvalidRange for what
        could never be satisfied, Exhausted for what others hold.
        """
        taken: list[Resource] = []
        with self._lock:
            try:
                for constraint in constraints:
                    taken += self._allocate(constraint)
            except ResourceError:
                for resource in taken:
                    self._release(resource)
                raise
        return DeviceResources(taken)

    def free_device_resources(self, resources: Iterable[Resource]) -> None:
        """Take back all of `resources`, or raise InvalidRange and take nothing.

        A MAC address comes from no pool and is passed over.
        """
        freed: list[Resource] = []
        with self._lock:
            try:
                for resource in resources:
                    if not isinstance(resource, MacAddress):
                        self._release(resource)
                        freed.append(resource)
            except ResourceError:
                for resource in freed:
                    self._retake(resource)
                raise

    def _allocate(self, wanted: ResourceConstraint) -> list[Resource]:
        match wanted:
            case PioAddressConstraint(size=size, align=align, range=limits):
                limits = limits or (self.layout.any_port_from, PIO_END - 1)
                return [PioAddressRange(self._pio.take(size, align, limits), size)]
            case MmioAddressConstraint(size=size, align=align, range=limits):
                anywhere = self.layout.any_mmio
                base = self._addresses.take_preferably(anywhere, size, align, limits)
                return [MmioAddressRange(base, size)]
            case MemAddressConstraint(size=size, align=align, range=limits):
                anywhere = self.layout.any_mem
                base = self._addresses.take_preferably(anywhere, size, align, limits)
                return [MemAddressRange(base, size)]
            case LegacyIrqConstraint(irq=irq, shared=shared, level=level):
                return [self._irqs.take(irq, shared, level)]
            case PciMsiIrqConstraint(size=size):
                return [MsiIrq(MsiIrqType.PCI_MSI, self._msi.take(size), size)]
            case PciMsixIrqConstraint(size=size):
                return [MsiIrq(MsiIrqType.PCI_MSIX, self._msi.take(size), size)]
            case GenericIrqConstraint(size=size):
                return [MsiIrq(MsiIrqType.GENERIC, self._msi.take(size), size)]
            case KvmMemSlotConstraint(size=size, slot=slot):
                limits = None if slot is None else (slot, slot + size - 1)
                slots = self._mem_slots.take_singles(size, limits)
                return [KvmMemSlot(number) for number in slots]
        raise UnknownResource(f"no pool hands out {wanted!r}")

    def _release(self, resource: Resource) -> None:
        if isinstance(resource, LegacyIrq):
            self._irqs.release(resource)
        else:
            pool, base, size = self._place(resource)
            pool.release(base, size)

    def _retake(self, resource: Resource) -> None:
        if isinstance(resource, LegacyIrq):
            self._irqs.take(resource.irq, resource.shared, resource.level)
        else:
            pool, base, size = self._place(resource)
            pool.take(size, 1, (base, base + size - 1))

    def _place(self, resource: Resource) -> tuple[_Pool, int, int]:
        match resource:
            case PioAddressRange(base, size):
                return self._pio, base, size
            case MmioAddressRange(base, size) | MemAddressRange(base, size):
                return self._addresses, base, size
            case MsiIrq(_, base, size):
                return self._msi, base, size
            case KvmMemSlot(slot):
                return self._mem_slots, slot, 1
        raise UnknownResource(f"no pool takes back {resource!r}")


def _start(run: tuple[int, int]) -> int:
    return run[0]


def _text(ranges: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{first:#x}..{last:#x}" for first, last in ranges)


def _first_fit(
    runs: list[tuple[int, int]], size: int, align: int, limits: tuple[int, int]
) -> int | None:
    """The lowest aligned base of `size` numbers in one run and in `limits`."""
    low, end = limits
    for index in range(max(bisect_right(runs, low, key=_start) - 1, 0), len(runs)):
        run_start, run_end = runs[index]
        base = (max(run_start, low) + align - 1) & -align
        if base + size <= min(run_end, end):
            return base
        if run_start >= end:
            break
    return None
