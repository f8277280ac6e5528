"""The crash report and the paused guest, with a vCPU that is none."""

from collections.abc import Iterator

import pytest
from support.fake_vcpu import FakeVcpu

from vmm.debug.crash_report import MSR_LSTAR, crash_report
from vmm.debug.paused_guest import PausedGuest
from vmm.debug.symbols import Symbols, symbol
from vmm.errors import GuestAddressError, KvmError, VmmError
from vmm.kvm.abi import kvm_regs, kvm_sregs
from vmm.memory import GuestMemory, Range

TEXT = 0xFFFF_FFFF_8100_0000  # mapped to the page at 0x1000
STACK = 0xFFFF_C900_0000_0000  # to that at 0x2000


class StoppedVcpu(FakeVcpu):
    """Stopped in a function, with a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = {TEXT: 0x1000, STACK: 0x2000}
        self.regs = kvm_regs(rax=0xA, r15=0xF, rip=TEXT + 0x20, rsp=STACK + 0xF00)
        self.regs.rflags = 0x10046
        self.lstar = 0

    def get_regs(self) -> kvm_regs:
        return self.regs

    def get_sregs(self) -> kvm_sregs:
        sregs = kvm_sregs(cr0=0x8005_0033, cr2=8, cr3=0x3000, cr4=0x20, efer=0xD01)
        sregs.cs.selector, sregs.ss.selector = 0x10, 0x18
        return sregs

    def get_msrs(self, indices: object) -> list[int]:
        assert indices == (MSR_LSTAR,)
        return [self.lstar]


class LostVcpu(FakeVcpu):
    """One that KVM tells nothing of."""

    def get_regs(self) -> kvm_regs:
        raise KvmError(5, "KVM_GET_REGS failed")


@pytest.fixture
def vcpu() -> Iterator[StoppedVcpu]:
    vcpu = StoppedVcpu()
    yield vcpu
    vcpu.close()


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory([Range(0, 0x4000)])
    memory.write(0x1000, bytes(range(256)))
    memory.write(0x2F00, (TEXT + 0x84).to_bytes(8, "little"))
    memory.write(0x2F08, (0x1234).to_bytes(8, "little"))
    yield memory
    memory.close()


def symbols() -> Symbols:
    names = b"start caller entry_SYSCALL_64 "
    places = (TEXT, 0), (TEXT + 0x80, 6), (TEXT + 0x100, 13)
    return Symbols([symbol(at, True, name) for at, name in places], names, end=b" ")


def test_report_shows_registers(vcpu: StoppedVcpu, memory: GuestMemory) -> None:
    lines = crash_report([vcpu], memory, None).splitlines()
    assert lines[:4] == [
        "vCPU 0:",
        "RIP: 0010:ffffffff81000020",
        "RSP: 0018:ffffc90000000f00 RFLAGS: 00010046",
        "RAX: 000000000000000a RBX: 0000000000000000 RCX: 0000000000000000",
    ]
    zeros = " R14: 0000000000000000"
    assert lines[7] == f"R13: 0000000000000000{zeros} R15: 000000000000000f"
    assert lines[8:10] == [
        "CR0: 0000000080050033 CR2: 0000000000000008 CR3: 0000000000003000",
        "CR4: 0000000000000020 EFER: 0000000000000d01",
    ]


def test_report_shows_code_around_rip(vcpu: StoppedVcpu, memory: GuestMemory) -> None:
    before, after = bytes(range(0x10, 0x20)), bytes(range(0x21, 0x40))
    code = f"Code: {before.hex(' ')} <20> {after.hex(' ')}"
    assert code in crash_report([vcpu], memory, None).splitlines()


def test_code_before_rip_may_not_be_mapped(
    vcpu: StoppedVcpu, memory: GuestMemory
) -> None:
    vcpu.regs.rip = TEXT + 2
    assert "\nCode: 00 01 <02> 03 " in crash_report([vcpu], memory, None)


def test_code_and_stack_may_not_be_mapped(
    vcpu: StoppedVcpu, memory: GuestMemory
) -> None:
    vcpu.pages.clear()
    report = crash_report([vcpu], memory, None)
    assert report.endswith("\nCode: not mapped\nStack: not mapped")


def test_report_shows_the_stack(vcpu: StoppedVcpu, memory: GuestMemory) -> None:
    report = crash_report([vcpu], memory, None)
    zeros = " 0000000000000000" * 2
    assert f"\nStack:\n ffffffff81000084 0000000000001234{zeros}\n" in report
    assert "Code addresses" not in report


def test_symbols_name_rip_and_the_stack(vcpu: StoppedVcpu, memory: GuestMemory) -> None:
    report = crash_report([vcpu], memory, symbols())
    assert "\nRIP: 0010:ffffffff81000020 start+0x20/0x80\n" in report
    assert report.endswith("\nCode addresses on the stack:\n caller+0x4/0x80")


def test_symbols_follow_a_kernel_that_kaslr_has_moved(
    vcpu: StoppedVcpu, memory: GuestMemory
) -> None:
    slide = 0x60_0000
    vcpu.lstar = TEXT + 0x100 + slide
    vcpu.regs.rip = TEXT + slide + 1
    assert " start+0x1/0x80\n" in crash_report([vcpu], memory, symbols())


def test_a_vcpu_that_kvm_has_reset_shows_no_code(
    vcpu: StoppedVcpu, memory: GuestMemory
) -> None:
    vcpu.regs.rip = 0xFFF0
    report = crash_report([vcpu], memory, None)
    assert report.endswith("\nKVM has reset this vCPU: what it had is lost")
    assert "Code" not in report


def test_every_vcpu_has_its_part_though_one_is_lost(
    vcpu: StoppedVcpu, memory: GuestMemory
) -> None:
    lost = LostVcpu()
    lines = crash_report([lost, vcpu], memory, None).splitlines()
    lost.close()
    assert lines[0].startswith("vCPU 0: its state can't be read: ")
    assert "KVM_GET_REGS failed" in lines[0]
    assert lines[1] == "vCPU 0:"


# PausedGuest


@pytest.fixture
def guest(vcpu: StoppedVcpu, memory: GuestMemory) -> PausedGuest:
    return PausedGuest([vcpu], memory, lambda: None)


def test_paused_guest_has_registers_by_name(guest: PausedGuest) -> None:
    registers = guest.registers()
    names = "rip rflags cr0 cr2 cr3 cr4 efer cs ss rax r8 r15".split()
    assert set(names) <= registers.keys()
    assert (registers["rax"], registers["cr2"], registers["cs"]) == (0xA, 8, 0x10)


def test_paused_guest_has_both_kinds_of_memory(guest: PausedGuest) -> None:
    assert guest.read_virtual(TEXT + 0x20, 2) == b"\x20\x21"
    assert guest.read_physical(0x1020, 2) == b"\x20\x21"
    assert guest.read_virtual(TEXT + 0xFFF, 2) == b"\0"  # the next page isn't mapped
    with pytest.raises(GuestAddressError, match="is not RAM"):
        guest.read_physical(0x4000, 1)


@pytest.mark.parametrize("cpu", [-1, 1])
def test_vcpu_that_is_not_there_is_named(guest: PausedGuest, cpu: int) -> None:
    with pytest.raises(VmmError, match=f"there is no vCPU {cpu}: the guest has 1"):
        guest.registers(cpu)


def test_guest_that_goes_on_can_not_be_looked_at(guest: PausedGuest) -> None:
    guest.release()
    for look in (
        guest.registers,
        guest.report,
        lambda: guest.read_physical(0, 1),
        lambda: guest.read_virtual(TEXT, 1),
    ):
        with pytest.raises(VmmError, match="isn't paused any more"):
            look()
