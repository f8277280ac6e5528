"""AML: those terms of the ACPI Machine Language that our tables need, as bytes.

Source: ACPI Specification 6.5, chapter 20 (grammar) and section 6.4 (resource data
types). Functions are named after ASL's operators, in Python's spelling.
"""

import re
import struct
from typing import Final

from ..devices.resources import (
    LegacyIrq,
    MemAddressRange,
    MmioAddressRange,
    PioAddressRange,
    Resource,
)

_NAME_OP: Final = b"\x08"
_SCOPE_OP: Final = b"\x10"
_BUFFER_OP: Final = b"\x11"
_PACKAGE_OP: Final = b"\x12"
_DEVICE_OP: Final = b"\x5b\x82"
_STRING_PREFIX: Final = b"\x0d"
_METHOD_OP: Final = b"\x14"
_NOTIFY_OP: Final = b"\x86"
_SERIALIZED: Final = 1 << 3
_ZERO_OP: Final = b"\0"
_ONE_OP: Final = b"\1"
_INTEGERS: Final = ((1, b"\x0a"), (2, b"\x0b"), (4, b"\x0c"), (8, b"\x0e"))

_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,3}")
_EISA_ID: Final = re.compile(r"[A-Z]{3}[0-9A-F]{4}")

# Section 6.4: tags, and flags of address space descriptors
_IO_PORT: Final = 0x47
_END_TAG: Final = b"\x79\0"  # a checksum of zero counts as right
_INTERRUPT: Final = 0x89
_DWORD_ADDRESS: Final = 0x87
_WORD_ADDRESS: Final = 0x88
_QWORD_ADDRESS: Final = 0x8A
_DECODES_16_BITS: Final = 1
_CONSUMER: Final = 1 << 0
_EDGE: Final = 1 << 1  # and active high
_ACTIVE_LOW: Final = 1 << 2  # as PCI's lines are, and so all that are of a level
_SHARED: Final = 1 << 3
_FIXED: Final = 1 << 3 | 1 << 2  # neither end can be moved
_SPACE_MEMORY, _SPACE_IO, _SPACE_BUS_NUMBER = range(3)
_READ_WRITE: Final = 1
_CACHEABLE: Final = 1 << 1
_ENTIRE_RANGE: Final = 3


def integer(value: int) -> bytes:
    """The shortest form of `value`, 0..2^64-1."""
    if value in (0, 1):
        return _ONE_OP if value else _ZERO_OP
    for size, prefix in _INTEGERS:
        if 0 <= value < 1 << 8 * size:
            return prefix + value.to_bytes(size, "little")
    raise ValueError(f"{value} is no integer of 64 bits")


def string(text: str) -> bytes:
    """A string of ASCII characters, none of them NUL."""
    if not text.isascii() or "\0" in text:
        raise ValueError(f"{text!r} has characters that AML strings haven't")
    return _STRING_PREFIX + text.encode() + b"\0"


def eisa_id(text: str) -> bytes:
    """A PNP ID such as "PNP0501", compressed into an integer (section 19.3.4)."""
    if not _EISA_ID.fullmatch(text):
        raise ValueError(f"{text!r} is no PNP ID")
    vendor = 0
    for letter in text[:3]:
        vendor = vendor << 5 | ord(letter) - ord("@")
    return integer(
        int.from_bytes(struct.pack(">HH", vendor, int(text[3:], 16)), "little")
    )


