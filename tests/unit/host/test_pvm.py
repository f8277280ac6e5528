"""The quirks of PVM, each on a vCPU that stands where it is needed."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.fake_vcpu import FakeVcpu, internal_error, plain
from support.kernel_images import bzimage, elf, program_header

from vmm.boot.image import KernelImage
from vmm.boot.kernel import open_kernel
from vmm.host.pvm import PVM_PARAMETERS, SMALL_KERNEL, PvmQuirks, hide_features
from vmm.host.quirks import Quirks
from vmm.host.selection import quirks_for
from vmm.kvm import abi
from vmm.kvm.abi import kvm_cpuid2, kvm_regs, kvm_sregs
from vmm.memory import GuestMemory, Range
from vmm.vcpu.run_loop import Rescue

RAM = 0x8000
CODE, IDT, STACK = 0x1000, 0x2000, 0x3000
LONG_MODE = 1 << 8 | 1 << 10  # EFER.LME, LMA
HANDLER = 0xFFFF_8000_1234_5678
LSTAR = 0xFFFF_8000_0000_0040
USER_RSP = 0x7FFF_0000
HIDDEN = f"{PVM_PARAMETERS} clearcpuid=308,154,151,297,580"


class GuestVcpu(FakeVcpu):
    """Has registers, and memory at virtual addresses that are physical ones."""

    def __init__(self) -> None:
        super().__init__()
        self.regs = kvm_regs(rip=CODE, rsp=STACK, r11=0x246)
        self.sregs = kvm_sregs()
        self.sregs.idt.base, self.sregs.idt.limit = IDT, 16 * 256 - 1
        self.sregs.efer = LONG_MODE
        self.msrs = {0xC000_0081: 0x23_0010 << 32, 0xC000_0084: 0x4_7700}
        self.refuses_msrs = False
        self.exceptions: list[int] = []
        self.breakpoint: int | None = None
        self.steps = 0

    def get_regs(self) -> kvm_regs:
        return kvm_regs.from_buffer_copy(self.regs)

    def set_regs(self, regs: kvm_regs) -> None:
        self.regs = regs

    def get_sregs(self) -> kvm_sregs:
        return kvm_sregs.from_buffer_copy(self.sregs)

    def set_sregs(self, sregs: kvm_sregs) -> None:
        self.sregs = sregs

    def get_msrs(self, indices: Sequence[int]) -> list[int]:
        return [self.msrs.get(index, 0) for index in indices]

    def set_msrs(self, values: Sequence[tuple[int, int]]) -> int:
        if self.refuses_msrs:
            return 0
        self.msrs.update(values)
        return len(values)

    def inject_exception(self, vector: int) -> None:
        self.exceptions.append(vector)

    def set_breakpoint(self, address: int | None) -> None:
        self.breakpoint = address

    def step(self) -> None:
        self.breakpoint = None
        self.steps += 1

    def translate(self, linear_addr: int) -> int | None:
        return linear_addr if linear_addr < RAM else None


@pytest.fixture
def vcpu() -> Iterator[GuestVcpu]:
    with GuestVcpu() as vcpu:
        yield vcpu


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory([Range(0, RAM)])
    offset = HANDLER & 0xFFFF, HANDLER >> 16 & 0xFFFF, HANDLER >> 32
    gate = struct.pack("<HHBBHII", offset[0], 0x10, 0, 0x8E, *offset[1:], 0)
    memory.write(IDT + 14 * 16, gate)
    yield memory
    memory.close()


@pytest.fixture
def quirks() -> PvmQuirks:
    return PvmQuirks()


@pytest.fixture
def rescue(quirks: PvmQuirks, vcpu: GuestVcpu, memory: GuestMemory) -> Rescue:
    rescue = quirks.rescue(vcpu, memory)
    assert rescue is not None
    return rescue


def fail_at(vcpu: GuestVcpu, memory: GuestMemory, code: str) -> int:
    """Let the emulator fail at `code`; the exit's reason."""
    memory.write(CODE, bytes.fromhex(code))
    internal_error(abi.KVM_INTERNAL_ERROR_EMULATION)(vcpu.kvm_run)
    return abi.KVM_EXIT_INTERNAL_ERROR


def write_lstar(vcpu: GuestVcpu, value: int = LSTAR) -> int:
    """The exit of a guest that writes LSTAR."""
    struct.pack_into("<B7xIIQ", vcpu.kvm_run, 32, 0, 4, 0xC000_0082, value)
    return abi.KVM_EXIT_X86_WRMSR


