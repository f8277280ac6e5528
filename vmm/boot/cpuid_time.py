"""The leaves of CPUID that tell how fast the TSC and the local APIC's timer run.

A guest with kvm-clock asks that; others would measure it against a PIT that an
overcommitted host delays. Sources: Intel SDM volume 2, CPUID leaves 0x15 and 0x16;
leaf 0x40000010 as VMware defined it (LKML, "Hypervisor CPUID interface proposal").
"""

from typing import Final

from ..kvm.abi import kvm_cpuid2, kvm_cpuid_entry2

VENDOR_INTEL: Final = 0x756E_6547  # leaf 0, EBX: "Genu"
APIC_BUS_KHZ: Final = 1_000_000  # KVM's APIC_BUS_CYCLE_NS is 1
# Linux multiplies leaf 0x15's crystal, in kHz, by its numerator in 32 bits.
NUMERATOR_MAX: Final = 0xFFFF_FFFF // APIC_BUS_KHZ
TOLERATED: Final = 1e-5  # what NTP corrects at once; a PIT is no better
BASIC: Final = 0
CRYSTAL: Final = 0x15
FREQUENCY: Final = 0x16
HYPERVISOR: Final = 0x4000_0000
TIMING: Final = 0x4000_0010


def tell_frequency(cpuid: kvm_cpuid2, tsc_khz: int) -> None:
    """Put the frequency, above 0, into every leaf that the guest's vendor has."""
    basic, hypervisor = _find(cpuid, BASIC), _find(cpuid, HYPERVISOR)
    if hypervisor is not None:
        hypervisor.eax = max(hypervisor.eax, TIMING)
        timing = _leaf(cpuid, TIMING)
        timing.eax, timing.ebx = tsc_khz, APIC_BUS_KHZ
    if basic is None or basic.ebx != VENDOR_INTEL:
        return
    basic.eax = max(basic.eax, FREQUENCY)
    numerator, denominator = as_ratio(tsc_khz, APIC_BUS_KHZ, NUMERATOR_MAX)
    told_khz = APIC_BUS_KHZ * numerator / denominator
    if abs(told_khz - tsc_khz) <= tsc_khz * TOLERATED:
        crystal = _leaf(cpuid, CRYSTAL)
        # The core crystal is what clocks the APIC timer.
        crystal.eax, crystal.ebx = denominator, numerator
        crystal.ecx = APIC_BUS_KHZ * 1000
    frequency = _leaf(cpuid, FREQUENCY)
    mhz = round(tsc_khz / 1000)
    frequency.eax, frequency.ebx, frequency.ecx = mhz, mhz, 100  # base, highest, bus


def as_ratio(value: int, unit: int, limit: int) -> tuple[int, int]:
    """`value / unit` as a fraction whose numerator is `limit` at most.

    The last convergent of its continued fraction that fits; `value // unit` has to.
    """
    before, last = (0, 1), (1, 0)
    while unit:
        whole, rest = divmod(value, unit)
        fraction = whole * last[0] + before[0], whole * last[1] + before[1]
        if fraction[0] > limit:
            break
        before, last = last, fraction
        value, unit = unit, rest
    return last


def _find(cpuid: kvm_cpuid2, function: int) -> kvm_cpuid_entry2 | None:
    entries = (cpuid.entries[at] for at in range(cpuid.nent))
    return next((entry for entry in entries if entry.function == function), None)


def _leaf(cpuid: kvm_cpuid2, function: int) -> kvm_cpuid_entry2:
    """The leaf, added if KVM doesn't list it."""
    found = _find(cpuid, function)
    if found is None:
        cpuid.entries[cpuid.nent] = kvm_cpuid_entry2(function=function)
        cpuid.nent += 1
        found = cpuid.entries[cpuid.nent - 1]
    return found
