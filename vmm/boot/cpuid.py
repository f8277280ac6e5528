"""What CPUID tells the guest: what KVM supports, and the machine's topology.

Sources: KVM API 4.46 (KVM_GET_SUPPORTED_CPUID), Intel SDM volume 2 CPUID, AMD
APM volume 3 appendix E.
"""

from typing import Final

from ..kvm.abi import (
    KVM_CAP_TSC_DEADLINE_TIMER,
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    kvm_cpuid2,
    kvm_cpuid_entry2,
)
from ..kvm.kvm import Kvm

ECX_TSC_DEADLINE: Final = 1 << 24  # leaf 1
ECX_HYPERVISOR: Final = 1 << 31  # leaf 1
EDX_HTT: Final = 1 << 28  # leaf 1: EBX[23:16] is valid
LEVEL_CORE: Final = 2 << 8  # leaf 0xB, ECX


class GuestCpuid:
    """The CPUID of a guest with `cpus` CPUs, one core each in one package."""

    def __init__(self, kvm: Kvm, cpus: int) -> None:
        self._cpuid = kvm.supported_cpuid()
        self._cpus = cpus
        self._tsc_deadline = bool(kvm.check_extension(KVM_CAP_TSC_DEADLINE_TIMER))
        self._add_core_levels()

    def for_cpu(self, apic_id: int) -> kvm_cpuid2:
        """The table for one vCPU; valid until the next call."""
        for index in range(self._cpuid.nent):
            entry = self._cpuid.entries[index]
            if entry.function == 1:
                self._feature_leaf(entry, apic_id)
            elif entry.function == 4:
                self._cache_leaf(entry)
            elif entry.function in (0xB, 0x1F):
                self._topology_leaf(entry, apic_id)
            elif entry.function == 0x8000_0008:
                entry.ecx = entry.ecx & ~0xFFFF | self._cpus - 1
            elif entry.function == 0x8000_001E:
                entry.eax, entry.ebx, entry.ecx = apic_id, apic_id, 0
        return self._cpuid

    def _add_core_levels(self) -> None:
        """Make room for level 1 where KVM lists level 0 alone, as from 6.3 on.

        Without it every CPU is a package of its own.
        """
        cpuid = self._cpuid
        entries = (cpuid.entries[at] for at in range(cpuid.nent))
        levels = {(entry.function, entry.index) for entry in entries}
        for function in (0xB, 0x1F):
            if (function, 0) in levels and (function, 1) not in levels:
                cpuid.entries[cpuid.nent] = kvm_cpuid_entry2(
                    function=function, index=1, flags=KVM_CPUID_FLAG_SIGNIFCANT_INDEX
                )
                cpuid.nent += 1

    def _feature_leaf(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
        # Without the hypervisor bit Linux ignores kvm-clock and calibrates its
        # TSC against a PIT whose ticks it then may never see.
        entry.ecx |= ECX_HYPERVISOR
        if self._tsc_deadline:  # KVM leaves it to us to offer it
            entry.ecx |= ECX_TSC_DEADLINE
        entry.ebx = entry.ebx & 0xFFFF | self._cpus << 16 | apic_id << 24
        if self._cpus > 1:
            entry.edx |= EDX_HTT
        else:
            entry.edx &= ~EDX_HTT

    def _cache_leaf(self, entry: kvm_cpuid_entry2) -> None:
        if entry.eax & 0x1F:  # a cache, not the end of the list
            cores, shared_by = self._cpus - 1, 0
            entry.eax = entry.eax & 0x3FFF | shared_by << 14 | cores << 26

    def _topology_leaf(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
        shift = (self._cpus - 1).bit_length()
        entry.eax = entry.ebx = 0
        entry.ecx = entry.index
        if entry.index == 0:
            entry.eax, entry.ebx, entry.ecx = 0, 1, 1 << 8
        elif entry.index == 1:
            entry.eax, entry.ebx = shift, self._cpus
            entry.ecx = entry.index | LEVEL_CORE
        entry.edx = apic_id
