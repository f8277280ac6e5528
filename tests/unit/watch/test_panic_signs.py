"""PanicSigns: a kernel that has panicked is told from one that was quoted."""

from collections.abc import Iterator

import pytest
from support.fake_vcpu import FakeVcpu

from vmm.errors import KvmError
from vmm.kvm.abi import (
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED,
    kvm_regs,
    kvm_sregs,
)
from vmm.memory import GuestMemory, Range
from vmm.watch.panic_signs import (
    DELAYS,
    HALTED,
    LOOK_MAX_NS,
    LOOK_NS,
    MASKED,
    PanicSigns,
)

IF = 1 << 9
KERNEL = 0xFFFF_FFFF_8100_0000
PROGRAM = 0x40_0000
KERNEL_CS, USER_CS = 0x10, 0x33
DELAY_TSC = bytes.fromhex("0f aee8 0f31 48c1e220 4809d0 4829f0 4839f8 7309 f390 ebe8")
DELAY_TSCP = bytes.fromhex("f390 0f01f9 6690 48c1e220 4809c2 4829f2 4839fa 72ea c3")
DELAY_LOOP = bytes.fromhex("6690 48ffc8 75fb 48ffc8 c3")
LOOKS = 40


class Cpu(FakeVcpu):
    """A vCPU as a test wants it."""

    def __init__(self, rip: int, flags: int, cs: int, state: int) -> None:
        super().__init__()
        self.rip, self.flags, self.cs, self.state = rip, flags, cs, state
        self.pages = {rip & ~0xFFF: 0x1000}

    def get_regs(self) -> kvm_regs:
        return kvm_regs(rip=self.rip, rflags=self.flags)

    def get_sregs(self) -> kvm_sregs:
        sregs = kvm_sregs()
        sregs.cs.selector = self.cs
        return sregs

    def get_mp_state(self) -> int:
        return self.state


def cpu(
    *,
    rip: int = KERNEL,
    flags: int = 0,
    cs: int = KERNEL_CS,
    state: int = KVM_MP_STATE_RUNNABLE,
) -> Cpu:
    return Cpu(rip, flags, cs, state)


def halted(flags: int) -> Cpu:
    return cpu(flags=flags, state=KVM_MP_STATE_HALTED)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory([Range(0, 0x4000)])
    yield memory
    memory.close()


def looks(
    memory: GuestMemory, *cpus: Cpu, by_printk: bool = True, count: int = LOOKS
) -> PanicSigns:
    """Look until it is clear, at most `count` times."""
    signs = PanicSigns()
    for _ in range(count):
        signs.look(cpus, memory, by_printk=by_printk)
        if signs.sign or signs.is_refuted:
            break
    for vcpu in cpus:
        vcpu.close()
    return signs


@pytest.mark.parametrize(
    "code", [DELAY_TSC, DELAY_TSCP, DELAY_LOOP], ids=["tsc", "tscp", "loop"]
)
@pytest.mark.parametrize("flags", [0, IF], ids=["panic=5", "panic=0"])
@pytest.mark.parametrize("cs", [KERNEL_CS, USER_CS], ids=["ring0", "ring3"])
def test_a_kernel_that_spins_in_mdelay_has_panicked(
    memory: GuestMemory, code: bytes, flags: int, cs: int
) -> None:
    memory.write(0x1000, code)
    waits = cpu(rip=KERNEL + 8, flags=flags, cs=cs)
    assert looks(memory, waits, halted(0)).sign == DELAYS
    assert looks(memory, cpu(rip=KERNEL + 8, cs=cs), by_printk=False).sign == DELAYS


def test_cpus_that_halt_with_interrupts_off_have_stopped_for_good(
    memory: GuestMemory,
) -> None:
    assert looks(memory, halted(0), halted(0), count=2).sign == HALTED
    assert looks(memory, halted(0), by_printk=False).sign is None


def test_interrupts_that_stay_off_are_a_panics(memory: GuestMemory) -> None:
    assert looks(memory, cpu(), count=5).sign is None
    assert looks(memory, cpu(), halted(0)).sign == MASKED


@pytest.mark.parametrize(
    "alive",
    [
        {"rip": PROGRAM, "flags": IF, "cs": USER_CS},
        {"flags": IF, "state": KVM_MP_STATE_HALTED},
        {"rip": PROGRAM, "flags": 0, "cs": USER_CS},  # iopl(3), cli
    ],
    ids=["a program", "idle", "a program with interrupts off"],
)
def test_a_guest_lives_if_one_cpu_does(
    memory: GuestMemory, alive: dict[str, int]
) -> None:
    memory.write(0x1000, DELAY_TSC)  # a program's own, for one
    signs = looks(memory, halted(0), cpu(), cpu(**alive), count=1)
    assert (signs.sign, signs.is_refuted) == (None, True)


def test_a_kernel_that_works_for_long_is_left_alone_and_seldom_looked_at(
    memory: GuestMemory,
) -> None:
    signs = looks(memory, cpu(flags=IF), count=1)
    assert signs.next_look_ns == LOOK_NS
    signs = looks(memory, halted(0), cpu(flags=IF), count=100)
    assert (signs.sign, signs.is_refuted) == (None, False)
    assert signs.next_look_ns == LOOK_MAX_NS


def test_interrupts_that_are_off_now_and_then_prove_nothing(
    memory: GuestMemory,
) -> None:
    signs = PanicSigns()
    with cpu() as vcpu:
        for number in range(100):
            vcpu.flags = IF if number % 10 == 9 else 0
            signs.look([vcpu], memory, by_printk=True)
    assert signs.sign is None


@pytest.mark.parametrize("flags", [0, IF])
def test_a_kernel_that_prints_is_no_sign(memory: GuestMemory, flags: int) -> None:
    """Interrupts off, and udelay() until its UART takes the next byte."""
    memory.write(0x1000, DELAY_TSC)
    signs = PanicSigns()
    with cpu(rip=KERNEL + 8, flags=flags) as vcpu:
        for number in range(100):
            signs.look([vcpu], memory, printed=number // 3)
    assert signs.sign is None


def test_a_kernel_that_reads_the_time_here_and_there_is_no_sign(
    memory: GuestMemory,
) -> None:
    """Where RDTSC exits, a busy one is often seen at it."""
    signs = PanicSigns()
    with cpu(flags=IF) as vcpu:
        for number in range(100):
            page = 0x1000 * (number % 3)
            vcpu.rip = KERNEL + page + 0x100
            vcpu.pages = {KERNEL + page: 0x1000}
            memory.write(0x1100, DELAY_TSC)
            signs.look([vcpu], memory)
    assert signs.sign is None


def test_cpus_that_were_never_started_do_not_count(memory: GuestMemory) -> None:
    parked = cpu(flags=IF, state=KVM_MP_STATE_UNINITIALIZED)
    assert looks(memory, halted(0), parked, count=2).sign == HALTED


def test_a_kvm_that_does_not_say_is_no_sign(memory: GuestMemory) -> None:
    class Mute(Cpu):
        def get_mp_state(self) -> int:
            raise KvmError(22, "KVM_GET_MP_STATE failed: Invalid argument")

    signs = looks(memory, Mute(KERNEL, 0, KERNEL_CS, 0), count=100)
    assert (signs.sign, signs.is_refuted) == (None, False)
    assert signs.next_look_ns == LOOK_MAX_NS
