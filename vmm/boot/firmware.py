"""What a PC's firmware leaves in low memory: vectors, BIOS data area, MP table, ROM.

There is no firmware here, and no BIOS call does anything; but kernels and boot loaders
look at what it leaves, and real-mode code jumps to its reset vector. It is there
whatever the boot protocol. Sources: IBM PC AT Technical Reference, "ROM BIOS"; Ralf
Brown's MEMORY.LST, segment 0040h; Intel MultiProcessor Specification 1.4, chapter 4.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from ..memory import GuestMemory
from .layout import BDA, BIOS, EBDA, EBDA_SIZE, MP_TABLE, RESET_VECTOR, VECTORS
from .mptable import mp_table
from .pic import MASTER_BASE, SLAVE_BASE
from .placement import Block

COM_PORTS: Final = (0x3F8, 0x2F8, 0x3E8, 0x2E8)

# Of the BIOS data area, by what is added to its address.
EBDA_SEGMENT: Final = 0x0E
EQUIPMENT: Final = 0x10
BASE_MEMORY: Final = 0x13  # in KiB
KEYBOARD_HEAD: Final = 0x1A
VIDEO_MODE: Final = 0x49
VIDEO_COLUMNS: Final = 0x4A
CRTC_PORT: Final = 0x63
RESET_FLAG: Final = 0x72
KEYBOARD_BUFFER: Final = 0x80  # where it starts and ends
VIDEO_ROWS: Final = 0x84  # but one
KEYBOARD_MODE: Final = 0x96
_BDA_SIZE: Final = 0x100

HAS_FPU: Final = 1 << 1  # of EQUIPMENT; its bits 4 and 5 are 0: no display
COM_COUNT_SHIFT: Final = 9
TEXT_80_BY_25: Final = 3
KEYBOARD_ENHANCED: Final = 1 << 4

# What a system writes to RESET_FLAG before it resets: cold or warm.
RESET_MODES: Final = (0x0000, 0x1234)
NO_RESET: Final = 0xFFFF  # so that we see it

# The ROM: an interrupt is ended, a service fails, a reset resets.
_END_SLAVES: Final = bytes.fromhex("50 b0 20 e6 a0 e6 20 58 cf")
_END_MASTERS: Final = bytes.fromhex("50 b0 20 e6 20 58 cf")
# push ax; mov al, 0x20; out 0xa0, al (the slave's only); out 0x20, al; pop ax; iret
_FAIL: Final = bytes.fromhex("55 89 e5 80 4e 06 01 5d b4 86 cf")
# push bp; mov bp, sp; or byte [bp + 6], 1 (CF); pop bp; mov ah, 0x86; iret
_RETURN: Final = b"\xcf"
_RESET: Final = bytes.fromhex("fa b0 fe e6 64 f4 eb fd")
# cli; mov al, 0xfe; out 0x64, al; 1: hlt; jmp 1b
_SERVICES: Final = range(0x10, 0x20)
_IRQS: Final = 8  # of each PIC
_SEGMENT: Final = 0xF000
_MODEL_AT: Final = 0xFC


def firmware(
    cpus: int,
    com_ports: Sequence[int],
    level_irqs: Iterable[int],
    pci_lines: Iterable[tuple[int, int]] | None = None,
) -> list[Block]:
    """All of it, in ascending order.

    `com_ports` are those of the UARTs that are there; `pci_lines` as for `mp_table`. A
    kernel may lie over the last one, the reset vector: it is for those who boot as from
    a disk.
    """
    rom, vectors = _rom_and_vectors()
    table = mp_table(MP_TABLE, cpus, level_irqs, pci_lines)
    jump = struct.pack("<BHH9xBx", 0xEA, BIOS & 0xFFFF, _SEGMENT, _MODEL_AT)
    return [
        Block("the interrupt vectors", VECTORS, vectors),
        Block("the BIOS data area", BDA, _bios_data_area(com_ports)),
        Block("the EBDA", EBDA, bytes([EBDA_SIZE >> 10]).ljust(EBDA_SIZE, b"\0")),
        Block("the MP table", MP_TABLE, table),
        Block("the BIOS", BIOS, rom),
        Block("the reset vector", RESET_VECTOR, jump),
    ]


def told_of_reset(memory: GuestMemory) -> bool:
    """Whether the guest has told its firmware that it is going to reset.

    Linux does before each of its ways, of which one is a triple fault (reboot=t):
    native_machine_emergency_restart in arch/x86/kernel/reboot.c. A guest that has
    taken the whole area for something else has told nothing.
    """
    area = memory.read(BDA, _BDA_SIZE)
    flag, segment, base = (
        struct.unpack_from("<H", area, at)[0]
        for at in (RESET_FLAG, EBDA_SEGMENT, BASE_MEMORY)
    )
    return flag in RESET_MODES and (segment, base) == (EBDA >> 4, EBDA >> 10)


def _rom_and_vectors() -> tuple[bytes, bytes]:
    """The code from BIOS on, and the real-mode vectors that point into it."""
    rom = b""
    at = {}
    for code in (_RESET, _RETURN, _FAIL, _END_MASTERS, _END_SLAVES):
        at[code] = BIOS + len(rom)
        rom += code
    handlers = [_RETURN] * 0x100
    for vector in _SERVICES:
        handlers[vector] = _FAIL
    handlers[MASTER_BASE : MASTER_BASE + _IRQS] = [_END_MASTERS] * _IRQS
    handlers[SLAVE_BASE : SLAVE_BASE + _IRQS] = [_END_SLAVES] * _IRQS
    vectors = (struct.pack("<HH", at[code] & 0xFFFF, _SEGMENT) for code in handlers)
    return rom, b"".join(vectors)


def _bios_data_area(com_ports: Sequence[int]) -> bytes:
    """Says that nothing is displayed; but for those who print to a screen unasked it
    has the measures of one."""
    area = bytearray(_BDA_SIZE)
    words = {
        EBDA_SEGMENT: EBDA >> 4,
        EQUIPMENT: HAS_FPU | len(com_ports) << COM_COUNT_SHIFT,
        BASE_MEMORY: EBDA >> 10,
        KEYBOARD_HEAD: 0x1E,
        KEYBOARD_HEAD + 2: 0x1E,  # its tail: the buffer, which follows, is empty
        VIDEO_COLUMNS: 80,
        CRTC_PORT: 0x3D4,
        RESET_FLAG: NO_RESET,
        KEYBOARD_BUFFER: 0x1E,
        KEYBOARD_BUFFER + 2: 0x3E,
    }
    words |= {2 * index: port for index, port in enumerate(com_ports)}
    for at, word in words.items():
        struct.pack_into("<H", area, at, word)
    area[VIDEO_MODE] = TEXT_80_BY_25
    area[VIDEO_ROWS] = 24
    area[KEYBOARD_MODE] = KEYBOARD_ENHANCED
    return bytes(area)