def fault(vcpu: GuestVcpu, memory: GuestMemory, rip: int, cs: int) -> int:
    """The exit at the page-fault handler, for a fault at `rip`."""
    vcpu.regs.rip = HANDLER
    memory.write(STACK, struct.pack("<6Q", 0x15, rip, cs, 0x246, USER_RSP, 0x2B))
    return abi.KVM_EXIT_DEBUG


# Instructions


def test_int3_raises_bp_after_it(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue, quirks: PvmQuirks
) -> None:
    assert rescue(fail_at(vcpu, memory, "cc"))
    assert vcpu.exceptions == [3]
    assert vcpu.regs.rip == CODE + 1
    assert quirks.counts == {"int3": 1}


def test_fwait_is_passed_over(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue, quirks: PvmQuirks
) -> None:
    assert rescue(fail_at(vcpu, memory, "9b"))
    assert vcpu.exceptions == []
    assert vcpu.regs.rip == CODE + 1
    assert quirks.counts == {"fwait": 1}


def test_unknown_instruction_is_not_rescued(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue, quirks: PvmQuirks
) -> None:
    assert not rescue(fail_at(vcpu, memory, "f3 0f b8 c0"))
    assert vcpu.regs.rip == CODE
    assert quirks.counts == {}


def test_unreadable_instruction_is_not_rescued(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue
) -> None:
    vcpu.regs.rip = RAM
    assert not rescue(fail_at(vcpu, memory, "cc"))


def test_other_internal_errors_are_not_rescued(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue
) -> None:
    fail_at(vcpu, memory, "cc")
    internal_error(3)(vcpu.kvm_run)
    assert not rescue(abi.KVM_EXIT_INTERNAL_ERROR)


def test_other_exits_are_not_rescued(vcpu: GuestVcpu, rescue: Rescue) -> None:
    plain(abi.KVM_EXIT_SHUTDOWN)(vcpu.kvm_run)
    assert not rescue(abi.KVM_EXIT_SHUTDOWN)


def test_crash_note_names_every_quirk_and_its_count(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue, quirks: PvmQuirks
) -> None:
    rescue(fail_at(vcpu, memory, "cc"))
    assert quirks.note() == (
        "; PVM quirks: cpuid 0, cmdline 0, unpack 0, int3 1, fwait 0, syscall 0"
    )


# System calls


def test_write_of_lstar_is_done_and_arms_the_page_fault_handler(
    vcpu: GuestVcpu, rescue: Rescue
) -> None:
    assert rescue(write_lstar(vcpu))
    assert vcpu.msrs[0xC000_0082] == LSTAR
    assert vcpu.kvm_run[32] == 0  # no error
    assert vcpu.breakpoint == HANDLER


def test_write_of_lstar_that_kvm_refuses_raises_gp(
    vcpu: GuestVcpu, rescue: Rescue
) -> None:
    vcpu.refuses_msrs = True
    assert rescue(write_lstar(vcpu, 1 << 60))
    assert vcpu.kvm_run[32] == 1


def test_lstar_written_anew_learns_the_handler_anew(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue
) -> None:
    rescue(write_lstar(vcpu))
    memory.write(IDT + 14 * 16, b"\0\x10")
    rescue(write_lstar(vcpu))
    assert vcpu.breakpoint == HANDLER & ~0xFFFF | 0x1000


@pytest.mark.parametrize("limit", [0, 14 * 16, 15 * 16 - 2])
def test_idt_without_a_page_fault_gate_arms_nothing(
    vcpu: GuestVcpu, rescue: Rescue, limit: int
) -> None:
    vcpu.sregs.idt.limit = limit
    assert rescue(write_lstar(vcpu))
    assert vcpu.breakpoint is None


def test_idt_that_is_not_mapped_arms_nothing(vcpu: GuestVcpu, rescue: Rescue) -> None:
    vcpu.sregs.idt.base = RAM
    assert rescue(write_lstar(vcpu))
    assert vcpu.breakpoint is None


def test_guest_that_is_not_in_long_mode_arms_nothing(
    vcpu: GuestVcpu, rescue: Rescue
) -> None:
    vcpu.sregs.efer = 0
    assert rescue(write_lstar(vcpu))
    assert vcpu.breakpoint is None


def test_guest_that_has_left_long_mode_makes_no_system_call(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue, quirks: PvmQuirks
) -> None:
    rescue(write_lstar(vcpu))
    vcpu.sregs.efer = 0
    assert rescue(fault(vcpu, memory, LSTAR, 0x33))
    assert (vcpu.regs.rip, quirks.counts) == (HANDLER, {})


