"""How a run loop enters the guest: KVM_RUN as it is, or with fast ports served in C."""

import os
import sys
from fcntl import ioctl
from typing import Final, Literal, Protocol

from ..devices.bus.io_manager import IoManager
from ..devices.fast_port import FastPorts
from ..errors import ConfigError
from ..kvm._libc import KICK_SIGNAL, run_ioctl
from ..kvm.coalesced import ENTRIES
from ..kvm.vcpu import Vcpu

Kind = Literal["python", "compiled"]
# Between two looks for posted writes. A guest that polls or takes interrupts has
# exits that bring them out; this is for one that stops after a write.
TICK_NS: Final = 16_000_000
VARIABLE: Final = "VMM_RUN_LOOP"


class Entry(Protocol):
    """What a run loop needs of one."""

    @property
    def served(self) -> int:
        """Exits served without the run loop's seeing them."""

    @property
    def collected(self) -> int:
        """Posted writes delivered without its seeing them."""

    def enter(self, fd: int, request: int, argument: int, /) -> object:
        """KVM_RUN. Raises OSError, InterruptedError among others."""

    def begin(self) -> None:
        """The calling thread is going to enter. Raises OSError."""

    def end(self) -> None:
        """It has entered for the last time."""


class PythonEntry:
    """KVM_RUN as it is: the run loop sees every exit."""

    served = collected = 0
    # From 3.14 on fcntl.ioctl retries EINTR in C, so that a vCPU whose immediate_exit
    # is set would spin for ever; before, it is twice as fast as ctypes.
    enter = staticmethod(run_ioctl if sys.version_info >= (3, 14) else ioctl)

    def begin(self) -> None:
        """Nothing to do: RunControl.poke brings posted writes out."""

    end = begin


class CompiledEntry:
    """run_loop.c: fast ports are served without Python, and without its lock."""

    def __init__(self, vcpu: Vcpu, io_manager: IoManager) -> None:
        from ._run_loop import ffi, lib

        self._ffi = ffi
        self._lib = lib
        self._enter = lib.enter_guest
        self._io_manager = io_manager
        self.loop = loop = ffi.new("struct run_loop *")
        loop.fd = vcpu.fd
        loop.run_vcpu = lib.run_vcpu
        # An address, not a buffer that would have to be given back: the vCPU, which
        # owns the mapping, outlives this.
        with ffi.from_buffer(vcpu.kvm_run) as start:
            loop.kvm_run = ffi.cast("struct kvm_run *", start)
        if vcpu.posted is not None:
            with ffi.from_buffer(vcpu.posted.ends) as start:
                loop.posted = ffi.cast("struct kvm_coalesced_mmio_ring *", start)
            loop.posted_max = ENTRIES
        self._load(io_manager.fast_ports)

    def _load(self, table: FastPorts) -> None:
        """Tell C of the fast ports; of those beyond its limit none, they exit."""
        ffi, loop = self._ffi, self.loop
        self._replaced = table.replaced
        self._memory = [ffi.from_buffer("char[]", table.replaced)]
        loop.replaced = ffi.cast("uint8_t *", self._memory[0])
        loop.count = 0
        for port, fast in list(table.ports.items())[: len(loop.port)]:
            self._memory.append(ffi.from_buffer("char[]", fast.memory))
            loop.port[loop.count] = port
            loop.fast[loop.count] = ffi.cast("struct fast_port *", self._memory[-1])
            loop.count += 1
            fast.in_use = True

    def begin(self) -> None:
        if self.loop.posted:
            code = self._lib.start_ticks(self.loop, KICK_SIGNAL, TICK_NS)
            if code:
                raise OSError(code, f"timer: {os.strerror(code)}")

    def end(self) -> None:
        if self.loop.posted:
            self._lib.stop_ticks(self.loop)

    def enter(self, fd: int, request: int, argument: int) -> None:
        if self._replaced[0]:
            self._load(self._io_manager.fast_ports)
        if code := self._enter(self.loop):
            raise OSError(code, os.strerror(code))

    @property
    def served(self) -> int:
        count: int = self.loop.served
        return count

    @property
    def collected(self) -> int:
        count: int = self.loop.collected
        return count


def why_not_compiled() -> str:
    """Why there is no compiled run loop here; "" if there is one."""
    try:
        from ._run_loop import lib  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


def entry_kind() -> Kind:
    """Which one to use: the compiled one if it was built, or as VMM_RUN_LOOP says.

    Raises ConfigError if that can't be.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "python", "compiled"):
        raise ConfigError(f"{VARIABLE}: {wanted!r} is not python or compiled")
    if wanted == "python":
        return "python"
    problem = why_not_compiled()
    if not problem:
        return "compiled"
    if wanted == "compiled":
        raise ConfigError(
            f"{VARIABLE}: the compiled run loop was not built ({problem}): install a C "
            "compiler and Python's headers, then this package again"
        )
    return "python"


def new_entry(kind: Kind, vcpu: Vcpu, io_manager: IoManager) -> Entry:
    """An entry for one vCPU."""
    return CompiledEntry(vcpu, io_manager) if kind == "compiled" else PythonEntry()
