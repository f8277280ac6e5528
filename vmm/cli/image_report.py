"""What `vmm doctor IMAGE` tells: what a kernel image is, and how it is booted."""

import re
from contextlib import ExitStack
from typing import Final

from ..boot.bzimage import has_payload, kernel_version
from ..boot.elf import is_elf, read_elf
from ..boot.elf_notes import read_notes
from ..boot.image import ImageFile, KernelImage
from ..boot.kernel import HEAD_SIZE, open_kernel
from ..boot.layout import MIB, MMIO_HOLE
from ..boot.multiboot_image import find_header
from ..boot.payload import find_payload
from ..config import BOOT_PROTOCOLS, MachineConfig
from ..devices.record import Record
from ..errors import ConfigError, ImageError, KvmUnavailable
from ..foreign_text import one_line, printable
from ..host.report import host_kind
from ..host.selection import quirks_for
from ..machine.builder import open_boot

BANNER: Final = re.compile(rb"Linux version (\d[^\n\0]{,255})")
_BANNER_SIZE: Final = 512
_CHUNK: Final = 4 * MIB
_SEARCHED_MAX: Final = 64 * MIB  # it lies behind the code, which is the file's begin
_NOTES_SHOWN: Final = 64
_BYTES_SHOWN: Final = 16  # of a note's value
_TEXT_SHOWN: Final = 64


class ImageReport(Record):
    """A kernel image. Addresses are guest physical ones.

    `protocols` has the entry of each that the image offers, `refusals` why it
    doesn't offer the others; `booted_by` is the one that "auto" takes. `loads` are
    guest address, offset in the file and bytes; all that the kernel uses before it
    looks at the memory map is within `memory`. `ring3`: it is a Linux that runs in ring
    3. `here` says what this host does with it.
    """

    path: str
    size: int
    format: str
    version: str
    payload: str
    multiboot_flags: int | None
    booted_by: str
    entry: int
    ring3: bool
    protocols: dict[str, int]
    refusals: dict[str, str]
    loads: list[tuple[int, int, int]]
    memory: tuple[int, int]
    notes: list[str]
    here: str


def examine_image(path: str) -> ImageReport:
    """Read it as a run would. Raises ImageError where no run would take it."""
    with ExitStack() as stack:
        image = _opened(path, "auto", stack)
        offered, refusals = _offers(path, stack)
        header = find_header(image.file.read(0, HEAD_SIZE))
        # What is in a bzImage, if it could be unpacked.
        unpacked = offered["pvh"].file if "pvh" in offered else image.file
        return ImageReport(
            path=path,
            size=image.file.size,
            format=image.format,
            version=_version(image),
            payload=_payload(image),
            multiboot_flags=None if header is None else header.flags,
            booted_by=image.protocol,
            entry=image.entry,
            ring3=any(found.ring3 for found in offered.values()),
            protocols={name: found.entry for name, found in offered.items()},
            refusals=refusals,
            loads=[
                (part.guest_addr, part.file_offset, part.file_size)
                for part in image.segments
            ],
            memory=(image.start, image.end),
            notes=_notes(unpacked),
            here=_here(path, image, stack),
        )


def _opened(path: str, protocol: str, stack: ExitStack) -> KernelImage:
    image = open_kernel(path, protocol)
    stack.callback(image.file.close)
    return image


def _offers(
    path: str, stack: ExitStack
) -> tuple[dict[str, KernelImage], dict[str, str]]:
    """What opens by each protocol, and the reason where it doesn't."""
    offered, refusals = {}, {}
    for name in BOOT_PROTOCOLS[1:]:
        try:
            offered[name] = _opened(path, name, stack)
        except ImageError as error:
            refusals[name] = _reason(error, path)
    return offered, refusals


def _reason(error: ConfigError, path: str) -> str:
    """What is wrong; the file is known."""
    return str(error).removeprefix(f"kernel {path!r}: ")


def _version(image: KernelImage) -> str:
    """What a bzImage's header says; of an ELF file, Linux's banner."""
    if image.setup_header:
        return one_line(kernel_version(image.file))
    for at in range(0, min(image.file.size, _SEARCHED_MAX), _CHUNK):
        # No format string: its number begins with a digit.
        found = BANNER.search(image.file.read(at, _CHUNK + _BANNER_SIZE))
        if found:
            return one_line(found[1])
    return ""


def _payload(image: KernelImage) -> str:
    """How a bzImage is packed, or why that can't be seen; "" if it isn't."""
    if not has_payload(image):
        return ""
    try:
        found = find_payload(image.file)
    except ImageError as error:
        return _reason(error, image.file.path)
    return (
        f"{found.kind}, {found.length} bytes at {found.start:#x}, {found.size} unpacked"
    )


def _notes(file: ImageFile) -> list[str]:
    """Owner, type and value of each ELF note, as far as anybody would read."""
    if not is_elf(file.read(0, 4)):
        return []
    found: list[str] = []
    for name, kind, value in read_notes(read_elf(file)):
        if len(found) == _NOTES_SHOWN:
            found.append("... and more")
            break
        found.append(one_line(f"{printable(name)} {kind}: {_value(value)}"))
    return found


def _value(value: bytes) -> str:
    text = value.removesuffix(b"\0")
    if text.isascii() and text.decode("ascii").isprintable():
        return repr(text[:_TEXT_SHOWN].decode("ascii"))
    more = " ..." if len(value) > _BYTES_SHOWN else ""
    return value[:_BYTES_SHOWN].hex(" ") + more


def _here(path: str, image: KernelImage, stack: ExitStack) -> str:
    """What a run on this host would enter."""
    try:
        kind = host_kind()
    except KvmUnavailable:
        return "there is no KVM to boot it on"
    # More than enough of it, below the hole.
    memory = min(MMIO_HOLE, -(-image.end // MIB) * MIB + 128 * MIB)
    config = MachineConfig(kernel=path, memory=memory)
    try:
        image = open_boot(config, quirks_for(kind), stack).kernel
    except ConfigError as error:
        return f"can't be booted: {_reason(error, path)}"
    return f"{image.protocol} at {image.entry:#x} ({image.format})"


def lines(report: ImageReport) -> list[str]:
    """The report for people."""
    start, end = report.memory
    found = [
        f"image       {report.path}, {report.size} bytes",
        f"format      {report.format}",
        f"boots by    {report.booted_by}, entered at {report.entry:#x}",
        f"here        {report.here}",
        f"memory      [{start:#x}, {end:#x}), so --memory {-(-end // MIB)}M or more",
    ]
    if report.ring3:
        found.append("ring        3: native where KVM emulates ring 0 (PVM); one CPU")
    if report.version:
        found.append(f"version     {report.version}")
    if report.payload:
        found.append(f"payload     {report.payload}")
    if report.multiboot_flags is not None:
        found.append(f"multiboot   header with flags {report.multiboot_flags:#x}")
    for name in BOOT_PROTOCOLS[1:]:
        offer = (
            f"entry {report.protocols[name]:#x}"
            if name in report.protocols
            else f"not offered: {report.refusals[name]}"
        )
        found.append(f"  {name:<10}{offer}")
    found += [
        f"load        [{at:#x}, {at + size:#x}) from {offset:#x} of the file"
        for at, offset, size in report.loads
    ]
    return found + [f"note        {note}" for note in report.notes]