def test_gate_that_is_not_present_arms_nothing(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue
) -> None:
    memory.write(IDT + 14 * 16 + 5, b"\x0e")
    assert rescue(write_lstar(vcpu))
    assert vcpu.breakpoint is None


def test_fault_at_lstar_from_user_mode_enters_the_kernel_as_syscall_does(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue, quirks: PvmQuirks
) -> None:
    rescue(write_lstar(vcpu))
    assert rescue(fault(vcpu, memory, LSTAR, 0x33))
    assert (vcpu.regs.rip, vcpu.regs.rsp) == (LSTAR, USER_RSP)
    assert vcpu.regs.rflags == 0x246 & ~0x4_7700 | 2
    assert (vcpu.sregs.cs.selector, vcpu.sregs.ss.selector) == (0x10, 0x18)
    assert (vcpu.sregs.cs.dpl, vcpu.sregs.cs.l) == (0, 1)
    assert quirks.counts == {"syscall": 1}
    assert vcpu.breakpoint == HANDLER


def test_program_cannot_choose_flags_that_are_not_its_own(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue
) -> None:
    """It may jump to LSTAR with any R11, which sysret would load as RFLAGS."""
    rescue(write_lstar(vcpu))
    vcpu.regs.r11 = 0xFFFF_FFFF_FFFF_FFFF
    rescue(fault(vcpu, memory, LSTAR, 0x33))
    assert vcpu.regs.r11 == 0x25_4FD7  # neither IOPL nor VM nor VIF
    assert vcpu.regs.rflags == 0x25_4FD7 & ~0x4_7700 | 2


@pytest.mark.parametrize(("rip", "cs"), [(0x40_0000, 0x33), (LSTAR, 0x10)])
def test_other_fault_is_the_guests_own(
    vcpu: GuestVcpu,
    memory: GuestMemory,
    rescue: Rescue,
    quirks: PvmQuirks,
    rip: int,
    cs: int,
) -> None:
    rescue(write_lstar(vcpu))
    assert rescue(fault(vcpu, memory, rip, cs))
    assert vcpu.regs.rip == HANDLER
    assert (vcpu.steps, vcpu.breakpoint) == (1, None)
    assert rescue(abi.KVM_EXIT_DEBUG)  # the handler's first instruction has run
    assert (vcpu.steps, vcpu.breakpoint) == (1, HANDLER)
    assert quirks.counts == {}


def test_fault_with_an_unreadable_frame_is_the_guests_own(
    vcpu: GuestVcpu, memory: GuestMemory, rescue: Rescue
) -> None:
    rescue(write_lstar(vcpu))
    fault(vcpu, memory, LSTAR, 0x33)
    vcpu.regs.rsp = RAM - 8
    assert rescue(abi.KVM_EXIT_DEBUG)
    assert vcpu.steps == 1


# What the guest is told


def test_cmpxchg16b_is_hidden_and_nothing_else(quirks: PvmQuirks) -> None:
    cpuid = kvm_cpuid2(nent=2)
    cpuid.entries[0].function, cpuid.entries[0].ecx = 1, 0xFFFF_FFFF
    cpuid.entries[1].function, cpuid.entries[1].ecx = 7, 0xFFFF_FFFF
    quirks.cpuid(cpuid)
    assert cpuid.entries[0].ecx == 0xFFFF_FFFF & ~(1 << 13)
    assert cpuid.entries[1].ecx == 0xFFFF_FFFF
    assert quirks.counts == {"cpuid": 1}


def test_hypercalls_which_never_end_are_hidden(quirks: PvmQuirks) -> None:
    cpuid = kvm_cpuid2(nent=1)
    cpuid.entries[0].function, cpuid.entries[0].eax = 0x4000_0001, 0xFFFF_FFFF
    quirks.cpuid(cpuid)
    assert cpuid.entries[0].eax == 0xFFFF_FFFF & ~(1 << 7 | 1 << 11 | 1 << 13)


def test_tsc_that_no_pause_can_stop_is_no_clocksource(quirks: PvmQuirks) -> None:
    cpuid = kvm_cpuid2(nent=1)
    cpuid.entries[0].function, cpuid.entries[0].edx = 0x8000_0007, 0xFFFF_FFFF
    quirks.cpuid(cpuid)
    assert cpuid.entries[0].edx == 0xFFFF_FFFF & ~(1 << 8)