def buffer(data: bytes) -> bytes:
    """`data`, and its size."""
    return _BUFFER_OP + _with_length(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    """Up to 255 elements."""
    return _PACKAGE_OP + _with_length(bytes([len(elements)]) + b"".join(elements))


def name(segment: str, value: bytes) -> bytes:
    """An object `segment` that has a value."""
    return _NAME_OP + _name_segment(segment) + value


def scope(segment: str, *terms: bytes) -> bytes:
    """`terms` within the object `segment`, which exists."""
    return _SCOPE_OP + _with_length(_name_segment(segment) + b"".join(terms))


def device(segment: str, *terms: bytes) -> bytes:
    """A device, and what it has."""
    return _DEVICE_OP + _with_length(_name_segment(segment) + b"".join(terms))


def method(segment: str, arguments: int, *terms: bytes) -> bytes:
    """A method of 0..7 arguments, which runs once at a time."""
    flags = bytes([arguments | _SERIALIZED])
    return _METHOD_OP + _with_length(_name_segment(segment) + flags + b"".join(terms))


def notify(segment: str, value: int) -> bytes:
    """Tell the driver of the object `segment`, here or further up, of `value`."""
    return _NOTIFY_OP + _name_segment(segment) + integer(value)


def hardware_id(hid: str) -> bytes:
    """The value of a _HID: PNP IDs are integers, ACPI IDs strings."""
    return eisa_id(hid) if _EISA_ID.fullmatch(hid) else string(hid)


def resource_template(resources: list[Resource], *windows: bytes) -> bytes:
    """The value of a _CRS. What a guest can't set up, such as a MAC, isn't in it.

    `windows` are what a bridge passes on.
    """
    own = b"".join(map(_descriptor, resources))
    return buffer(own + b"".join(windows) + _END_TAG)


def bus_numbers(first: int, last: int) -> bytes:
    """A window: the numbers of buses behind a bridge."""
    return _window(_SPACE_BUS_NUMBER, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """A window: the ports `first`..`last`."""
    return _window(_SPACE_IO, _ENTIRE_RANGE, first, last)


def memory_window(first: int, last: int) -> bytes:
    """A window: the addresses `first`..`last`, not cacheable."""
    return _window(_SPACE_MEMORY, _READ_WRITE, first, last)


def _name_segment(segment: str) -> bytes:
    """Four characters: `segment`, filled up with underscores."""
    if not _NAME.fullmatch(segment):
        raise ValueError(f"{segment!r} is no name of one segment")
    return segment.ljust(4, "_").encode()


def _with_length(body: bytes) -> bytes:
    """`body` after its PkgLength, which counts itself, too (section 20.2.4)."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1]) + body
    for more in (1, 2, 3):
        size = len(body) + 1 + more
        if size < 1 << 4 + 8 * more:
            return (
                bytes([more << 6 | size & 0xF])
                + (size >> 4).to_bytes(more, "little")
                + body
            )
    raise ValueError(f"{len(body)} bytes are more than a package can have")


def _descriptor(resource: Resource) -> bytes:
    if isinstance(resource, PioAddressRange):
        base, size = resource.base, resource.size
        if size <= 0xFF:
            return struct.pack(
                "<BBHHBB", _IO_PORT, _DECODES_16_BITS, base, base, 1, size
            )
        return _address(_SPACE_IO, _ENTIRE_RANGE, base, size)
    if isinstance(resource, MmioAddressRange):
        return _address(_SPACE_MEMORY, _READ_WRITE, resource.base, resource.size)
    if isinstance(resource, MemAddressRange):
        flags = _READ_WRITE | _CACHEABLE
        return _address(_SPACE_MEMORY, flags, resource.base, resource.size)
    if isinstance(resource, LegacyIrq):
        flags = _CONSUMER | (_SHARED if resource.shared else 0)
        flags |= _ACTIVE_LOW if resource.level else _EDGE
        return struct.pack("<BHBBI", _INTERRUPT, 6, flags, 1, resource.irq)
    return b""


def _address(space: int, space_flags: int, base: int, size: int) -> bytes:
    """What a device has itself."""
    last = base + size - 1
    flags = _CONSUMER | _FIXED
    return _address_space(_QWORD_ADDRESS, space, flags, space_flags, base, last)


def _window(space: int, space_flags: int, first: int, last: int) -> bytes:
    """What a bridge produces, in the shortest form."""
    if last < 1 << 16:
        kind = _WORD_ADDRESS
    else:
        kind = _DWORD_ADDRESS if last < 1 << 32 else _QWORD_ADDRESS
    return _address_space(kind, space, _FIXED, space_flags, first, last)


def _address_space(
    kind: int, space: int, flags: int, space_flags: int, first: int, last: int
) -> bytes:
    """An Address Space Descriptor of words, double or quad words (section 6.4.3.5)."""
    granularity = translation = 0
    number = {_WORD_ADDRESS: "H", _DWORD_ADDRESS: "I", _QWORD_ADDRESS: "Q"}[kind]
    numbers = struct.pack(
        f"<5{number}", granularity, first, last, translation, last - first + 1
    )
    size = 3 + len(numbers)
    return struct.pack("<BHBBB", kind, size, space, flags, space_flags) + numbers
