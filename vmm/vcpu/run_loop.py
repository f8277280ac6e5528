"""The hot path: KVM_RUN, decode why it returned, dispatch to the bus.

Source: KVM API section 5, "The kvm_run structure".
"""

import errno
from collections.abc import Callable
from struct import Struct
from typing import Final, Protocol

from ..boot.firmware import told_of_reset
from ..devices.device_io import DeviceIo
from ..errors import KvmError
from ..kvm.abi import (
    KVM_EXIT_INTR,
    KVM_EXIT_IO,
    KVM_EXIT_IRQ_WINDOW_OPEN,
    KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN,
    KVM_EXIT_SYSTEM_EVENT,
    KVM_EXIT_UNKNOWN,
    KVM_RUN,
    KVM_RUN_EXIT_REASON,
    KVM_RUN_IMMEDIATE_EXIT,
    KVM_RUN_MMIO_DATA,
    KVM_RUN_UNION,
    KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
)
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory
from ..result import ExitReason
from .control import End, RunControl
from .entry import Entry, PythonEntry
from .fatal_exit import describe_exit

# exit_reason, and in the union: direction, size, port, count, data_offset
_EXIT_IO: Final = Struct("<I20xBBHIQ").unpack_from
# phys_addr, (data), len, is_write
_EXIT_MMIO: Final = Struct("<Q8xIB").unpack_from
_SYSTEM_EVENT: Final = Struct("<I").unpack_from
_SYSTEM_EVENTS: Final = {
    KVM_SYSTEM_EVENT_RESET: End(ExitReason.RESET),
    KVM_SYSTEM_EVENT_SHUTDOWN: End(ExitReason.POWEROFF),
}

Rescue = Callable[[int], bool]
"""Takes an exit's reason; whether the guest can go on after it."""


class Bus(Protocol):
    """What a run loop wants of an IoManager."""

    def pio_read(self, port: int, data: memoryview) -> None: ...
    def pio_write(self, port: int, data: memoryview) -> None: ...
    def mmio_read(self, address: int, data: memoryview) -> None: ...
    def mmio_write(self, address: int, data: memoryview) -> None: ...
    def device_at_port(self, port: int) -> DeviceIo | None: ...
    def device_at_address(self, address: int) -> DeviceIo | None: ...


