"""Decoder: which of a function's BARs the bus decodes, and where."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from ..resources import (
    DeviceResources,
    MmioAddressConstraint,
    MmioAddressRange,
    PioAddressConstraint,
    PioAddressRange,
    Resource,
    ResourceConstraint,
)
from .bar import Bar, BarKind
from .reg import PCI_COMMAND, PCI_COMMAND_IO, PCI_COMMAND_MEMORY

if TYPE_CHECKING:
    from .config_space import ConfigSpace
    from .windows import PciWindows

_Range: TypeAlias = PioAddressRange | MmioAddressRange
_Ranges: TypeAlias = Mapping[Bar, _Range]
_Move: TypeAlias = Callable[[Sequence[Resource], Sequence[Resource]], bool]

_ADDRESS_BITS: Final = {kind: 64 if kind is BarKind.MEM64 else 32 for kind in BarKind}


class Decoder:
    """BARs and COMMAND in configuration space, and what of them is in effect.

    A BAR is decoded while COMMAND says so, all of it is in a window of the host
    bridge's, and nothing else is there.
    """

    def __init__(
        self, bars: Sequence[Bar], config: "ConfigSpace", windows: "PciWindows"
    ) -> None:
        self._bars = sorted(bars, key=lambda bar: bar.index)
        self._config = config
        self._windows = windows
        self.memory: dict[int, Bar] = {}
        """The BARs that are decoded, by their addresses."""
        self.ports: dict[int, Bar] = {}
        self._placed: _Ranges = {}
        self._wanted: _Ranges = {}
        for bar in bars:
            bits = _ADDRESS_BITS[bar.kind]
            addresses = (1 << bits) - bar.size
            config.define(bar.offset, bits // 8, bar.flags, writable=addresses)

    def constraints(self) -> list[ResourceConstraint]:
        """Where each BAR may be at power-on."""
        return [self._constraint(bar) for bar in self._bars]

    def _constraint(self, bar: Bar) -> ResourceConstraint:
        kind = PioAddressConstraint if bar.kind is BarKind.IO else MmioAddressConstraint
        return kind(size=bar.size, align=bar.size, range=self._window(bar))

    def _window(self, bar: Bar) -> tuple[int, int]:
        windows = self._windows
        if bar.kind is BarKind.IO:
            return windows.io
        return windows.mem64 if bar.kind is BarKind.MEM64 else windows.mem32

    def assign(self, resources: DeviceResources) -> None:
        """Set the BARs to what `constraints` was answered with; none is decoded."""
        ranges = (at for at in resources if isinstance(at, _Range))
        for bar, place in zip(self._bars, ranges, strict=False):
            self._config.set(bar.offset, 4 * bar.registers, place.base | bar.flags)
        self._wanted = {}
        self._show({})

    def trapped(self) -> DeviceResources:
        """The ranges that are decoded now."""
        return DeviceResources(self._placed.values())

    def places_of(self, index: int) -> list[tuple[bool, int]]:
        """Whether BAR `index` is ports, and its base; empty: it isn't decoded."""
        return [
            (bar.kind is BarKind.IO, place.base)
            for bar, place in self._placed.items()
            if bar.index == index
        ]

    def follow(self, move: _Move, *, retry: bool = False) -> bool:
        """Have decoded what configuration space asks for; whether that is news.

        `retry` what couldn't be, too.
        """
        wanted = self._asked_for()
        if wanted == (self._placed if retry else self._wanted):
            return False
        self._wanted = wanted
        self._place(wanted, move)
        return True

    def decoded(self) -> tuple[int, ...]:
        """The BARs that are decoded, by their indices."""
        return tuple(sorted(bar.index for bar in self._placed))

    def restore(self, decoded: Collection[int], move: _Move) -> None:
        """As `follow`, but for those BARs that weren't `decoded` when it was saved.

        Something was in their way, and may come later than they.
        """
        self._wanted = self._asked_for()
        places = self._wanted.items()
        self._place({bar: at for bar, at in places if bar.index in decoded}, move)

    def _place(self, wanted: _Ranges, move: _Move) -> None:
        """Together, or each for itself, but for those that stay where they are."""
        if self._try(wanted, move):
            return
        placed = self._placed.items()
        self._try({bar: at for bar, at in placed if wanted.get(bar) == at}, move)
        for bar, place in wanted.items():
            self._try({**self._placed, bar: place}, move)

    def _try(self, places: _Ranges, move: _Move) -> bool:
        before = self._placed
        if places == before:
            return True
        self._show(places)  # for who moves them will ask
        if move([*before.values()], [*places.values()]):
            return True
        self._show(before)
        return False

    def _show(self, places: _Ranges) -> None:
        self._placed = places
        self.memory = {
            place.base: bar
            for bar, place in places.items()
            if isinstance(place, MmioAddressRange)
        }
        self.ports = {
            place.base: bar
            for bar, place in places.items()
            if isinstance(place, PioAddressRange)
        }

    def _asked_for(self) -> _Ranges:
        command = self._config.get(PCI_COMMAND, 2)
        asked: dict[Bar, _Range] = {}
        for bar in self._bars:
            is_io = bar.kind is BarKind.IO
            if not command & (PCI_COMMAND_IO if is_io else PCI_COMMAND_MEMORY):
                continue
            base = self._config.get(bar.offset, 4 * bar.registers) & -bar.size
            if self._is_in_window(bar, base):
                kind = PioAddressRange if is_io else MmioAddressRange
                asked[bar] = kind(base, bar.size)
        return asked

    def _is_in_window(self, bar: Bar, base: int) -> bool:
        """A 64-bit BAR may be below 4 GiB, where some kernels move it."""
        windows = [self._window(bar)]
        if bar.kind is BarKind.MEM64:
            windows.append(self._windows.mem32)
        return any(first <= base <= last - bar.size + 1 for first, last in windows)
