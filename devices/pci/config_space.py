"""ConfigSpace: the 256 bytes by which a function is found and set up."""

from typing import Final

from ..errors import InvalidDevice, InvalidState
from .reg import (
    PCI_CAPABILITY_LIST,
    PCI_CFG_SPACE_SIZE,
    PCI_COMMAND,
    PCI_COMMAND_MASTER,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
    PCI_STD_HEADER_SIZEOF,
)

_HEADER_SIZE: Final = 2  # of a capability: its ID, and where the next one is


class Capability:
    """One entry of the list of capabilities; heirs know what its registers do.

    `body` is what follows the ID and the link. The guest may write those of its bits
    that are set in `writable`, and the device sets those of `owned`, which both may be
    shorter. `offset` is where it is in `config`, once it is in one.
    """

    config: "ConfigSpace"
    offset: int

    def __init__(
        self, cap_id: int, body: bytes, writable: bytes = b"", owned: bytes = b""
    ) -> None:
        self.id = cap_id
        self.size = _HEADER_SIZE + len(body)
        self.body = body
        self.writable = writable.ljust(len(body), b"\0")
        self.owned = owned.ljust(len(body), b"\0")

    def get(self, at: int, size: int) -> int:
        """The register of `size` bytes at `at`, counted from the ID."""
        return self.config.get(self.offset + at, size)

    def set(self, at: int, size: int, value: int) -> None:
        """Set it, whether the guest may or not."""
        self.config.set(self.offset + at, size, value)

    def before_read(self, at: int, size: int) -> None:
        """The guest is about to read some bytes from `at` on, counted from the ID.

        What it reads is what is `set` then. Default: nothing.
        """

    def after_write(self, at: int, size: int) -> None:
        """The guest has written some, as far as they are writable. Default: nothing."""


class ConfigSpace:
    """Bytes, of which the guest may change those bits that are writable.

    Registers are little-endian, and may be accessed by any of their bytes.
    """

    def __init__(self) -> None:
        self.capabilities: list[Capability] = []
        self._data = bytearray(PCI_CFG_SPACE_SIZE)
        self._writable = bytearray(PCI_CFG_SPACE_SIZE)
        self._owned = bytearray(PCI_CFG_SPACE_SIZE)
        self._power_on = bytes(self._data)
        self._end = PCI_STD_HEADER_SIZEOF
        self._link = PCI_CAPABILITY_LIST

    def define(
        self, at: int, size: int, value: int, *, writable: int = 0, owned: int = 0
    ) -> None:
        """A register as it is at power-on, and the bits of it that change.

        The guest may write those of `writable`; the device sets those of `owned`.
        """
        self.set(at, size, value)
        for bits, where in (writable, self._writable), (owned, self._owned):
            where[at : at + size] = bits.to_bytes(size, "little")

    def add(self, capability: Capability) -> None:
        """Append it to the list. Raises InvalidDevice where there is no room left."""
        offset, end = self._end, self._end + capability.size
        if end > PCI_CFG_SPACE_SIZE:
            raise InvalidDevice(
                f"capability {capability.id:#x} of {capability.size} bytes: "
                f"{PCI_CFG_SPACE_SIZE - offset} are left"
            )
        self.set(self._link, 1, offset)
        self.set(PCI_STATUS, 2, self.get(PCI_STATUS, 2) | PCI_STATUS_CAP_LIST)
        self.set(offset, 1, capability.id)
        self._data[offset + _HEADER_SIZE : end] = capability.body
        self._writable[offset + _HEADER_SIZE : end] = capability.writable
        self._owned[offset + _HEADER_SIZE : end] = capability.owned
        self._link, self._end = offset + 1, (end + 3) & ~3
        capability.config, capability.offset = self, offset
        self.capabilities.append(capability)

    def get(self, at: int, size: int) -> int:
        """The register of `size` bytes at `at`."""
        return int.from_bytes(self._data[at : at + size], "little")

    def set(self, at: int, size: int, value: int) -> None:
        """Set it, whether the guest may or not."""
        self._data[at : at + size] = value.to_bytes(size, "little")

    @property
    def is_bus_master(self) -> bool:
        """Whether the guest lets the function write to memory, and so send messages."""
        return bool(self.get(PCI_COMMAND, 2) & PCI_COMMAND_MASTER)

    def read(self, at: int, data: memoryview) -> None:
        """The guest's read of `len(data)` bytes, which end within the space."""
        for capability, inner in self._touched(at, len(data)):
            capability.before_read(inner, len(data))
        data[:] = self._data[at : at + len(data)]

    def write(self, at: int, data: memoryview) -> None:
        """The guest's write, likewise."""
        for index, byte in enumerate(data, at):
            mask = self._writable[index]
            self._data[index] = self._data[index] & ~mask | byte & mask
        for capability, inner in self._touched(at, len(data)):
            capability.after_write(inner, len(data))

    def _touched(self, at: int, size: int) -> list[tuple[Capability, int]]:
        return [
            (capability, at - capability.offset)
            for capability in self.capabilities
            if capability.offset < at + size
            and at < capability.offset + capability.size
        ]

    def keep_as_power_on(self) -> None:
        """What is there now is there again after each `reset`."""
        self._power_on = bytes(self._data)

    def reset(self) -> None:
        """All as at power-on."""
        self._data[:] = self._power_on

    def state(self) -> bytes:
        """All of it."""
        return bytes(self._data)

    def check(self, state: bytes) -> None:
        """Raises InvalidState if `state`, 256 bytes, is another function's."""
        for at, (mine, other) in enumerate(zip(self._data, state, strict=True)):
            if (mine ^ other) & ~(self._writable[at] | self._owned[at]):
                raise InvalidState(
                    f"PCI configuration byte {at:#x} is {other:#x}: this device has "
                    f"{mine:#x} there"
                )

    def restore(self, state: bytes) -> None:
        """Go on from what `check` has passed."""
        self._data[:] = state
