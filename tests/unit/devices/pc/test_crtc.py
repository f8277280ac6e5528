"""Crtc: registers that keep what is written, and a retrace that comes and goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.devices.pc.crtc import DATA, INDEX, REGISTERS, STATUS, Crtc


@pytest.fixture
def crtc() -> Crtc:
    return Crtc()


def put(crtc: Crtc, register: int, value: int) -> None:
    crtc.write(INDEX, register)
    crtc.write(DATA, value)


def get(crtc: Crtc, register: int) -> int:
    crtc.write(INDEX, register)
    return crtc.read(DATA)


def test_the_cursor_starts_in_the_corner_and_stays_where_it_is_put(crtc: Crtc) -> None:
    assert [get(crtc, at) for at in (0x0E, 0x0F)] == [0, 0]
    put(crtc, 0x0E, 0x07)
    put(crtc, 0x0F, 0xCF)
    assert [get(crtc, at) for at in (0x0E, 0x0F)] == [0x07, 0xCF]


def test_the_index_is_read_back(crtc: Crtc) -> None:
    crtc.write(INDEX, 0x0E)
    assert crtc.read(INDEX) == 0x0E


def test_what_no_vga_has_reads_zero(crtc: Crtc) -> None:
    put(crtc, REGISTERS, 0x55)
    assert get(crtc, REGISTERS) == 0


def test_the_lock_protects_registers_0_to_7_but_for_line_compare(crtc: Crtc) -> None:
    put(crtc, 0x00, 0x5F)
    put(crtc, 0x07, 0x0F)
    put(crtc, 0x11, 0x80)
    put(crtc, 0x00, 0)
    put(crtc, 0x07, 0x10)
    put(crtc, 0x08, 1)
    assert [get(crtc, at) for at in (0x00, 0x07, 0x08)] == [0x5F, 0x1F, 1]


def test_a_retrace_begins_and_ends_by_looking(crtc: Crtc) -> None:
    assert [crtc.read(STATUS) for _ in range(4)] == [9, 0, 9, 0]


def test_reset_clears_all(crtc: Crtc) -> None:
    put(crtc, 0x0E, 0x07)
    crtc.read(STATUS)
    crtc.reset()
    assert (crtc.read(INDEX), get(crtc, 0x0E), crtc.read(STATUS)) == (0, 0, 9)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1, 6]), st.integers(0, 255)))
)
def test_no_sequence_raises(accesses: list[tuple[bool, int, int]]) -> None:
    crtc = Crtc()
    for is_write, offset, value in accesses:
        if is_write:
            crtc.write(offset, value)
        assert 0 <= crtc.read(offset) <= 0xFF
