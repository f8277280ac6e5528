"""GuestTime: the clocks that KVM keeps for a guest, over a pause, and in a clone."""

from collections.abc import Sequence
from typing import Final

from ..kvm.vcpu import Vcpu
from ..kvm.vm import Vm
from ..kvm.vm_state import ClockState, get_clock

IA32_TSC: Final = 0x10
_WRAP: Final = 1 << 64
_PERIODIC: Final = (2, 3)  # modes of the i8254 whose ticks would pile up


class GuestTime:
    """Made when all vCPUs stand still; `go_on`, before they run, goes on from there.

    kvm-clock and the TSC continue as if nothing had been. Periods of the i8254 begin
    anew, and its ticks don't pile up. A LAPIC's timer runs on in KVM: what has come
    due meanwhile, or does so soon, comes at once and early, once for each vCPU, which
    guests take for one tick too many.

    A TSC has to run on where KVM has no TSC offset to write: on PVM, whose guests read
    the host's, and before Linux 5.16 for pauses of less than a second, since KVM takes
    such a write for one that is to synchronise vCPUs.
    """

    def __init__(self, vm: Vm, vcpus: Sequence[Vcpu]) -> None:
        self._vm = vm
        self._vcpus = vcpus
        self._pit = vm.get_pit2()
        self.clock = get_clock(vm)
        self._tscs = [get_tsc(vcpu) for vcpu in vcpus]

    def go_on(self) -> None:
        """Set the clocks. Raises KvmError."""
        continue_clocks(self._vm, self._vcpus, self.clock, self._tscs)
        if self._pit.channels[0].mode in _PERIODIC:
            self._vm.set_pit2(self._pit)


Tsc = tuple[int, int | None]
"""What a guest's TSC was, and KVM's offset of it from the host's, if it has one."""


def get_tsc(vcpu: Vcpu) -> Tsc:
    """Both, for `continue_clocks`."""
    offset = vcpu.get_tsc_offset() if vcpu.has_tsc_offset else None
    return vcpu.get_msrs([IA32_TSC])[0], offset


def continue_clocks(
    vm: Vm, vcpus: Sequence[Vcpu], clock: ClockState, tscs: Sequence[Tsc]
) -> list[int]:
    """Have kvm-clock go on from `clock`, and the TSCs with it, as they were then.

    As a pair: guests compare them, and a millisecond apart they take the TSC for
    unstable. Returns how far each TSC, which may not be movable, is ahead. The formula
    is that of Documentation/virt/kvm/devices/vcpu.rst.
    """
    vm.set_clock(clock.clock_ns)
    now = get_clock(vm)
    passed = (now.clock_ns - clock.clock_ns) * vcpus[0].get_tsc_khz() // 1_000_000
    ahead = []
    for vcpu, (tsc, offset) in zip(vcpus, tscs, strict=True):
        host_tsc = _host_tsc(clock, tscs[0])
        if offset is None or host_tsc is None:
            vcpu.set_msrs([(IA32_TSC, (tsc + passed) % _WRAP)])
            ahead.append(0)
        else:
            elapsed = _host_tsc(now, get_tsc(vcpu)) or 0
            wanted = (offset + host_tsc - elapsed + passed) % _WRAP
            vcpu.set_tsc_offset(wanted)
            ahead.append((vcpu.get_tsc_offset() - wanted) % _WRAP)
        vcpu.tell_of_pause()
    return ahead


def _host_tsc(clock: ClockState, guest: Tsc) -> int | None:
    """The host's TSC when it was `clock`; from a guest's, read soon after, if KVM
    doesn't say, as where its clock isn't made of it.
    """
    if clock.host_tsc is not None:
        return clock.host_tsc
    tsc, offset = guest
    return None if offset is None else (tsc - offset) % _WRAP
