"""AML: what the encoder writes, read back by the grammar of the specification.

Source of every rule: ACPI Specification 6.5, chapter 20 and section 6.4.
"""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.boot import aml
from vmm.devices.resources import (
    KvmMemSlot,
    LegacyIrq,
    MacAddress,
    MmioAddressRange,
    PioAddressRange,
)

# Of all characters Hypothesis would make a table first, in seconds.
ASCII = st.characters(codec="ascii")
PREFIXES = {0x0A: 1, 0x0B: 2, 0x0C: 4, 0x0E: 8}
END_TAG = b"\x79\0"


def read_integer(data: bytes) -> tuple[int, bytes]:
    """An integer, and what follows it."""
    if data[0] in (0, 1):
        return data[0], data[1:]
    size = PREFIXES[data[0]]
    return int.from_bytes(data[1 : 1 + size], "little"), data[1 + size :]


def read_package(data: bytes) -> tuple[bytes, bytes]:
    """What the PkgLength at the start counts, and what follows."""
    more = data[0] >> 6
    size = data[0] & 0x3F
    if more:
        assert not data[0] & 0x30
        size = data[0] & 0xF | int.from_bytes(data[1 : 1 + more], "little") << 4
    return data[1 + more : size], data[size:]


def crs(template: bytes) -> bytes:
    """The descriptors of a resource template, without the end tag."""
    assert template[:1] == b"\x11"
    body, rest = read_package(template[1:])
    size, descriptors = read_integer(body)
    assert rest == b""
    assert size == len(descriptors)
    assert descriptors.endswith(END_TAG)
    return descriptors[:-2]


@given(st.integers(0, (1 << 64) - 1))
def test_integers_read_back(value: int) -> None:
    assert read_integer(aml.integer(value)) == (value, b"")


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0xFFFF, "0bffff"),
        (0x1_0000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers_are_as_short_as_can_be(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_no_integer_has_more_than_64_bits(value: int) -> None:
    with pytest.raises(ValueError, match="no integer of 64 bits"):
        aml.integer(value)


@given(st.binary(max_size=300) | st.integers(0, 1 << 18).map(bytes))
def test_a_buffer_reads_back_whatever_its_size(data: bytes) -> None:
    encoded = aml.buffer(data)
    body, rest = read_package(encoded[1:])
    assert (encoded[0], rest) == (0x11, b"")
    assert read_integer(body) == (len(data), data)


@pytest.mark.parametrize("size", [62, 63, 4092, 4093, 1048570, 1048571])
def test_lengths_around_the_limits_of_their_forms(size: int) -> None:
    body = bytes(size - 4)  # after the name
    contents, rest = read_package(aml.scope("_SB", body)[1:])
    assert (contents, rest) == (b"_SB_" + body, b"")


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=255))
def test_a_package_reads_back(values: list[int]) -> None:
    encoded = aml.package(*map(aml.integer, values))
    body, rest = read_package(encoded[1:])
    assert (encoded[0], rest, body[0]) == (0x12, b"", len(values))
    left, read = body[1:], []
    for _ in values:
        value, left = read_integer(left)
        read.append(value)
    assert (read, left) == (values, b"")


def test_a_method_that_notifies() -> None:
    encoded = aml.method("_EVT", 1, aml.notify("D007", 0x80))
    body, rest = read_package(encoded[1:])
    assert (encoded[0], rest) == (0x14, b"")
    assert body == b"_EVT\x09\x86D007\x0a\x80"


@given(st.from_regex(r"[A-Z_][A-Z0-9_]{0,3}", fullmatch=True, alphabet=ASCII))
def test_names_are_four_characters(segment: str) -> None:
    encoded = aml.name(segment, aml.integer(0))
    assert encoded == b"\x08" + segment.encode().ljust(4, b"_") + b"\0"


@pytest.mark.parametrize("segment", ["", "0AB", "ABCDE", "abc", "A.B", "\\_SB", "A\n"])
def test_what_is_no_name_is_refused(segment: str) -> None:
    with pytest.raises(ValueError, match="no name of one segment"):
        aml.name(segment, aml.integer(0))


def test_device_is_an_extended_opcode() -> None:
    assert aml.device("D000", aml.name("_UID", aml.integer(0))).hex() == (
        "5b820b44303030085f55494400"
    )


@given(st.text(st.characters(min_codepoint=1, max_codepoint=127)))
def test_strings_end_with_a_nul(text: str) -> None:
    assert aml.string(text) == b"\x0d" + text.encode() + b"\0"