def test_parameters_come_before_the_users(quirks: PvmQuirks) -> None:
    assert quirks.cmdline("quiet rodata=on") == f"{HIDDEN} quiet rodata=on"
    assert quirks.counts == {"cmdline": 1}


def test_parameters_alone_have_no_blank_after_them() -> None:
    assert hide_features("") == HIDDEN


def test_users_clearcpuid_is_joined_since_linux_takes_the_last() -> None:
    assert hide_features("a clearcpuid=10 b  c") == (
        f"{PVM_PARAMETERS} a clearcpuid=10,308,154,151,297,580 b  c"
    )


# What the user is told


def image(folder: Path, size: int) -> KernelImage:
    path = folder / "vmlinux"
    path.write_bytes(elf([program_header(16 << 20, size, size, offset=4096)]))
    with path.open("r+b") as file:
        file.truncate(4096 + size)
    return open_kernel(path)


def test_a_small_kernel_on_one_cpu_has_no_warning(
    quirks: PvmQuirks, tmp_path: Path
) -> None:
    kernel = image(tmp_path, SMALL_KERNEL)
    assert quirks.warnings(kernel, 1) == []
    kernel.file.close()


def test_a_big_kernel_and_more_cpus_are_warned_of_with_the_way_out(
    quirks: PvmQuirks, tmp_path: Path
) -> None:
    kernel = image(tmp_path, SMALL_KERNEL + 4096)
    cpus, size = quirks.warnings(kernel, 2)
    kernel.file.close()
    assert cpus.startswith("2 CPUs: this host's KVM (PVM) emulates kernel code")
    assert "scripts/with-kvm vmm run" in cpus
    assert "half an hour" in size
    assert "scripts/with-kvm vmm run" in size


@pytest.mark.parametrize(("payload", "warnings"), [((0, 64), 1), ((0, 0), 0)])
def test_what_unpacks_itself_by_linux32_is_warned_of(
    quirks: PvmQuirks, tmp_path: Path, payload: tuple[int, int], warnings: int
) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(payload=payload))
    kernel = open_kernel(path, "linux32")
    kernel.file.close()
    assert quirks.kernel(kernel) is kernel
    assert len(quirks.warnings(kernel, 1)) == warnings


def test_a_vmlinux_is_not_unpacked(quirks: PvmQuirks, tmp_path: Path) -> None:
    kernel = image(tmp_path, 4096)
    assert quirks.kernel(kernel) is kernel
    assert quirks.counts == {}
    kernel.file.close()


def test_a_stock_linux_is_warned_of_once(quirks: PvmQuirks, tmp_path: Path) -> None:
    kernel = image(tmp_path, 4096).replace(linux=True)
    (warning,) = quirks.warnings(kernel, 1)
    kernel.file.close()
    assert "does not run in ring 3" in warning
    assert "AVX" in warning
    assert "'scripts/build-guest full-ring3'" in warning


# A kernel in ring 3


def test_ring_3_needs_none_of_the_quirks_for_emulated_code(
    quirks: PvmQuirks, vcpu: GuestVcpu, memory: GuestMemory, tmp_path: Path
) -> None:
    kernel = image(tmp_path, 4096).replace(linux=True, ring3=True)
    assert quirks.kernel(kernel) is kernel
    kernel.file.close()
    assert quirks.warnings(kernel, 1) == []
    assert quirks.cmdline("quiet") == "quiet"
    assert quirks.rescue(vcpu, memory) is None
    assert quirks.silence_s == Quirks.silence_s
    assert quirks.counts == {}


def test_ring_3_elsewhere_is_warned_of(tmp_path: Path) -> None:
    kernel = image(tmp_path, 4096).replace(linux=True, ring3=True)
    (warning,) = Quirks().warnings(kernel, 1)
    kernel.file.close()
    assert "here a stock one is faster" in warning


# Other hosts


def test_hardware_needs_no_quirk(
    vcpu: GuestVcpu, memory: GuestMemory, tmp_path: Path
) -> None:
    quirks = quirks_for("hardware")
    kernel = image(tmp_path, SMALL_KERNEL + 4096)
    assert type(quirks) is Quirks
    assert quirks.kernel(kernel) is kernel
    assert quirks.cmdline("quiet") == "quiet"
    assert quirks.warnings(kernel, 32) == []
    assert quirks.rescue(vcpu, memory) is None
    assert (quirks.note(), quirks.counts) == ("", {})
    kernel.file.close()


def test_pvm_gets_its_quirks() -> None:
    assert isinstance(quirks_for("pvm"), PvmQuirks)
