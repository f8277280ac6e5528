"""What a PC's firmware puts into the CMOS RAM: how much memory there is.

Kernels and loaders that ask no BIOS read it there. Sources: IBM PC AT Technical
Reference, "Real-time Clock/CMOS RAM Information"; QEMU's pc_cmos_init in hw/i386/pc.c
for the registers from 0x34 on.
"""

from typing import Final

EQUIPMENT: Final = 0x14
BASE_MEMORY: Final = 0x15  # in KiB, as the next two; low byte first, as all
EXTENDED_MEMORY: Final = 0x17, 0x30  # from 1 MiB on
CHECKSUM: Final = 0x2E  # of 0x10 to 0x2D; the high byte first
MEMORY_ABOVE_16M: Final = 0x34  # in 64 KiB, up to 4 GiB
MEMORY_ABOVE_4G: Final = 0x5B  # in 64 KiB, three bytes

HAS_FPU: Final = 1 << 1
_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
_BLOCK: Final = 64 << 10
_BASE_KIB: Final = 640


def cmos_setup(below_4g: int, above_4g: int) -> dict[int, int]:
    """The registers, 0..0x7F, and what is in them, for so many bytes of RAM.

    What doesn't fit a register is the most that does.
    """
    ram = {EQUIPMENT: HAS_FPU}

    def put(at: int, value: int, size: int = 2) -> None:
        data = min(max(value, 0), (1 << 8 * size) - 1).to_bytes(size, "little")
        ram.update(enumerate(data, at))

    put(BASE_MEMORY, _BASE_KIB)
    for at in EXTENDED_MEMORY:
        put(at, (below_4g - _MIB) // _KIB)
    put(MEMORY_ABOVE_16M, (below_4g - 16 * _MIB) // _BLOCK)
    put(MEMORY_ABOVE_4G, above_4g // _BLOCK, 3)
    total = sum(ram.get(at, 0) for at in range(0x10, CHECKSUM))
    ram[CHECKSUM], ram[CHECKSUM + 1] = divmod(total, 0x100)
    return ram
