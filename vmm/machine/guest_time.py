"""GuestTime: the clocks that KVM keeps for a guest, over a pause."""

from collections.abc import Sequence
from typing import Final

from ..kvm.vcpu import Vcpu
from ..kvm.vm import Vm

IA32_TSC: Final = 0x10
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
        self._clock_ns = vm.get_clock()
        self._tscs = [vcpu.get_msrs([IA32_TSC])[0] for vcpu in vcpus]

    def go_on(self) -> None:
        """Set the clocks. Raises KvmError."""
        if self._vcpus[0].has_tsc_offset:
            # The same for all: they stay as synchronous as they are.
            passed = self._vcpus[0].get_msrs([IA32_TSC])[0] - self._tscs[0]
            for vcpu in self._vcpus:
                vcpu.set_tsc_offset((vcpu.get_tsc_offset() - passed) % 2**64)
        else:
            for vcpu, tsc in zip(self._vcpus, self._tscs, strict=True):
                vcpu.set_msrs([(IA32_TSC, tsc)])
        self._vm.set_clock(self._clock_ns)
        if self._pit.channels[0].mode in _PERIODIC:
            self._vm.set_pit2(self._pit)
        for vcpu in self._vcpus:
            vcpu.tell_of_pause()
