"""PciDevice: what the author of a PCI device derives from."""

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

from ..device_io import DeviceIo
from ..doorbell import Doorbell
from ..errors import InvalidDevice, InvalidState
from ..record import Record
from ..resources import (
    DeviceResources,
    LegacyIrqConstraint,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    ResourceConstraint,
)
from ..state import State, with_device
from .bar import BARS, Bar, BarKind, check_bars
from .config_space import Capability, ConfigSpace
from .decoder import Decoder
from .dma import Dma
from .header import NO_IRQ, check_identity, define_header
from .msi import Msi
from .msix import Msix, MsixState
from .reg import (
    PCI_CFG_SPACE_SIZE,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_INTERRUPT_LINE,
    PCI_STATUS,
    PCI_STATUS_INTERRUPT,
)
from .windows import PciWindows, Remap

if TYPE_CHECKING:
    from ..guest_ram import GuestRam
    from ..trigger import Interrupt, MsiInterrupt, Signal


class PciState(State):
    """The PCI part: configuration space, the BARs decoded, and MSI-X where it has that.

    A device with a state of its own has that in a field `device`, of an heir's.
    """

    config: Annotated[bytes, range(PCI_CFG_SPACE_SIZE, PCI_CFG_SPACE_SIZE + 1)]
    decoded: tuple[Annotated[int, range(BARS)], ...]
    msix: MsixState | None


class BarDoorbell(Record):
    """A Doorbell by its place in a BAR, whichever address that has."""

    bar: int
    offset: int
    size: int
    on_ring: Callable[[], None]
    value: int | None = None
    eventfd: int | None = None

    def at(self, base: int, *, is_pio: bool) -> Doorbell:
        """What it is while its BAR is at `base`. Raises InvalidRange as Doorbell."""
        return Doorbell(
            base=base + self.offset,
            size=self.size,
            on_ring=self.on_ring,
            is_pio=is_pio,
            value=self.value,
            eventfd=self.eventfd,
        )


