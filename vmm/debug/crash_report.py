"""What a guest looked like when it stopped: registers, code and stack, as text.

Laid out like a Linux oops (arch/x86/kernel/dumpstack.c), which readers know.
"""

from collections.abc import Sequence
from struct import iter_unpack
from typing import Final

from ..boot.layout import PAGE_SIZE
from ..errors import VmmError
from ..foreign_text import printable
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory
from ..vcpu.virtual_memory import read_virtual
from .symbols import Symbols

CODE_BEFORE: Final = 16  # bytes shown before RIP
CODE_AFTER: Final = 32  # and from it on
STACK_WORDS: Final = 32
MSR_LSTAR: Final = 0xC000_0082  # arch/x86/include/asm/msr-index.h
_RESET_RIP: Final = 0xFFF0

_GENERAL: Final = (
    "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15".split()
)
_CONTROL: Final = "cr0 cr2 cr3 cr4 efer".split()


def registers(vcpu: Vcpu) -> dict[str, int]:
    """The general and control registers, RIP, RFLAGS, EFER, CS and SS by name.

    Raises KvmError. The vCPU stands still.
    """
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    values = {name: int(getattr(regs, name)) for name in (*_GENERAL, "rip", "rflags")}
    values |= {name: int(getattr(sregs, name)) for name in _CONTROL}
    return values | {"cs": sregs.cs.selector, "ss": sregs.ss.selector}


def crash_report(
    vcpus: Sequence[Vcpu], memory: GuestMemory, symbols: Symbols | None
) -> str:
    """A part for each vCPU. They stand still, and their threads don't use them."""
    parts = (_of_vcpu(vcpu, memory, symbols) for vcpu in vcpus)
    return printable("\n".join(parts))


def _of_vcpu(vcpu: Vcpu, memory: GuestMemory, symbols: Symbols | None) -> str:
    try:
        values = registers(vcpu)
        if symbols is not None:
            for lstar in vcpu.get_msrs((MSR_LSTAR,)):
                symbols.slide_to(lstar)
        lines = [f"vCPU {vcpu.index}:", *_register_lines(values, symbols)]
        if values["rip"] == _RESET_RIP:  # kvm_amd does, before it tells of a shutdown
            lines.append("KVM has reset this vCPU: what it had is lost")
            return "\n".join(lines)
        lines.append(_code(vcpu, memory, values["rip"]))
        lines += _stack(vcpu, memory, values["rsp"], symbols)
    except VmmError as error:
        return f"vCPU {vcpu.index}: its state can't be read: {error}"
    return "\n".join(lines)


def _register_lines(values: dict[str, int], symbols: Symbols | None) -> list[str]:
    rip = values["rip"]
    name = _name(rip, symbols)
    lines = [
        f"RIP: {values['cs']:04x}:{rip:016x}{f' {name}' if name else ''}",
        f"RSP: {values['ss']:04x}:{values['rsp']:016x} RFLAGS: {values['rflags']:08x}",
    ]
    general = [name for name in _GENERAL if name != "rsp"]
    groups = [general[start : start + 3] for start in range(0, len(general), 3)]
    groups += [_CONTROL[:3], _CONTROL[3:]]
    return lines + [_row(values, group) for group in groups]


def _row(values: dict[str, int], names: Sequence[str]) -> str:
    return " ".join(f"{f'{name.upper()}: ':<5}{values[name]:016x}" for name in names)


def _name(address: int, symbols: Symbols | None) -> str | None:
    return None if symbols is None else symbols.find(address)


def _code(vcpu: Vcpu, memory: GuestMemory, rip: int) -> str:
    """The bytes around RIP, that at RIP in brackets."""
    after = read_virtual(vcpu, memory, rip, CODE_AFTER)
    if not after:
        return "Code: not mapped"
    start = max(rip - CODE_BEFORE, 0)
    before = read_virtual(vcpu, memory, start, rip - start)
    if len(before) < rip - start:  # the page before isn't mapped
        start = rip - rip % PAGE_SIZE
        before = read_virtual(vcpu, memory, start, rip - start)
    lead = f"{before.hex(' ')} " if before else ""
    return f"Code: {lead}<{after[0]:02x}> {after[1:].hex(' ')}"


def _stack(
    vcpu: Vcpu, memory: GuestMemory, rsp: int, symbols: Symbols | None
) -> list[str]:
    """The words from RSP on, and those of them that lie in a function."""
    data = read_virtual(vcpu, memory, rsp, 8 * STACK_WORDS)
    words = [word for (word,) in iter_unpack("<Q", data[: len(data) // 8 * 8])]
    if not words:
        return ["Stack: not mapped"]
    lines = ["Stack:"]
    for start in range(0, len(words), 4):
        row = " ".join(f"{word:016x}" for word in words[start : start + 4])
        lines.append(f" {row}")
    names = [name for word in words if (name := _name(word, symbols))]
    if names:
        lines += ["Code addresses on the stack:", *(f" {name}" for name in names)]
    return lines
