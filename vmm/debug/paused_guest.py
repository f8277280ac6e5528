"""PausedGuest: a guest that stands still, to be looked at."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import VmmError
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory
from ..vcpu.virtual_memory import read_virtual
from .crash_report import crash_report, registers
from .symbols import Symbols

_T = TypeVar("_T")


class PausedGuest:
    """Registers and memory of a guest whose vCPUs have stopped.

    Any thread may use it. Once the guest goes on or is gone, everything raises
    VmmError.
    """

    def __init__(
        self,
        vcpus: Sequence[Vcpu],
        memory: GuestMemory,
        find_symbols: Callable[[], Symbols | None],
    ) -> None:
        self._vcpus = vcpus
        self._memory = memory
        self._find_symbols = find_symbols  # which takes longer than most pauses
        self._lock = threading.Lock()
        self._is_over = False

    def registers(self, cpu: int = 0) -> dict[str, int]:
        """`rax` to `r15`, `rip`, `rflags`, `cr0` to `cr4`, `efer`, `cs` and `ss`."""
        with self._lock:
            return registers(self._vcpu(cpu))

    def read_physical(self, address: int, size: int) -> bytes:
        """Guest physical memory. Raises GuestAddressError unless all of it is RAM."""
        with self._lock:
            self._check()
            return self._memory.read(address, size)

    def read_virtual(self, address: int, size: int, cpu: int = 0) -> bytes:
        """Memory as a vCPU sees it; less than `size` where no RAM is mapped."""
        with self._lock:
            return read_virtual(self._vcpu(cpu), self._memory, address, size)

    def report(self) -> str:
        """Registers, code and stack of all vCPUs as text."""
        with self._lock:
            self._check()
            return crash_report(self._vcpus, self._memory, self._find_symbols())

    def hold(self, call: "Callable[[], _T]") -> "_T":
        """What `call` returns; for as long as it takes, the guest stands still."""
        with self._lock:
            self._check()
            return call()

    def release(self) -> None:
        """The guest goes on, or is taken down; waits for whoever is looking."""
        with self._lock:
            self._is_over = True

    def _check(self) -> None:
        if self._is_over:
            raise VmmError("the guest isn't paused any more")

    def _vcpu(self, cpu: int) -> Vcpu:
        self._check()
        if not 0 <= cpu < len(self._vcpus):
            raise VmmError(f"there is no vCPU {cpu}: the guest has {len(self._vcpus)}")
        return self._vcpus[cpu]
