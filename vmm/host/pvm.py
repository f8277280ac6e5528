"""Quirks of PVM: what Linux needs from us where its kernel code is emulated.

PVM is a KVM without VMX or SVM: the guest's user code (64-bit, CPL 3) runs
natively, its kernel code is run by KVM's instruction emulator. That emulator was
made for device drivers and real mode, and lacks what else a kernel uses.

A kernel that runs in ring 3 (guest/linux/ring3.config) needs next to nothing of it.
"""

from collections.abc import Callable
from struct import Struct
from threading import Lock
from typing import Final

from ..boot.bzimage import has_payload
from ..boot.cpu_state import EFER_LMA, code_segment, data_segment
from ..boot.image import LINUX32, LINUX64, KernelImage
from ..boot.layout import MIB
from ..devices.state import State, Uint64
from ..installation import script
from ..kvm.abi import (
    KVM_EXIT_DEBUG,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_X86_WRMSR,
    KVM_INTERNAL_ERROR_EMULATION,
    KVM_RUN_UNION,
    kvm_cpuid2,
    kvm_regs,
)
from ..kvm.vcpu import Vcpu
from ..kvm.vm import Vm
from ..memory import GuestMemory
from ..vcpu.virtual_memory import read_virtual
from .quirks import Quirks, Rescue, RescueState

_SUBERROR: Final = Struct("<I").unpack_from
_WRMSR: Final = Struct("<B7xIIQ").unpack_from  # error, reason, index, data
_GATE: Final = Struct("<HHBBHI4x")  # offset, selector, ist, type, offset, offset
_FRAME: Final = Struct("<8xQQQQ")  # error code, RIP, CS, RFLAGS, RSP

SMALL_KERNEL: Final = 32 * MIB  # our full one has 15, Debian's cloud kernel 50
QUIRKS: Final = ("cpuid", "cmdline", "unpack", "int3", "fwait", "syscall")
BP_VECTOR: Final = 3
PF_VECTOR: Final = 14
GATE_PRESENT: Final = 1 << 7
RFLAGS_RESERVED: Final = 1 << 1  # always set
RFLAGS_IF: Final = 1 << 9  # as it is in every program
RFLAGS_USERS: Final = 0x25_4DD5  # CF PF AF ZF SF TF DF OF NT RF AC ID
ECX_CX16: Final = 1 << 13  # CPUID leaf 1
KVM_CPUID_FEATURES: Final = 0x4000_0001
# By hypercall, with several CPUs: PV_UNHALT, PV_SEND_IPI, PV_SCHED_YIELD.
HYPERCALLS: Final = 1 << 7 | 1 << 11 | 1 << 13
ADVANCED_POWER: Final = 0x8000_0007
INVARIANT_TSC: Final = 1 << 8  # EDX

MSR_STAR: Final = 0xC000_0081
MSR_LSTAR: Final = 0xC000_0082
MSR_SYSCALL_MASK: Final = 0xC000_0084


