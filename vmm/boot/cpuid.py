"""What CPUID tells the guest: what KVM supports, and the machine's own topology.

Its CPUs are the cores, of one thread each, of one package; APIC ids are 0 and up.

Sources: KVM API 4.46 (KVM_GET_SUPPORTED_CPUID), Intel SDM volume 2 CPUID, AMD
APM volume 3 appendix E.
"""

from typing import TYPE_CHECKING, Final

from ..kvm.abi import (
    KVM_CAP_TSC_DEADLINE_TIMER,
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    kvm_cpuid2,
    kvm_cpuid_entry2,
)
from ..kvm.kvm import Kvm
from .cpuid_time import VENDOR_INTEL, tell_frequency

if TYPE_CHECKING:
    from collections.abc import Callable

ECX_TSC_DEADLINE: Final = 1 << 24  # leaf 1
ECX_HYPERVISOR: Final = 1 << 31  # leaf 1
EDX_HTT: Final = 1 << 28  # leaf 1: EBX[23:16] is valid
ECX_CMP_LEGACY: Final = 1 << 1  # leaf 0x80000001: HTT means cores, not threads
LEVEL_THREAD: Final = 1 << 8  # leaves 0xB and 0x1F, ECX
LEVEL_CORE: Final = 2 << 8
CORES_MAX: Final = 64  # that leaf 4 can tell of
SHARED_LEVEL: Final = 3  # caches from this level on are the package's


class GuestCpuid:
    """The CPUID of a guest with `cpus` CPUs, 1..255, whose TSC has `tsc_khz`.

    0 kHz: not known, and not told.
    """

    def __init__(self, kvm: Kvm, cpus: int, tsc_khz: int = 0) -> None:
        self._cpuid = kvm.supported_cpuid()
        self._cpus = cpus
        self._id_bits = (cpus - 1).bit_length()  # of an APIC id
        self._tsc_deadline = bool(kvm.check_extension(KVM_CAP_TSC_DEADLINE_TIMER))
        self._add_core_levels()
        if tsc_khz:
            tell_frequency(self._cpuid, tsc_khz)
        self._is_intel = any(
            entry.function == 0 and entry.ebx == VENDOR_INTEL
            for entry in self._cpuid.entries[: self._cpuid.nent]
        )
        self._leaves: dict[int, Callable[[kvm_cpuid_entry2, int], None]] = {
            0x1: self._features,
            0x4: self._intel_cache,
            0xB: self._levels,
            0x1F: self._levels,
            0x8000_0001: self._amd_features,
            0x8000_0008: self._amd_core_count,
            0x8000_001D: self._amd_cache,
            0x8000_001E: self._amd_ids,
        }

    def for_cpu(self, apic_id: int) -> kvm_cpuid2:
        """The table for one vCPU; valid until the next call."""
        for entry in self._cpuid.entries[: self._cpuid.nent]:
            if fill := self._leaves.get(entry.function):
                fill(entry, apic_id)
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

    def _features(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
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

    def _intel_cache(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
        """EAX[25:14] and [31:26] count APIC ids, used or not, less one."""
        if entry.eax & 0x1F:  # a cache, not the end of the list
            cores = min(1 << self._id_bits, CORES_MAX)
            entry.eax = entry.eax & 0x3FFF | cores - 1 << 26
            entry.eax |= self._sharers(entry, 1 << self._id_bits)

    def _sharers(self, entry: kvm_cpuid_entry2, of_package: int) -> int:
        level = entry.eax >> 5 & 7
        return (of_package - 1 if level >= SHARED_LEVEL else 0) << 14

    def _levels(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
        known = {
            0: (0, 1, LEVEL_THREAD),
            1: (self._id_bits, self._cpus, LEVEL_CORE),
        }
        entry.eax, entry.ebx, kind = known.get(entry.index, (0, 0, 0))
        entry.ecx = entry.index | kind
        entry.edx = apic_id

    def _amd_features(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
        if self._is_intel:
            return
        if self._cpus > 1:
            entry.ecx |= ECX_CMP_LEGACY
        else:
            entry.ecx &= ~ECX_CMP_LEGACY

    def _amd_core_count(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
        """ECX: bits of an APIC id that number cores, and how many there are."""
        if self._is_intel:  # reserved there
            return
        entry.ecx = entry.ecx & ~0xFFFF | self._id_bits << 12 | self._cpus - 1

    def _amd_cache(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
        if entry.eax & 0x1F:
            entry.eax = entry.eax & 0x3FFF | self._sharers(entry, self._cpus)

    def _amd_ids(self, entry: kvm_cpuid_entry2, apic_id: int) -> None:
        """APIC id; core, of one thread; node 0, the only one."""
        entry.eax, entry.ebx, entry.ecx = apic_id, apic_id, 0
