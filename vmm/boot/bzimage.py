"""bzImage: the compressed kernel with its setup header.

Source: the kernel's Documentation/arch/x86/boot.rst, "The Linux/x86 Boot
Protocol", sections "The Real-Mode Kernel Header", "32-bit Boot Protocol" and
"64-bit Boot Protocol".
"""

import struct
from typing import Final

from .image import LINUX32, LINUX64, MULTIBOOT, ImageFile, KernelImage, Segment
from .layout import HIGH_MEMORY

# Offsets into the file, which are offsets into boot_params as well.
SETUP_HEADER: Final = 0x1F1
SETUP_SECTS: Final = 0x1F1
BOOT_FLAG: Final = 0x1FE
JUMP: Final = 0x200  # its displacement byte says where the header ends
HEADER_MAGIC: Final = 0x202
VERSION: Final = 0x206
KERNEL_VERSION: Final = 0x20E  # offset of a string, less 0x200
SYSSIZE: Final = 0x1F4
LOADFLAGS: Final = 0x211
INITRD_ADDR_MAX: Final = 0x22C
KERNEL_ALIGNMENT: Final = 0x230
RELOCATABLE_KERNEL: Final = 0x234
XLOADFLAGS: Final = 0x236
CMDLINE_SIZE: Final = 0x238
PAYLOAD_OFFSET: Final = 0x248
PAYLOAD_LENGTH: Final = 0x24C
PREF_ADDRESS: Final = 0x258
INIT_SIZE: Final = 0x260
HEADER_END_MAX: Final = 0x290  # where boot_params goes on with other fields

HDRS: Final = b"HdrS"
LOADED_HIGH: Final = 1 << 0
XLF_KERNEL_64: Final = 1 << 0
VERSION_MIN: Final = 0x020A  # has pref_address and init_size
VERSION_64: Final = 0x020C  # has xloadflags
ENTRY_64: Final = 0x200  # from where the protected-mode code is loaded
PARAGRAPH: Final = 16
SECTOR: Final = 512
_VERSION_SIZE: Final = 256


def is_bzimage(head: bytes) -> bool:
    """Whether a file that starts with `head` has a setup header."""
    return head[HEADER_MAGIC : HEADER_MAGIC + 4] == HDRS


def code_offset(head: bytes) -> int:
    """Where in the file the protected-mode code starts."""
    return ((head[SETUP_SECTS] or 4) + 1) * SECTOR


def kernel_version(file: ImageFile) -> str:
    """What the kernel says it is, for people; "" if it says nothing."""
    offset = int.from_bytes(file.read(KERNEL_VERSION, 2), "little")
    if offset == 0:
        return ""
    text = file.read(offset + SECTOR, _VERSION_SIZE).split(b"\0")[0]
    return text.decode("ascii", "replace")


def has_payload(image: KernelImage) -> bool:
    """Whether it is a bzImage that unpacks a kernel: memtest86+, say, is one itself."""
    return any(image.setup_header[PAYLOAD_LENGTH - SETUP_HEADER :][:4])


def parse_bzimage(file: ImageFile, protocol: str = "auto") -> KernelImage:
    """Read the setup header. Raises ImageError, naming the field that is wrong.

    By itself it is entered by the 64-bit protocol if it has that entry. For PVH it
    is what it unpacks into.
    """
    if protocol == MULTIBOOT:
        raise file.error("a bzImage has no multiboot header")
    head = file.read(0, HEADER_END_MAX)
    if len(head) < HEADER_END_MAX:
        raise file.error(f"truncated: the setup header ends after {len(head)} bytes")

    def get(offset: int, layout: str) -> int:
        value: int = struct.unpack_from(layout, head, offset)[0]
        return value

    version = get(VERSION, "<H")
    name = f"{version >> 8}.{version & 0xFF:02d}"
    if version < VERSION_MIN:
        raise file.error(
            f"boot protocol {name} is too old: 2.10 (Linux 2.6.31) or later is needed"
        )
    has_64 = version >= VERSION_64 and get(XLOADFLAGS, "<H") & XLF_KERNEL_64
    if protocol == LINUX64 and not has_64:
        raise file.error(
            f"boot protocol {name} without XLF_KERNEL_64: it has no 64-bit entry, "
            "try linux32"
        )
    is_32 = protocol == LINUX32 or not has_64
    if not get(LOADFLAGS, "<B") & LOADED_HIGH:
        raise file.error("loadflags lacks LOADED_HIGH: is it a zImage?")

    code = code_offset(head)
    code_size = get(SYSSIZE, "<I") * PARAGRAPH
    missing = code + code_size - file.size
    if missing >= PARAGRAPH:  # syssize is rounded up
        raise file.error(
            f"truncated: {missing} bytes of its {code + code_size} are missing"
        )
    start = get(PREF_ADDRESS, "<Q")
    if start < HIGH_MEMORY:
        raise file.error(f"pref_address {start:#x} lies below 1 MiB")
    entry = start if is_32 else start + ENTRY_64
    end = start + max(get(INIT_SIZE, "<I"), code_size)
    if entry >= start + code_size:
        raise file.error(
            f"its entry point {entry:#x} lies outside of its code "
            f"[{start:#x}, {start + code_size:#x})"
        )
    return KernelImage(
        file=file,
        format=f"bzImage, boot protocol {version >> 8}.{version & 0xFF}",
        protocol=LINUX32 if is_32 else LINUX64,
        segments=[Segment(start, code, min(code_size, file.size - code))],
        entry=entry,
        start=start,
        end=end,
        cmdline_size=get(CMDLINE_SIZE, "<I"),
        initrd_addr_max=get(INITRD_ADDR_MAX, "<I"),
        setup_header=head[SETUP_HEADER : JUMP + 2 + get(JUMP + 1, "<B")],
    )