class PvmQuirks(Quirks):
    """All that PVM needs. Each quirk below says why."""

    name = "pvm"
    silence_s = 60  # a quiet boot takes 5 to 50 s

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._ring3 = False

    def count(self, quirk: str) -> None:
        """Note that a quirk was applied, by whichever vCPU."""
        with self._lock:
            self.counts[quirk] = self.counts.get(quirk, 0) + 1

    def note(self) -> str:
        """All quirks and how often each was applied: a new one may be missing."""
        counts = (f"{name} {self.counts.get(name, 0)}" for name in QUIRKS)
        return f"; PVM quirks: {', '.join(counts)}"

    def kernel(self, image: KernelImage) -> KernelImage:
        """Quirk `unpack`: a bzImage's decompressor would be emulated for minutes.

        What it unpacks is entered directly instead. Without the quirks for emulated
        code, if it runs in ring 3.
        """
        if image.setup_header and image.protocol == LINUX64:
            from ..boot.payload import unpack_bzimage  # a vmlinux needs none of it

            packed, image = image, unpack_bzimage(image)
            if image is not packed:
                self.count("unpack")
        self._ring3 = image.ring3
        if self._ring3:
            self.silence_s = Quirks.silence_s
        return image

    def cmdline(self, cmdline: str) -> str:
        """Quirk `cmdline`: hide features that CPUID can't, see HIDDEN_FEATURES."""
        if self._ring3:
            return cmdline
        self.count("cmdline")
        return hide_features(cmdline)

    def cpuid(self, cpuid: kvm_cpuid2) -> None:
        """Quirk `cpuid`: the emulator has no cmpxchg16b (0f c7 /1 with REX.W).

        Of leaf 1 and 7 it is the only feature that stays hidden: PVM adds the
        host's own bits to the rest. And it emulates a `vmcall` by executing it again,
        for ever, so that the guest must not be told to make any. Its TSC is the host's,
        with no offset that could hide a pause: Linux takes kvm-clock, which we can set,
        as long as it isn't told that the TSC is invariant.
        """
        self.count("cpuid")
        for entry in cpuid.entries[: cpuid.nent]:
            if entry.function == 1:
                entry.ecx &= ~ECX_CX16
            elif entry.function == KVM_CPUID_FEATURES:
                entry.eax &= ~HYPERCALLS
            elif entry.function == ADVANCED_POWER:
                entry.edx &= ~INVARIANT_TSC

    def warnings(self, image: KernelImage, cpus: int) -> list[str]:
        """For what was not seen to work here, or not while anybody would wait."""
        found = []
        if cpus > 1:
            found.append(
                f"{cpus} CPUs: this host's KVM (PVM) emulates kernel code, every CPU's "
                "timer ticks included: without an idle host CPU for each, Linux may "
                f"not get on; {script('with-kvm vmm run ...')} brings a KVM for them"
            )
        if image.protocol == LINUX32 and has_payload(image):
            found.append(
                f"kernel {image.file.path!r} unpacks itself when booted by linux32: "
                "this host's KVM (PVM) emulates that, for minutes; by linux64 or pvh "
                "(--boot-protocol) the host unpacks it"
            )
        size = sum(segment.file_size for segment in image.segments)
        if size > SMALL_KERNEL:
            found.append(
                f"kernel {image.file.path!r} has {size / MIB:.0f} MiB, as a "
                "distribution's: this host's KVM (PVM) emulates it, its boot may take "
                f"half an hour; {script('build-guest')} makes kernels that take "
                f"seconds, {script('with-kvm vmm run ...')} boots any"
            )
        elif image.linux and not image.ring3:
            found.append(
                f"kernel {image.file.path!r} does not run in ring 3: this host's KVM "
                "(PVM) emulates it, at about a thousandth of the speed, and it can't "
                "save its programs' AVX registers; "
                f"{script('build-guest full-ring3')} makes one that runs natively"
            )
        return found

    def prepare(self, vm: Vm) -> None:
        """Let the write of LSTAR exit, for the quirk `syscall`."""
        if not self._ring3:
            vm.trap_msr_write(MSR_LSTAR)

    def rescue(self, vcpu: Vcpu, memory: GuestMemory) -> Rescue | None:
        """The quirks `int3`, `fwait` and `syscall` of one vCPU."""
        return None if self._ring3 else PvmRescue(self, vcpu, memory)

    def state(self) -> bool:
        return self._ring3

    def restore(self, state: bool) -> None:
        self._ring3 = state


# By their numbers in the kernel's cpufeatures.h, as clearcpuid= has them. The
# emulator lacks stac and clac (smap, 308), xrstor (xsave, 154) and popcnt (151); it
# runs string instructions byte by byte, so that erms (297) and fsrm (580), for which
# Linux uses `rep movsb`, are slower than what it does without.
HIDDEN_FEATURES: Final = ("308", "154", "151", "297", "580")

# Without XSAVE the kernel saves 16 bytes of each vector register. But CPUs that can't
# intercept CPUID in programs (AMD's) show them the host's, so that the C library finds
# AVX, and its memcpy loses data where it is preempted. By these names glibc leaves it
# alone, since 2.33 and before. Linux puts parameters that it doesn't know into init's
# environment; our init and vmm-exec pass this one on.
NOT_SAVED: Final = (
    *("AVX2", "AVX512F", "AVX512VL", "AVX2_Usable", "AVX512F_Usable"),
    "AVX_Fast_Unaligned_Load",  # by which memcpy takes AVX without the others
)
HWCAPS: Final = ",".join(f"-{name}" for name in NOT_SAVED)

