"""Level-triggered interrupt lines, each held by any of those who share it.

KVM keeps one level for all that isn't its own (KVM_IRQ_LINE, API 4.25); it raises the
interrupt again after each end of interrupt while that is high. So nobody need be told
of an end of interrupt (KVM_IRQFD_FLAG_RESAMPLE), and a device that lets go before one
is not taken for one that still wants service.
"""

import threading

from ..devices.errors import TriggerError
from ..errors import KvmError
from ..kvm.vm import Vm


class LevelLines:
    """The lines of one machine, connected to one VM after the other. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vm: Vm | None = None
        self._holders: dict[int, set[LevelInterrupt]] = {}

    def connect(self, vm: Vm) -> None:
        """Tell a new VM, whose lines are low, of those that are held."""
        with self._lock:
            self._vm = vm
            for gsi, holders in self._holders.items():
                if holders:
                    vm.set_irq_line(gsi, True)

    def disconnect(self) -> None:
        """The VM is about to go."""
        with self._lock:
            self._vm = None

    def hold(self, gsi: int, holder: "LevelInterrupt", high: bool) -> None:
        """Let `holder` hold line `gsi`, or let go of it. Raises TriggerError."""
        with self._lock:
            holders = self._holders.setdefault(gsi, set())
            before = bool(holders)
            (holders.add if high else holders.discard)(holder)
            if self._vm is None or bool(holders) == before:
                return
            try:
                self._vm.set_irq_line(gsi, high)
            except KvmError as error:
                raise TriggerError(f"interrupt line {gsi}: {error.strerror}") from error


class LevelInterrupt:
    """A devices.Interrupt for one device that holds a line. Closed, it is cut."""

    def __init__(self, lines: LevelLines, gsi: int) -> None:
        self._lines = lines
        self._gsi = gsi
        self._lock = threading.Lock()
        self._closed = False

    def trigger(self) -> None:
        """Raises TriggerError: an edge isn't seen there."""
        raise TriggerError(
            f"interrupt {self._gsi} is level-triggered: set_level holds it, and a "
            "LegacyIrqConstraint without level=True asks for edges"
        )

    def set_level(self, high: bool) -> None:
        """Hold the line, or let go of it. Raises TriggerError if KVM refuses."""
        with self._lock:
            if not self._closed:
                self._lines.hold(self._gsi, self, high)

    def close(self) -> None:
        """Let go for good."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._lines.hold(self._gsi, self, False)