class RunLoop:
    """Runs one vCPU on the calling thread until its RunControl has an end.

    It stops at a clean boundary: what the last exit has asked for is completed, and
    posted writes are delivered.
    `rescue` is asked about an exit that would end the run: quirks of the host.
    `entry` is how it enters the guest. An exception that a device raises passes
    through `run`; `blame` then tells whose and where.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        memory: GuestMemory,
        io_manager: Bus,
        control: RunControl,
        rescue: Rescue | None = None,
        entry: Entry | None = None,
    ) -> None:
        self.vcpu = vcpu
        self._memory = memory
        self._io_manager = io_manager
        self._control = control
        self._rescue = rescue
        self._entry = entry or PythonEntry()
        self._posted_write: tuple[int, int] | None = None  # port, size: being delivered
        self._exits = {"io": 0, "mmio": 0, "intr": 0, "other": 0}

    @property
    def exits(self) -> dict[str, int]:
        """How many there were, by kind.

        `fast` are those of `io` that were served in C; `coalesced` are writes that
        made no exit.
        """
        served, collected = self._entry.served, self._entry.collected
        posted = self.vcpu.posted  # it may be closed while another thread reads this
        if posted is not None:
            collected += posted.taken
        total = self._exits["io"] + served
        return {**self._exits, "io": total, "fast": served, "coalesced": collected}

    def run(self) -> None:
        """Run until the end. Raises what devices raise, and KvmError."""
        self._control.enter(self.vcpu)
        try:
            self._entry.begin()
            try:
                self._loop()
            finally:
                self._entry.end()
            self._deliver_posted()
        finally:
            self._control.leave(self.vcpu)

    def _loop(self) -> None:
        control, exits = self._control, self._exits
        fd, run, enter = self.vcpu.fd, self.vcpu.kvm_run, self._entry.enter
        posted = self.vcpu.posted
        ends = (0, 0) if posted is None else posted.ends
        bus = self._io_manager
        pio_accesses = bus.pio_read, bus.pio_write
        mmio_accesses = bus.mmio_read, bus.mmio_write
        while True:
            # KVM completes the exit before at the next entry (API 5), and may ask for
            # more: the rest of an access that crosses a page. Then it interrupts.
            if control.end is not None:
                run[KVM_RUN_IMMEDIATE_EXIT] = 1
            try:
                enter(fd, KVM_RUN, 0)
            except OSError as error:
                self._not_run(error)
                if control.end is not None:
                    return
                continue
            if ends[0] != ends[1]:
                self._deliver_posted()  # they came before what the exit asks for
            reason, is_write, size, port, count, start = _EXIT_IO(
                run, KVM_RUN_EXIT_REASON
            )
            if reason == KVM_EXIT_IO:
                exits["io"] += 1
                access = pio_accesses[is_write]
                if count == 1:
                    access(port, run[start : start + size])
                else:  # rep ins/outs: the port stays, the data goes on
                    for at in range(start, start + size * count, size):
                        access(port, run[at : at + size])
            elif reason == KVM_EXIT_MMIO:
                exits["mmio"] += 1
                address, size, is_write = _EXIT_MMIO(run, KVM_RUN_UNION)
                data = run[KVM_RUN_MMIO_DATA : KVM_RUN_MMIO_DATA + size]
                mmio_accesses[is_write](address, data)
            else:
                exits["other"] += 1
                self._rare(reason)

    def _not_run(self, error: OSError) -> None:
        """KVM_RUN was left without an exit; raises KvmError if not by an interrupt."""
        # EINTR for a kick; EAGAIN when INIT or SIPI has woken this CPU.
        if not isinstance(error, InterruptedError | BlockingIOError):
            # What kvm_run says is the exit before: blame() must not read it.
            self.vcpu.kvm_run[KVM_RUN_EXIT_REASON] = KVM_EXIT_UNKNOWN
            raise KvmError(error.errno, f"KVM_RUN failed: {error.strerror}") from None
        self._exits["intr"] += 1
        self._deliver_posted()
        if self.vcpu.kvm_run[KVM_RUN_IMMEDIATE_EXIT]:
            self._control.passed(self.vcpu)

    def _deliver_posted(self) -> None:
        """Do the writes that KVM has collected."""
        if self.vcpu.posted is None:
            return
        for is_pio, address, data in self.vcpu.posted.take():
            self._posted_write = address, len(data)
            if is_pio:
                self._io_manager.pio_write(address, data)
            else:
                self._io_manager.mmio_write(address, data)
        self._posted_write = None

    def _rare(self, reason: int) -> None:
        """An exit that is no access: nothing to do, or the end of the run."""
        if reason in (KVM_EXIT_INTR, KVM_EXIT_IRQ_WINDOW_OPEN):
            return
        refusal = ""
        if self._rescue is not None:
            try:
                if self._rescue(reason):
                    return
            except KvmError as error:
                if error.errno != errno.EINVAL:
                    raise
                # What KVM won't have the guest has made, and no hardware would either.
                refusal = f", and {error.strerror}"
        end = None
        if reason == KVM_EXIT_SYSTEM_EVENT:
            end = _SYSTEM_EVENTS.get(_SYSTEM_EVENT(self.vcpu.kvm_run, KVM_RUN_UNION)[0])
        elif reason == KVM_EXIT_SHUTDOWN and told_of_reset(self._memory):
            end = End(ExitReason.RESET)  # a PC's way, if none of its own is left
        if end is None:
            detail = describe_exit(self.vcpu, self._memory, reason) + refusal
            end = End(ExitReason.CRASH, detail)
        self._control.finish(end)

    def blame(self, error: Exception) -> str:
        """Name the device and the access during which `error` was raised."""
        reason, is_write, size, port, _, _ = _EXIT_IO(
            self.vcpu.kvm_run, KVM_RUN_EXIT_REASON
        )
        if self._posted_write is not None:
            (port, size), is_write, reason = self._posted_write, True, KVM_EXIT_IO
        if reason == KVM_EXIT_IO:
            device = self._io_manager.device_at_port(port)
            where = f"port {port:#x}"
        elif reason == KVM_EXIT_MMIO:
            address, size, is_write = _EXIT_MMIO(self.vcpu.kvm_run, KVM_RUN_UNION)
            device = self._io_manager.device_at_address(address)
            where = f"address {address:#x}"
        else:
            return f"{type(error).__name__}: {error}"
        access = "write to" if is_write else "read of"
        who = "an unplugged device"
        if device is not None:
            who = f"device {type(device.get_author_device()).__name__}"
        return (
            f"{who} raised {type(error).__name__}: {error} "
            f"during a {size}-byte {access} {where}"
        )