# Write-protecting the kernel's data takes the emulator a million instructions.
PVM_PARAMETERS: Final = f"rodata=off GLIBC_TUNABLES=glibc.cpu.hwcaps={HWCAPS}"


def hide_features(cmdline: str) -> str:
    """`cmdline` with PVM's parameters.

    They stand before the user's, which so have the last word. Of several
    clearcpuid Linux takes the last one alone: ours joins the user's.
    """
    words = cmdline.split(" ")
    mine = ",".join(HIDDEN_FEATURES)
    users = [at for at, word in enumerate(words) if word.startswith("clearcpuid=")]
    for at in users:
        words[at] += f",{mine}"
    added = PVM_PARAMETERS if users else f"{PVM_PARAMETERS} clearcpuid={mine}"
    return " ".join([added, *words]).strip()


def deliver_int3(vcpu: Vcpu, regs: kvm_regs) -> None:
    """Quirk `int3` (cc): Linux tests at boot that it raises #BP."""
    regs.rip += 1  # a trap: the frame has the next instruction's address
    vcpu.set_regs(regs)
    vcpu.inject_exception(BP_VECTOR)


def skip_fwait(vcpu: Vcpu, regs: kvm_regs) -> None:
    """Quirk `fwait` (9b): Linux waits for the FPU; an emulated one is never busy."""
    regs.rip += 1
    vcpu.set_regs(regs)


_INSTRUCTIONS: Final = {
    b"\xcc": ("int3", deliver_int3),
    b"\x9b": ("fwait", skip_fwait),
}


class PvmRescueState(RescueState):
    """What KVM can't be asked for: its breakpoint and step, an int3 on its way."""

    handler: Uint64 | None
    is_stepping: bool
    int3_at: Uint64 | None


class PvmRescue:
    """The quirks `int3`, `fwait` and `syscall` of one vCPU: a Rescue."""

    def __init__(self, quirks: PvmQuirks, vcpu: Vcpu, memory: GuestMemory) -> None:
        self._quirks = quirks
        self._vcpu = vcpu
        self._memory = memory
        self._syscall = SyscallEntry(vcpu, memory, lambda: quirks.count("syscall"))
        self._int3_at: int | None = None  # of the last exit, if that was one

    def __call__(self, reason: int) -> bool:
        self._int3_at = None
        if reason == KVM_EXIT_DEBUG:
            return self._syscall.on_debug()
        if reason == KVM_EXIT_X86_WRMSR:
            return self._syscall.on_wrmsr()
        if reason == KVM_EXIT_INTERNAL_ERROR:
            return self._emulate()
        return False

    def _emulate(self) -> bool:
        """Do what an instruction does that the emulator lacks."""
        vcpu = self._vcpu
        (suberror,) = _SUBERROR(vcpu.kvm_run, KVM_RUN_UNION)
        if suberror != KVM_INTERNAL_ERROR_EMULATION:
            return False
        regs = vcpu.get_regs()
        opcode = read_virtual(vcpu, self._memory, regs.rip, 1)
        if opcode not in _INSTRUCTIONS:
            return False
        name, emulate = _INSTRUCTIONS[opcode]
        if name == "int3":
            self._int3_at = regs.rip
        emulate(vcpu, regs)
        self._quirks.count(name)
        return True

    def state(self) -> PvmRescueState:
        """A #BP that was injected and not delivered yet isn't in what KVM tells.

        So it is told here whether there may be one: if RIP is still behind its int3.
        """
        int3_at = self._int3_at
        if int3_at is not None and self._vcpu.get_regs().rip != int3_at + 1:
            int3_at = None
        handler, is_stepping = self._syscall.handler, self._syscall.is_stepping
        return PvmRescueState(handler, is_stepping, int3_at)

    def restore(self, state: State | None) -> None:
        """The vCPU's registers are restored already; it meets that int3 once more."""
        state = PvmRescueState.of(state)
        if state.int3_at is not None:
            regs = self._vcpu.get_regs()
            regs.rip = state.int3_at
            self._vcpu.set_regs(regs)
        self._syscall.go_on(state.handler, stepping=state.is_stepping)


