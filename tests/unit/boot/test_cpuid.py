"""GuestCpuid: features, topology and frequencies, leaf by leaf."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import pytest

from vmm.boot.cpuid import GuestCpuid
from vmm.boot.cpuid_time import APIC_BUS_KHZ, NUMERATOR_MAX, as_ratio
from vmm.kvm.abi import kvm_cpuid2, kvm_cpuid_entry2

if TYPE_CHECKING:
    from vmm.kvm.kvm import Kvm

Leaves = Sequence[tuple[int, ...]]
Values = tuple[int, int, int, int]

# function, index, eax, ebx, ecx, edx: as KVM lists them on big hosts
INTEL = (
    (0x0, 0, 0x20, 0x756E_6547, 0x6C65_746E, 0x4965_6E69),
    (0x1, 0, 0x806F8, 0x3F40_0800, 0x0000_2001, 0x1F8B_FBFF),
    (0x4, 0, 0xFC00_4121, 0, 0, 0),  # L1, of two threads
    (0x4, 3, 0xFC1F_C163, 0, 0, 0),  # L3, of 128
    (0x4, 4, 0, 0, 0, 0),
    (0xB, 0, 1, 2, 0x100, 63),
    (0xB, 1, 6, 64, 0x201, 63),
    (0xB, 2, 0, 0, 2, 63),
    (0x1F, 0, 0, 0, 0, 0),  # KVM from 6.3 on lists level 0 alone
    (0x4000_0000, 0, 0x4000_0001, 0x4B4D_564B, 0x564B_4D56, 0x4D),
    (0x8000_0001, 0, 0, 0, 0x121, 0x2C10_0800),
    (0x8000_0008, 0, 0x302E, 0, 0, 0),
)
AMD = (
    (0x0, 0, 0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65),
    (0x1, 0, 0x830F10, 0x3F40_0800, 0x0000_2001, 0x1F8B_FBFF),
    (0xB, 0, 0, 0, 0, 0),
    (0x4000_0000, 0, 0x4000_0001, 0x4B4D_564B, 0x564B_4D56, 0x4D),
    (0x8000_0001, 0, 0x830F10, 0, 0x0040_01F0, 0x2FD3_FBFF),
    (0x8000_0008, 0, 0x3028, 0, 0x603F, 0),
    (0x8000_001D, 0, 0x4121, 0, 0, 0),
    (0x8000_001D, 3, 0x1_C163, 0, 0, 0),
    (0x8000_001D, 4, 0, 0, 0, 0),
    (0x8000_001E, 0, 63, 0x13F, 0x300, 0),
)


class FakeKvm:
    """Supports these leaves, and a TSC deadline timer or not."""

    def __init__(self, leaves: Leaves, tsc_deadline: int = 1) -> None:
        self._tsc_deadline = tsc_deadline
        self._leaves = leaves

    def supported_cpuid(self) -> kvm_cpuid2:
        cpuid = kvm_cpuid2(nent=len(self._leaves))
        for at, (function, index, *values) in enumerate(self._leaves):
            cpuid.entries[at] = kvm_cpuid_entry2(function, index, 1, *values)
        return cpuid

    def check_extension(self, capability: int) -> int:
        return self._tsc_deadline


def guest_leaves(
    host: Leaves, cpus: int, apic_id: int, *, tsc_khz: int = 0, tsc_deadline: int = 1
) -> dict[tuple[int, int], Values]:
    """All leaves of a vCPU by function and index."""
    kvm = cast("Kvm", FakeKvm(host, tsc_deadline))
    table = GuestCpuid(kvm, cpus, tsc_khz).for_cpu(apic_id)
    return {
        (entry.function, entry.index): (entry.eax, entry.ebx, entry.ecx, entry.edx)
        for entry in table.entries[: table.nent]
    }


EAX, EBX, ECX, EDX = range(4)

# host, function, index, register, then the value for each CPU that CPUS names
CPUS = ((1, 0), (2, 1), (3, 2), (8, 5), (32, 31))  # how many, which
TOPOLOGY = {
    "1 EBX: APIC id, CPUs": (
        (INTEL, 0x1, 0, EBX),
        (0x0001_0800, 0x0102_0800, 0x0203_0800, 0x0508_0800, 0x1F20_0800),
    ),
    "1 EDX: HTT with several": (
        (INTEL, 0x1, 0, EDX),
        (0x0F8B_FBFF, 0x1F8B_FBFF, 0x1F8B_FBFF, 0x1F8B_FBFF, 0x1F8B_FBFF),
    ),
    "4 EAX: L1 is a core's": (
        (INTEL, 0x4, 0, EAX),
        (0x0000_0121, 0x0400_0121, 0x0C00_0121, 0x1C00_0121, 0x7C00_0121),
    ),
    "4 EAX: L3 is the package's": (
        (INTEL, 0x4, 3, EAX),
        (0x0000_0163, 0x0400_4163, 0x0C00_C163, 0x1C01_C163, 0x7C07_C163),
    ),
    "4 EAX: the end of the list": ((INTEL, 0x4, 4, EAX), (0, 0, 0, 0, 0)),
    "B.0 EAX: no bits for threads": ((INTEL, 0xB, 0, EAX), (0, 0, 0, 0, 0)),
    "B.0 EBX: one thread": ((INTEL, 0xB, 0, EBX), (1, 1, 1, 1, 1)),
    "B.0 ECX: level of threads": ((INTEL, 0xB, 0, ECX), (0x100,) * 5),
    "B.0 EDX: APIC id": ((INTEL, 0xB, 0, EDX), (0, 1, 2, 5, 31)),
    "B.1 EAX: bits for cores": ((INTEL, 0xB, 1, EAX), (0, 1, 2, 3, 5)),
    "B.1 EBX: CPUs": ((INTEL, 0xB, 1, EBX), (1, 2, 3, 8, 32)),
    "B.1 ECX: level of cores": ((INTEL, 0xB, 1, ECX), (0x201,) * 5),
    "B.1 EDX: APIC id": ((INTEL, 0xB, 1, EDX), (0, 1, 2, 5, 31)),
    "B.2 EBX: nothing above": ((INTEL, 0xB, 2, EBX), (0,) * 5),
    "B.2 ECX: nothing above": ((INTEL, 0xB, 2, ECX), (2,) * 5),
    "1F.0 ECX: level of threads": ((INTEL, 0x1F, 0, ECX), (0x100,) * 5),
    "1F.1 EAX: bits for cores": ((INTEL, 0x1F, 1, EAX), (0, 1, 2, 3, 5)),
    "1F.1 EBX: CPUs": ((INTEL, 0x1F, 1, EBX), (1, 2, 3, 8, 32)),
    "1F.1 EDX: APIC id": ((INTEL, 0x1F, 1, EDX), (0, 1, 2, 5, 31)),
    "Intel 80000001 ECX stays": ((INTEL, 0x8000_0001, 0, ECX), (0x121,) * 5),
    "Intel 80000008 ECX stays": ((INTEL, 0x8000_0008, 0, ECX), (0,) * 5),
    "AMD 1 EBX: APIC id, CPUs": (
        (AMD, 0x1, 0, EBX),
        (0x0001_0800, 0x0102_0800, 0x0203_0800, 0x0508_0800, 0x1F20_0800),
    ),
    "AMD B.1 EBX: CPUs": ((AMD, 0xB, 1, EBX), (1, 2, 3, 8, 32)),
    "AMD 80000001 ECX: CmpLegacy with several": (
        (AMD, 0x8000_0001, 0, ECX),
        (0x0040_01F0, 0x0040_01F2, 0x0040_01F2, 0x0040_01F2, 0x0040_01F2),
    ),
    "AMD 80000008 ECX: bits of ids, CPUs": (
        (AMD, 0x8000_0008, 0, ECX),
        (0x0000, 0x1001, 0x2002, 0x3007, 0x501F),
    ),
    "AMD 8000001D EAX: L1 is a core's": ((AMD, 0x8000_001D, 0, EAX), (0x121,) * 5),
    "AMD 8000001D EAX: L3 is the package's": (
        (AMD, 0x8000_001D, 3, EAX),
        (0x0163, 0x4163, 0x8163, 0x1_C163, 0x7_C163),
    ),
    "AMD 8000001D EAX: the end": ((AMD, 0x8000_001D, 4, EAX), (0,) * 5),
    "AMD 8000001E EAX: APIC id": ((AMD, 0x8000_001E, 0, EAX), (0, 1, 2, 5, 31)),
    "AMD 8000001E EBX: core, 1 thread": ((AMD, 0x8000_001E, 0, EBX), (0, 1, 2, 5, 31)),
    "AMD 8000001E ECX: node 0 of 1": ((AMD, 0x8000_001E, 0, ECX), (0,) * 5),
}


@pytest.mark.parametrize("what", TOPOLOGY)
def test_topology(what: str) -> None:
    (host, function, index, register), expected = TOPOLOGY[what]
    found = [
        guest_leaves(host, cpus, apic_id)[function, index][register]
        for cpus, apic_id in CPUS
    ]
    assert [f"{value:#x}" for value in found] == [f"{value:#x}" for value in expected]


def test_leaf_4_tells_of_64_cores_at_most() -> None:
    assert guest_leaves(INTEL, 200, 0)[0x4, 0][EAX] == 63 << 26 | 0x121


# Features


def test_hypervisor_bit_is_set() -> None:
    assert guest_leaves(INTEL, 1, 0)[0x1, 0][ECX] == 0x0000_2001 | 1 << 31 | 1 << 24


def test_tsc_deadline_timer_is_offered_only_where_kvm_has_it() -> None:
    leaves = guest_leaves(INTEL, 1, 0, tsc_deadline=0)
    assert not leaves[0x1, 0][ECX] & 1 << 24


# Frequencies


def test_leaf_15_has_the_tsc_as_a_ratio_to_the_apic_timers_clock() -> None:
    leaves = guest_leaves(INTEL, 1, 0, tsc_khz=2_500_000)
    assert leaves[0x15, 0] == (2, 5, 1_000_000_000, 0)


def test_leaf_16_has_megahertz() -> None:
    assert guest_leaves(INTEL, 1, 0, tsc_khz=2_499_998)[0x16, 0] == (2500, 2500, 100, 0)


@pytest.mark.parametrize("host", [INTEL, AMD])
def test_hypervisor_leaf_10_has_kilohertz(host: Leaves) -> None:
    leaves = guest_leaves(host, 1, 0, tsc_khz=2_499_998)
    assert leaves[0x4000_0010, 0] == (2_499_998, 1_000_000, 0, 0)
    assert leaves[0x4000_0000, 0][EAX] == 0x4000_0010


def test_amd_has_no_crystal_leaves() -> None:
    leaves = guest_leaves(AMD, 1, 0, tsc_khz=2_500_000)
    assert leaves[0x0, 0][EAX] == 0x10
    assert not {(0x15, 0), (0x16, 0)} & leaves.keys()


def test_an_old_intel_cpus_leaves_go_up_to_16() -> None:
    old = ((0x0, 0, 0xD, *INTEL[0][3:]), *INTEL[1:])
    leaves = guest_leaves(old, 1, 0, tsc_khz=2_500_000)
    assert leaves[0x0, 0][EAX] == 0x16


def test_an_unknown_frequency_is_not_told() -> None:
    leaves = guest_leaves(INTEL, 1, 0)
    assert not {(0x15, 0), (0x16, 0), (0x4000_0010, 0)} & leaves.keys()
    assert leaves[0x4000_0000, 0][EAX] == 0x4000_0001


def test_a_frequency_that_no_small_ratio_has_is_not_in_leaf_15() -> None:
    leaves = guest_leaves(INTEL, 1, 0, tsc_khz=2_000_300)  # 150 ppm off 2 / 1
    assert (0x15, 0) not in leaves
    assert leaves[0x4000_0010, 0][EAX] == 2_000_300


@pytest.mark.parametrize("khz", [800_000, 2_095_078, 2_499_998, 2_999_999, 4_199_998])
def test_ratios_stay_within_linux_arithmetic_and_near(khz: int) -> None:
    numerator, denominator = as_ratio(khz, APIC_BUS_KHZ, NUMERATOR_MAX)
    assert APIC_BUS_KHZ * numerator < 1 << 32
    assert APIC_BUS_KHZ * numerator / denominator == pytest.approx(khz, rel=1e-5)
