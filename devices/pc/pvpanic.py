"""Pvpanic: a port by which a guest's kernel says that it has panicked.

Linux's driver (drivers/misc/pvpanic) finds it as the ACPI device QEMU0001, asks for
the events that the host knows, and writes one from its panic notifier.

Source: QEMU's docs/specs/pvpanic.rst, ISA device; linux/pvpanic.h has the names.
"""

from collections.abc import Callable, Mapping
from typing import Final

from ..fast_port import FastPort
from ..state import State, refuse_state

PVPANIC_PORT: Final = 0x505
PVPANIC_PANICKED: Final = 1 << 0
PVPANIC_CRASH_LOADED: Final = 1 << 1  # its crash kernel takes over
EVENTS: Final = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED


class Pvpanic:
    """One byte: reads give the events that we know, a write tells of some.

    `on_panic` and `on_crash_loaded` are called on the vCPU's thread and must not
    block; bits that are no event of ours are ignored.
    """

    def __init__(
        self, on_panic: Callable[[], None], on_crash_loaded: Callable[[], None]
    ) -> None:
        self._on_panic = on_panic
        self._on_crash_loaded = on_crash_loaded
        self._port = FastPort()
        self._port.answer(EVENTS)

    @property
    def fast_ports(self) -> Mapping[int, FastPort]:
        """The port, for reads: what they give never changes."""
        return {0: self._port}

    def read(self, offset: int) -> int:
        """The events that we know."""
        return EVENTS

    def write(self, offset: int, value: int) -> None:
        """Tell the host of the events in `value`, 0..0xFF."""
        if value & PVPANIC_CRASH_LOADED:
            self._on_crash_loaded()
        if value & PVPANIC_PANICKED:
            self._on_panic()

    def reset(self) -> None:
        """Nothing is kept."""

    def state(self) -> None:
        """Nothing is kept."""

    def restore(self, state: State | None) -> None:
        """Takes None. Raises InvalidState for all else."""
        refuse_state(self, state)
