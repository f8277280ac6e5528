"""Reads by virtual address: across pages, and up to where nothing is mapped."""

from collections.abc import Iterator

import pytest
from support.fake_vcpu import FakeVcpu

from vmm.memory import GuestMemory, Range
from vmm.vcpu.virtual_memory import read_virtual

LOW, HIGH = 0x7F00_0000_0000, 0x7F00_0000_1000  # two pages, apart in RAM


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory([Range(0, 0x4000)])
    memory.write(0x2FFC, b"abcd")
    memory.write(0x1000, b"efgh")
    yield memory
    memory.close()


@pytest.fixture
def vcpu() -> Iterator[FakeVcpu]:
    with FakeVcpu() as vcpu:
        vcpu.pages = {LOW: 0x2000, HIGH: 0x1000}
        yield vcpu


def test_pages_are_joined_as_they_are_mapped(
    vcpu: FakeVcpu, memory: GuestMemory
) -> None:
    assert read_virtual(vcpu, memory, HIGH - 4, 8) == b"abcdefgh"


def test_read_ends_where_nothing_is_mapped(vcpu: FakeVcpu, memory: GuestMemory) -> None:
    del vcpu.pages[HIGH]
    assert read_virtual(vcpu, memory, HIGH - 4, 8) == b"abcd"


def test_read_ends_where_no_ram_is(vcpu: FakeVcpu, memory: GuestMemory) -> None:
    vcpu.pages[HIGH] = 0x1_0000
    assert read_virtual(vcpu, memory, HIGH - 4, 8) == b"abcd"


def test_nothing_is_read_of_an_unmapped_page(
    vcpu: FakeVcpu, memory: GuestMemory
) -> None:
    assert read_virtual(vcpu, memory, 0x1000, 8) == b""