class SyscallEntry:
    """Quirk `syscall`: from CPL 3 it loads RIP, RCX and R11, but CPL stays 3.

    So the fetch at LSTAR, a kernel page, faults. A breakpoint on the guest's
    page-fault handler (which is emulated, so it fires) sees that fault in the
    handler's frame, and does what `syscall` does (Intel SDM volume 2, SYSCALL).
    A program that jumps to LSTAR of itself is taken for one that makes a system
    call, with the flags that it could have had: it could have made the same one.

    LIDT doesn't exit. But when Linux writes LSTAR its IDT has the final gate
    for page faults, and MSR writes can be made to exit: then we read it.
    """

    def __init__(
        self, vcpu: Vcpu, memory: GuestMemory, applied: Callable[[], None]
    ) -> None:
        self._vcpu = vcpu
        self._memory = memory
        self._applied = applied
        self.handler: int | None = None
        self.is_stepping = False

    def on_wrmsr(self) -> bool:
        """The guest writes LSTAR: do it, and learn where its handler is."""
        run = self._vcpu.kvm_run
        _, _, index, value = _WRMSR(run, KVM_RUN_UNION)
        refused = not self._vcpu.set_msrs([(index, value)])
        run[KVM_RUN_UNION] = refused  # raises #GP, as for an address that can't be
        self.handler = self._page_fault_handler()
        self.is_stepping = False
        self._vcpu.set_breakpoint(self.handler)
        return True

    def go_on(self, handler: int | None, *, stepping: bool) -> None:
        """As another one that had this handler, and was stepping or not."""
        self.handler, self.is_stepping = handler, stepping
        if stepping:
            self._vcpu.step()
        else:
            self._vcpu.set_breakpoint(handler)

    def _page_fault_handler(self) -> int | None:
        sregs = self._vcpu.get_sregs()
        idt = sregs.idt
        if not sregs.efer & EFER_LMA:  # its gates are of another kind
            return None
        if idt.limit < (PF_VECTOR + 1) * _GATE.size - 1:
            return None
        at = idt.base + PF_VECTOR * _GATE.size
        gate = read_virtual(self._vcpu, self._memory, at, _GATE.size)
        if len(gate) < _GATE.size:
            return None
        low, _, _, kind, middle, high = _GATE.unpack(gate)
        return low | middle << 16 | high << 32 if kind & GATE_PRESENT else None

    def on_debug(self) -> bool:
        """The page-fault handler is about to run, or its first instruction has."""
        vcpu = self._vcpu
        if self.is_stepping:
            self.is_stepping = False
            vcpu.set_breakpoint(self.handler)
            return True
        regs = vcpu.get_regs()
        frame = read_virtual(vcpu, self._memory, regs.rsp, _FRAME.size)
        if len(frame) == _FRAME.size and self._syscall(regs, *_FRAME.unpack(frame)):
            self._applied()
        else:  # a page fault like any other: get past the breakpoint
            self.is_stepping = True
            vcpu.step()
        return True

    def _syscall(
        self, regs: kvm_regs, rip: int, cs: int, rflags: int, rsp: int
    ) -> bool:
        """Enter the kernel if the fault is a system call; whether it was one."""
        vcpu = self._vcpu
        star, lstar, mask = vcpu.get_msrs((MSR_STAR, MSR_LSTAR, MSR_SYSCALL_MASK))
        sregs = vcpu.get_sregs()
        # It may have left long mode since it wrote LSTAR, where `syscall` is none.
        if rip != lstar or cs & 3 != 3 or not sregs.efer & EFER_LMA:
            return False
        sregs.cs, sregs.ss = code_segment(), data_segment()
        sregs.cs.selector = star >> 32 & 0xFFFC
        sregs.ss.selector = sregs.cs.selector + 8
        vcpu.set_sregs(sregs)
        # A program that jumped here chose R11 itself: no IOPL, nor VM, that way.
        regs.r11 = regs.r11 & RFLAGS_USERS | RFLAGS_IF | RFLAGS_RESERVED
        regs.rip, regs.rsp = lstar, rsp
        regs.rflags = regs.r11 & ~mask | RFLAGS_RESERVED
        vcpu.set_regs(regs)
        return True