@pytest.mark.parametrize("text", ["\0", "é"])
def test_what_no_string_has_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="characters that AML strings haven't"):
        aml.string(text)


def test_eisa_id_is_the_specifications_example() -> None:
    """EISAID("PNP0C09"): section 19.3.4 has it as 0x090CD041."""
    assert aml.eisa_id("PNP0C09") == b"\x0c" + struct.pack("<I", 0x090CD041)


@given(st.from_regex(r"[A-Z]{3}[0-9A-F]{4}", fullmatch=True, alphabet=ASCII))
def test_eisa_ids_read_back(text: str) -> None:
    value, rest = read_integer(aml.eisa_id(text))
    vendor, product = struct.unpack(">HH", value.to_bytes(4, "little"))
    letters = (vendor >> shift & 0x1F for shift in (10, 5, 0))
    assert rest == b""
    assert "".join(chr(letter + 0x40) for letter in letters) == text[:3]
    assert f"{product:04X}" == text[3:]


@pytest.mark.parametrize("text", ["QEMU0001", "pnp0501", "PNP05"])
def test_only_pnp_ids_are_compressed(text: str) -> None:
    with pytest.raises(ValueError, match="is no PNP ID"):
        aml.eisa_id(text)


def test_an_acpi_id_is_a_string() -> None:
    assert aml.hardware_id("QEMU0001") == aml.string("QEMU0001")


# Resource descriptors


def test_ports_are_an_io_port_descriptor() -> None:
    (tag, decode, low, high, align, size) = struct.unpack(
        "<BBHHBB", crs(aml.resource_template([PioAddressRange(0x3F8, 8)]))
    )
    assert (tag, decode, low, high, align, size) == (0x47, 1, 0x3F8, 0x3F8, 1, 8)


@pytest.mark.parametrize(
    ("resource", "space"),
    [
        (PioAddressRange(0x1000, 0x100), 1),
        (MmioAddressRange(0xE800_0000, 0x1000), 0),
        (MmioAddressRange(1 << 40, 1 << 33), 0),
    ],
)
def test_what_is_larger_is_a_qword_address_descriptor(
    resource: PioAddressRange | MmioAddressRange, space: int
) -> None:
    data = crs(aml.resource_template([resource]))
    tag, length, kind, _, _, *numbers = struct.unpack("<BHBBB5Q", data)
    assert (tag, length, kind) == (0x8A, len(data) - 3, space)
    last = resource.base + resource.size - 1
    assert numbers == [0, resource.base, last, 0, resource.size]


@pytest.mark.parametrize(
    ("shared", "level", "flags"),
    [(False, False, 0b0011), (True, False, 0b1011), (True, True, 0b1101)],
)
def test_interrupts_are_rising_edges_or_low_levels(
    shared: bool, level: bool, flags: int
) -> None:
    data = crs(aml.resource_template([LegacyIrq(20, shared, level)]))
    assert struct.unpack("<BHBBI", data) == (0x89, 6, flags, 1, 20)


def test_what_a_guest_cant_set_up_is_left_out() -> None:
    others = [MacAddress("52:54:00:12:34:56"), KvmMemSlot(3)]
    assert crs(aml.resource_template([*others])) == b""


# Windows of a bridge


@pytest.mark.parametrize(
    ("window", "form", "fields"),
    [
        (
            aml.bus_numbers(0, 0),
            "<BHBBB5H",
            (0x88, 13, 2, 0b1100, 0, 0, 0, 0, 0, 1),
        ),
        (
            aml.io_window(0xC000, 0xFFFF),
            "<BHBBB5H",
            (0x88, 13, 1, 0b1100, 3, 0, 0xC000, 0xFFFF, 0, 0x4000),
        ),
        (
            aml.memory_window(0xE010_0000, 0xFBFF_FFFF),
            "<BHBBB5I",
            (0x87, 23, 0, 0b1100, 1, 0, 0xE010_0000, 0xFBFF_FFFF, 0, 0x1BF0_0000),
        ),
        (
            aml.memory_window(1 << 38, (1 << 39) - 1),
            "<BHBBB5Q",
            (0x8A, 43, 0, 0b1100, 1, 0, 1 << 38, (1 << 39) - 1, 0, 1 << 38),
        ),
    ],
    ids=["buses", "ports", "32 bits", "64 bits"],
)
def test_a_window_is_produced_and_fixed(
    window: bytes, form: str, fields: tuple[int, ...]
) -> None:
    assert struct.unpack(form, window) == fields
    template = aml.resource_template([PioAddressRange(0xCF8, 8)], window)
    assert crs(template)[8:] == window