class PciDevice(DeviceIo):
    """A PCI function with registers behind BARs, DMA, and interrupts.

    An heir says by class attributes, or by attributes that it sets before it is plugged
    in, what the guest is to find; overrides `read_bar` and `write_bar`; and calls
    `super().__init__()`. `lock` is held in every access from the bus, so that a device
    with threads needs no other. `dma` and `interrupt` are for any thread, once the
    device is on a bus.

    It has a place on a PciBus before it is plugged in, and no machine runs then: there
    is no hotplug.
    """

    vendor_id: int
    device_id: int
    class_code: int = 0xFF0000
    """24 bits: base class, class, programming interface. Default: of no class."""
    revision: int = 0
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    bars: Sequence[Bar] = ()
    msix_vectors: int = 0
    """0..2048, as far as the machine has them, which has 1,000 for all devices. Their
    table takes the first BAR that is free."""
    msi_vectors: int = 0
    """0, or a power of two up to 32."""
    uses_intx: bool = False
    """Whether it has a line for drivers that want no messages."""
    is_pci = True
    slot: int | None = None
    """0..31; None: any. Once it is on a bus, the one that it has."""

    dma: Dma
    config: ConfigSpace

    def __init__(self) -> None:
        self.lock = threading.RLock()

    # For heirs to override

    def read_bar(self, bar: int, offset: int, data: memoryview) -> None:
        """The guest reads `len(data)` bytes in BAR `bar`. Default: all ones."""
        data[:] = b"\xff" * len(data)

    def write_bar(self, bar: int, offset: int, data: memoryview) -> None:
        """The guest writes `data` to BAR `bar`. Default: ignored."""

    def extra_capabilities(self) -> Iterable[Capability]:
        """Capabilities behind those for interrupts; asked when it joins a bus."""
        return ()

    def get_bar_doorbells(self) -> Iterable[BarDoorbell]:
        """Doorbells in `bars`; asked when it joins a bus, and when a BAR has moved.

        They are asked for, and ring on a thread of the host's, without `lock`; see
        Doorbell.
        """
        return ()

    def reset_device(self) -> None:
        """Return what isn't the PCI part to its power-on state."""

    def device_state(self) -> State | None:
        """What isn't the PCI part, as DeviceIo.state. Default: nothing is kept."""
        return None

    def restore_device(self, state: State) -> None:
        """Go on from it, the PCI part being restored; as DeviceIo.restore.

        Raises InvalidState, with nothing changed.
        """

    # For heirs to call

    def interrupt(self, vector: int = 0) -> None:
        """Interrupt the driver as it has asked: by MSI-X, by MSI, or by INTx.

        A message is pending while the driver has masked it, or the device may not be
        bus master. MSI folds `vector` into those that the driver took. INTx is held
        until `set_intx(False)`. Raises TriggerError if the host can't deliver.
        """
        with self.lock:
            sender = self._sender()
            if sender is None:
                self.set_intx(True)
            else:
                sender.fire(vector)

    def _sender(self) -> Msix | Msi | None:
        """That by which the driver takes messages."""
        if self._msix is not None and self._msix.is_enabled:
            return self._msix
        if self._msi is not None and self._msi.is_enabled:
            return self._msi
        return None

    def set_intx(self, high: bool) -> None:
        """Assert INTx or not; drivers that take messages aren't interrupted by it."""
        if not self.uses_intx:
            return
        with self.lock:
            status = self.config.get(PCI_STATUS, 2) & ~PCI_STATUS_INTERRUPT
            self.config.set(PCI_STATUS, 2, status | (high and PCI_STATUS_INTERRUPT))
            self._drive_line()

    def take_signal(self, signal: "Signal", vector: int | None) -> None:
        """Have an eventfd that another process signals raise a vector of MSI-X's.

        Without a word to us where that can be; else, as while the vector is masked, it
        is to be relayed, to `interrupt`. None: to be relayed always.
        """
        with self.lock:
            if self._msix is not None:
                self._msix.messages.take(signal, vector)

    def drop_interrupts(self) -> None:
        """Forget what is pending, and let go of INTx: the device was reset."""
        with self.lock:
            for capability in self._msix, self._msi:
                if capability is not None:
                    capability.messages.drop_pending()
            self.set_intx(False)

    @property
    def takes_messages(self) -> bool:
        """Whether the driver has enabled MSI-X or MSI."""
        return self._sender() is not None

    # The bus' side

    def join(self, windows: PciWindows, remap: Remap, ram: "GuestRam") -> None:
        """Be set up for a bus, before resources are asked for; it calls this.

        Raises InvalidDevice or InvalidRange for what can't be.
        """
        check_identity(self)
        check_bars(self.bars)
        self._remap = remap
        self._line: Interrupt | None = None
        self._msix = self._msi = None
        bars = list(self.bars)
        if self.msix_vectors:
            self._msix = Msix(self.msix_vectors, self._free_bar())
            bars.append(self._msix.bar)
        self.config = ConfigSpace()
        define_header(self, self.config, {bar.kind for bar in bars})
        self._decoder = Decoder(bars, self.config, windows)
        if self.msi_vectors:
            self._msi = Msi(self.msi_vectors)
        for own in self._msix, self._msi:
            if own is not None:
                self.config.add(own)
        for capability in self.extra_capabilities():
            self.config.add(capability)
        self.config.keep_as_power_on()
        self.dma = Dma(ram, self.config)
        self._check_doorbells()

    def _check_doorbells(self) -> None:
        """Raises InvalidDevice, InvalidRange: KVM would take another's writes."""
        bars = {bar.index: bar for bar in self.bars}
        for bell in self.get_bar_doorbells():
            bar = bars.get(bell.bar)
            if bar is None or not 0 <= bell.offset <= bar.size - bell.size:
                raise InvalidDevice(
                    f"no BAR {bell.bar} of its own has a doorbell's {bell.size} bytes "
                    f"at {bell.offset:#x}"
                )
            bell.at(0, is_pio=bar.kind is BarKind.IO)

    def _free_bar(self) -> int:
        taken = {bar.index + at for bar in self.bars for at in range(bar.registers)}
        free = [index for index in range(BARS) if index not in taken]
        if not free:
            raise InvalidDevice("it has no BAR left for its MSI-X table")
        return free[0]

    def read_config(self, offset: int, data: memoryview) -> None:
        """A read of configuration space, within 4 aligned bytes; a bus calls it."""
        with self.lock:
            self.config.read(offset, data)

    def write_config(self, offset: int, data: memoryview) -> bool:
        """Likewise; whether BARs are, or are not, where they were not, or were."""
        with self.lock:
            self.config.write(offset, data)
            if offset == PCI_COMMAND:
                self._follow_command()
            self._drive_line()
        return self.follow()

    def _follow_command(self) -> None:
        for own in self._msix, self._msi:
            if own is not None:
                own.follow()

    def follow(self, *, retry: bool = False) -> bool:
        """Have the BARs decoded as configuration space says; whether any moved.

        With no lock of this device's held, as a machine's locks come before it: who
        moves the ranges asks this device where they are.
        """
        return self._decoder.follow(partial(self._remap, self), retry=retry)

    def decode_again(self, state: PciState) -> None:
        """Have those BARs decoded that were, when it has been restored.

        As far as nobody is there, who may be restored only after it: then once more.
        """
        self._decoder.restore(state.decoded, partial(self._remap, self))

    # The machine's side: DeviceIo

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        constraints = self._decoder.constraints()
        if self.msix_vectors:
            constraints.append(PciMsixIrqConstraint(size=self.msix_vectors))
        if self.msi_vectors:
            constraints.append(PciMsiIrqConstraint(size=self.msi_vectors))
        if self.uses_intx:
            constraints.append(LegacyIrqConstraint(shared=True, level=True))
        return constraints

    def assign_resources(
        self, resources: DeviceResources, interrupts: "Sequence[Interrupt]"
    ) -> None:
        super().assign_resources(resources, interrupts)
        messages = cast("Sequence[MsiInterrupt]", interrupts)
        msis = self.msix_vectors, self.msix_vectors + self.msi_vectors
        with self.lock:
            if self._msix is not None:
                self._msix.messages.connect(messages[: msis[0]])
            if self._msi is not None:
                self._msi.messages.connect(messages[slice(*msis)])
            self._line = next(iter(interrupts[msis[1] :]), None)
            self._decoder.assign(resources)
            irq = resources.get_legacy_irq()
            self.config.set(PCI_INTERRUPT_LINE, 1, NO_IRQ if irq is None else irq)
            self.config.keep_as_power_on()

    def get_trapped_io_resources(self) -> DeviceResources:
        """The BARs that are decoded now."""
        return self._decoder.trapped()

    def get_doorbells(self) -> Sequence[Doorbell]:
        """Those of `get_bar_doorbells` whose BARs are decoded now."""
        return [
            bell.at(base, is_pio=is_pio)
            for bell in self.get_bar_doorbells()
            for is_pio, base in self._decoder.places_of(bell.bar)
        ]

    def read(self, base: int, offset: int, data: memoryview) -> None:
        self._read(self._decoder.memory.get(base), offset, data)

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self._write(self._decoder.memory.get(base), offset, data)

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        self._read(self._decoder.ports.get(base), offset, data)

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self._write(self._decoder.ports.get(base), offset, data)

    def _read(self, bar: Bar | None, offset: int, data: memoryview) -> None:
        if bar is None or offset + len(data) > bar.size:  # it was moved meanwhile
            data[:] = b"\xff" * len(data)
            return
        with self.lock:
            if self._msix is not None and bar is self._msix.bar:
                self._msix.read_bar(offset, data)
            else:
                self.read_bar(bar.index, offset, data)

    def _write(self, bar: Bar | None, offset: int, data: memoryview) -> None:
        if bar is None or offset + len(data) > bar.size:
            return
        with self.lock:
            if self._msix is not None and bar is self._msix.bar:
                self._msix.write_bar(offset, data)
            else:
                self.write_bar(bar.index, offset, data)

    def reset(self) -> None:
        with self.lock:
            self.config.reset()
            if self._msix is not None:
                self._msix.reset()
            if self._msi is not None:
                self._msi.follow()
            self._drive_line()
            self.reset_device()
        self.follow()

    def state(self) -> PciState:
        """The PCI part and, if any, what `device_state` gives."""
        with self.lock:
            config = self.config.state()
            msix = None if self._msix is None else self._msix.state()
            own = self.device_state()
        pci: dict[str, Any] = {
            "config": config,
            "decoded": self._decoder.decoded(),
            "msix": msix,
        }
        kind: type[Any] = PciState
        if own is not None:
            kind, pci["device"] = with_device(PciState, type(own)), own
        state: PciState = kind(**pci)
        return state

    def restore(self, state: State | None) -> None:
        with self.lock:
            before = self.state()
            after = type(before).of(state)
            self._check_state(after)
            self._restore_pci(after)
            own = after.to_dict().get("device")
            if isinstance(own, State):
                try:
                    self.restore_device(own)
                except InvalidState:
                    self._restore_pci(before)
                    raise
        self.decode_again(after)

    def _check_state(self, state: PciState) -> None:
        self.config.check(state.config)
        if self._msix is not None and state.msix is not None:
            self._msix.check(state.msix)
        elif self._msix is not None or state.msix is not None:
            raise InvalidState("PciState.msix: the other device has MSI-X, or this")

    def _restore_pci(self, state: PciState) -> None:
        self.config.restore(state.config)
        if self._msix is not None and state.msix is not None:
            self._msix.restore(state.msix)
        if self._msi is not None:
            self._msi.restore()
        self._drive_line()

    def _drive_line(self) -> None:
        """Let the line be as STATUS and COMMAND say."""
        if self._line is None:
            return
        asserted = self.config.get(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT
        disabled = self.config.get(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE
        self._line.set_level(
            bool(asserted) and not disabled and not self.takes_messages
        )
