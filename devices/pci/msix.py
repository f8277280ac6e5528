"""Msix: the capability, the table and the pending bits of up to 2048 messages.

Source: PCI Local Bus Specification 3.0, section 6.8.2. Table and pending bits have a
BAR of their own, so that a program of the guest's may map all the others.
"""

from struct import Struct
from typing import Annotated, Final

from ..errors import InvalidState
from ..state import State
from .bar import Bar
from .config_space import Capability
from .messages import Message, Messages
from .reg import (
    PCI_CAP_ID_MSIX,
    PCI_MSIX_ENTRY_CTRL_MASKBIT,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
)

MOST_MSIX_VECTORS: Final = 2048
_LEAST_TABLE: Final = 0x800  # so that the BAR has a page at least
_ENTRY: Final = Struct("<QII")  # address, data, vector control
_MASKED_ENTRY: Final = _ENTRY.pack(0, 0, PCI_MSIX_ENTRY_CTRL_MASKBIT)
_WRITABLE_ENTRY: Final = _ENTRY.pack(
    0xFFFF_FFFF_FFFF_FFFC, 0xFFFF_FFFF, PCI_MSIX_ENTRY_CTRL_MASKBIT
)


class MsixState(State):
    """The table as it reads, and the vectors that are pending, in order."""

    table: Annotated[bytes, range(MOST_MSIX_VECTORS * _ENTRY.size + 1)]
    pending: tuple[Annotated[int, range(MOST_MSIX_VECTORS)], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        entry = _ENTRY.size
        count, rest = divmod(len(self.table), entry)
        self.require(not rest, f"table has entries of {entry} bytes")
        never = int.from_bytes(_WRITABLE_ENTRY * count) ^ (1 << 8 * entry * count) - 1
        self.require(not int.from_bytes(self.table) & never, "table has no such bits")
        are_ordered = self.pending == tuple(sorted(set(self.pending)))
        self.require(are_ordered, "pending vectors are in order")
        self.require(self.pending[-1:] < (count,), "pending vectors are in the table")


class Msix(Capability):
    """`count` vectors, 1..2048, with their table in a BAR `bar` of its own.

    What is raised while its vector is masked, or all are, or the function isn't bus
    master, is pending, and then sent; what is raised while MSI-X is off is lost.
    """

    def __init__(self, count: int, bar_index: int) -> None:
        self.count = count
        table_size = count * _ENTRY.size
        self._pba_offset = max(1 << (table_size - 1).bit_length(), _LEAST_TABLE)
        self.bar = Bar(bar_index, 2 * self._pba_offset)
        body = (count - 1).to_bytes(2, "little")
        body += bar_index.to_bytes(4, "little")
        body += (self._pba_offset | bar_index).to_bytes(4, "little")
        flags = PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL
        super().__init__(PCI_CAP_ID_MSIX, body, flags.to_bytes(2, "little"))
        self.messages = Messages(count)
        self.is_enabled = False
        """Whether the driver takes messages, so that no line is raised."""
        self._is_sending = False
        self._table = bytearray(_MASKED_ENTRY * count)

    def fire(self, vector: int) -> None:
        """Raise one; a vector that isn't 0..count - 1 is none."""
        if self.is_enabled and 0 <= vector < self.count:
            self.messages.fire(vector)

    def after_write(self, at: int, size: int) -> None:
        self.follow()

    def read_bar(self, offset: int, data: memoryview) -> None:
        """The table and the pending bits; zeros elsewhere."""
        in_pba = offset >= self._pba_offset
        source = self._pending_bits() if in_pba else self._table
        start = offset - self._pba_offset if in_pba else offset
        data[:] = source[start : start + len(data)].ljust(len(data), b"\0")

    def write_bar(self, offset: int, data: memoryview) -> None:
        """An aligned write of 4 or 8 bytes to the table; others are ignored."""
        size = len(data)
        if size not in (4, 8) or offset % size or offset + size > len(self._table):
            return
        vector, at = divmod(offset, _ENTRY.size)
        writable = _WRITABLE_ENTRY[at : at + size]
        self._table[offset : offset + size] = bytes(
            byte & mask for byte, mask in zip(data, writable, strict=True)
        )
        self.messages.set(vector, self._message(vector))

    def reset(self) -> None:
        """Each vector masked and none pending, configuration space as at power-on."""
        self._table[:] = _MASKED_ENTRY * self.count
        self.follow()

    def state(self) -> MsixState:
        """The table and the pending bits; the rest is in configuration space."""
        pending = (at for at, is_set in enumerate(self.messages.pending) if is_set)
        return MsixState(bytes(self._table), tuple(pending))

    def check(self, state: MsixState) -> None:
        """Raises InvalidState if `state` has another number of vectors."""
        if len(state.table) != len(self._table):
            vectors = len(state.table) // _ENTRY.size
            raise InvalidState(f"MSI-X of {vectors} vectors: this has {self.count}")

    def restore(self, state: MsixState) -> None:
        """Go on from what `check` has passed, with configuration space restored."""
        self._table[:] = state.table
        pending = set(state.pending)
        self.messages.pending = [at in pending for at in range(self.count)]
        self.messages.forget()
        self.follow()

    def follow(self) -> None:
        """Do as configuration space says, which has changed."""
        control = self.get(PCI_MSIX_FLAGS, 2)
        self.is_enabled = bool(control & PCI_MSIX_FLAGS_ENABLE)
        may_send = self.config.is_bus_master and not control & PCI_MSIX_FLAGS_MASKALL
        self._is_sending = self.is_enabled and may_send
        if not self.is_enabled:
            self.messages.drop_pending()
        self.messages.set_all(map(self._message, range(self.count)))

    def _message(self, vector: int) -> Message | None:
        """None while it is masked."""
        address, data, control = _ENTRY.unpack_from(self._table, vector * _ENTRY.size)
        if not self._is_sending or control & PCI_MSIX_ENTRY_CTRL_MASKBIT:
            return None
        return address, data

    def _pending_bits(self) -> bytes:
        bits = sum(1 << at for at, is_set in enumerate(self.messages.pending) if is_set)
        return bits.to_bytes(-(-self.count // 64) * 8, "little")
