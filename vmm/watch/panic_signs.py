"""What a guest's CPUs show of a panic: a second sign, beside words on its console.

A kernel that has panicked runs no program any more and waits for no interrupt. One CPU
resets at once, or spins in mdelay(), with interrupts off (panic=N) or on (panic=0);
the others halt with interrupts off. Sources: kernel/panic.c, panic(); arch/x86/
kernel/process.c, stop_this_cpu(); arch/x86/lib/delay.c.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from ..boot.layout import PAGE_SIZE
from ..errors import VmmError
from ..kvm.abi import (
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED,
    kvm_regs,
)
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory
from ..vcpu.virtual_memory import read_virtual

HALTED: Final = "its CPUs halt with interrupts off"
MASKED: Final = "its interrupts stay off"
DELAYS: Final = "its kernel spins in a delay loop"

LOOK_NS: Final = 8_000_000  # between two looks, at first
LOOK_MAX_NS: Final = 500_000_000
ROUND: Final = 6  # looks, of which
DELAYS_MIN: Final = 3  # must show the same loop: others may be of a timer's interrupt
LOOP_MAX: Final = 64  # bytes of code, within which it is the same
MASKED_MIN: Final = 12  # in a row; a healthy kernel has interrupts off for shorter

_RFLAGS_IF: Final = 1 << 9
_KERNEL_HALF: Final = 1 << 63  # of the addresses: where Linux is, whatever its ring
_NOT_STARTED: Final = (
    KVM_MP_STATE_UNINITIALIZED,
    KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_SIPI_RECEIVED,
)
_AROUND: Final = 40  # bytes before RIP, in its page, and after that tell of a delay
# rdtsc, rdtscp and pause of delay_tsc(), tpause, mwaitx; dec %rax, jnz of delay_loop()
_OF_A_DELAY: Final = (
    b"\x0f\x31",
    b"\x0f\x01\xf9",
    b"\xf3\x90",
    b"\x66\x0f\xae",
    b"\x0f\x01\xfb",
    b"\x48\xff\xc8\x75",
    b"\x48\x75\xfd",  # likewise, of 32 bits
)


class _Does(Enum):
    """What a vCPU does at the moment."""

    LIVES = "runs a program, or waits for an interrupt"
    HALTS = "halts with interrupts off"
    DELAYS = "is in a delay loop of the kernel"
    IS_MASKED = "runs with interrupts off"
    WORKS = "is elsewhere in the kernel"


def _what_it_does(vcpu: Vcpu, regs: kvm_regs, state: int, memory: GuestMemory) -> _Does:
    """Raises KvmError."""
    sregs = vcpu.get_sregs()
    masked = not regs.rflags & _RFLAGS_IF
    if state == KVM_MP_STATE_HALTED:
        return _Does.HALTS if masked else _Does.LIVES
    if sregs.cs.selector & 3 == 3 and not regs.rip & _KERNEL_HALF:
        return _Does.LIVES
    start = max(regs.rip - _AROUND, regs.rip - regs.rip % PAGE_SIZE)
    code = read_virtual(vcpu, memory, start, 2 * _AROUND)
    if any(piece in code for piece in _OF_A_DELAY):
        return _Does.DELAYS
    return _Does.IS_MASKED if masked else _Does.WORKS


class PanicSigns:
    """What looks at a guest come to that has printed the words of a panic.

    The vCPUs stand still at each, and it is made on the thread of the first. `sign` is
    what shows the panic, once it is shown; `is_refuted` that the guest lives.
    """

    def __init__(self) -> None:
        self.sign: str | None = None
        self.is_refuted = False
        self.next_look_ns = LOOK_NS
        """After this it is to be looked at again, unless all is clear."""
        self._looks = 0
        self._printed = -1
        self._delays: list[int] = []  # where a CPU was in a delay loop
        self._masked_in_a_row = 0

    def look(
        self,
        vcpus: Sequence[Vcpu],
        memory: GuestMemory,
        *,
        by_printk: bool = True,
        printed: int = 0,
    ) -> None:
        """Note what they do. `by_printk`: the words stand where the kernel's do.

        Else they may be a program's before somebody's HLT, and more is asked. `printed`
        is how much the guest has: a kernel that prints has interrupts off, and waits
        for its UART by udelay(), however healthy it is.
        """
        is_silent, self._printed = printed == self._printed, printed
        self._looks += 1
        if self._looks % ROUND == 0:  # for long it is one that works, silently
            self._delays.clear()
            self.next_look_ns = min(2 * self.next_look_ns, LOOK_MAX_NS)
        all_do: set[_Does] = set()
        delays_at, are_masked = None, True
        try:
            for vcpu in vcpus:
                state, regs = vcpu.get_mp_state(), vcpu.get_regs()
                if state in _NOT_STARTED:
                    continue
                does = _what_it_does(vcpu, regs, state, memory)
                all_do.add(does)
                delays_at = regs.rip if does is _Does.DELAYS else delays_at
                are_masked = are_masked and not regs.rflags & _RFLAGS_IF
        except VmmError:
            return  # KVM doesn't say
        if _Does.LIVES in all_do:
            self.is_refuted = True
        elif not is_silent:
            self._forget()
        elif all_do == {_Does.HALTS}:  # for good: but for an NMI nothing wakes them
            self.sign = HALTED if by_printk else None
        else:
            self._masked_in_a_row = self._masked_in_a_row + 1 if are_masked else 0
            self._count(None if _Does.WORKS in all_do else delays_at)

    def _forget(self) -> None:
        self._delays.clear()
        self._masked_in_a_row = 0

    def _count(self, delays_at: int | None) -> None:
        if delays_at is not None:
            self._delays.append(delays_at)
            near = [at for at in self._delays if abs(at - delays_at) < LOOP_MAX]
            if len(near) >= DELAYS_MIN:
                self.sign = DELAYS
        if self._masked_in_a_row >= MASKED_MIN and self.sign is None:
            self.sign = MASKED
