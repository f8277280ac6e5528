"""PciDevice: what the author of a PCI device derives from."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, cast

from ..device_io import DeviceIo
from ..doorbell import Doorbell
from ..errors import InvalidDevice, InvalidState
from ..record import Record
from ..resources import (
    DeviceResources,
    LegacyIrqConstraint,
    MmioAddressConstraint,
    MmioAddressRange,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressConstraint,
    PioAddressRange,
    Resource,
    ResourceConstraint,
)
from ..state import State
from .bar import BARS, Bar, BarKind, check_bars
from .config_space import Capability, ConfigSpace
from .dma import Dma
from .msi import MOST_MSI_VECTORS, Msi
from .msix import MOST_MSIX_VECTORS, Msix, MsixState
from .reg import (
    PCI_CACHE_LINE_SIZE,
    PCI_CFG_SPACE_SIZE,
    PCI_CLASS_PROG,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_PARITY,
    PCI_COMMAND_SERR,
    PCI_DEVICE_ID,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_REVISION_ID,
    PCI_STATUS,
    PCI_STATUS_INTERRUPT,
    PCI_SUBSYSTEM_ID,
    PCI_SUBSYSTEM_VENDOR_ID,
    PCI_VENDOR_ID,
)

if TYPE_CHECKING:
    from ..trigger import Interrupt, MsiInterrupt
    from .bus import PciBus

_INTA: Final = 1


class PciState(State):
    """The PCI part: configuration space, MSI-X, and whether INTx is asserted.

    A device with a state of its own has that in a field `device`, of an heir's.
    """

    config: Annotated[bytes, range(PCI_CFG_SPACE_SIZE, PCI_CFG_SPACE_SIZE + 1)]
    msix: MsixState | None
    intx: bool


class BarDoorbell(Record):
    """A Doorbell by its place in a BAR, whichever address that has."""

    bar: int
    offset: int
    size: int
    on_ring: Callable[[], None]
    value: int | None = None


class PciDevice(DeviceIo):
    """A PCI function with registers behind BARs, DMA, and interrupts.

    An heir says by class attributes, or by attributes that it sets before it is plugged
    in, what the guest is to find; overrides `read_bar` and `write_bar`; and calls
    `super().__init__()`. One lock, `lock`, is held in every call from the bus; `dma` and
    `interrupt` may be used from any thread.

    Plugged in before the machine starts it is there at power-on. There is no hotplug.
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
    """0..2048. Their table takes the first BAR that is free."""
    msi_vectors: int = 0
    """0, or a power of two up to 32."""
    uses_intx: bool = False
    """Whether it has a line for drivers that want no messages."""
    slot: int | None = None
    """0..31; None: the first that is free. Plugged in, it is the one that it has."""

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
        """Capabilities behind those for interrupts; asked when it is plugged in."""
        return ()

    def get_bar_doorbells(self) -> Iterable[BarDoorbell]:
        """Doorbells in BARs; asked whenever a BAR is where it wasn't before."""
        return ()

    def reset_device(self) -> None:
        """Return what isn't the PCI part to its power-on state."""

    def device_state(self) -> State | None:
        """What isn't the PCI part; see DeviceIo.state. Default: nothing is kept."""
        return None

    def restore_device(self, state: State) -> None:
        """Go on from it, the PCI part being restored; see DeviceIo.restore.

        Raises InvalidState, with nothing changed.
        """

    # For heirs to call

    def interrupt(self, vector: int = 0) -> None:
        """Interrupt the driver as it has asked: by MSI-X, by MSI, or by INTx.

        A message is pending while the driver has masked it, and lost without bus
        mastering. MSI folds `vector` into those that the driver took. INTx is held
        until `set_intx(False)`. Raises TriggerError if the host can't deliver it.
        """

    def set_intx(self, high: bool) -> None:
        """Assert INTx or not. It is seen where the driver takes no messages."""

    @property
    def takes_messages(self) -> bool:
        """Whether the driver has enabled MSI-X or MSI."""
        return False
