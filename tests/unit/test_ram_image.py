"""RAM that is frozen, and those who go on from it."""

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.open_fds import open_fds

from vmm.errors import VmmError
from vmm.memory import ZEROED_MAX, GuestMemory, Range
from vmm.page_runs import extents, merged, own_pages, without
from vmm.ram_image import RamImage, new_memfd

PAGE = 4096
SIZE = 8 << 20


def memory(image: RamImage | None = None) -> GuestMemory:
    return GuestMemory([Range(0, 3 << 20), Range(1 << 32, 5 << 20)], image)


def content(ram: GuestMemory) -> bytes:
    return ram.read(0, 3 << 20) + ram.read(1 << 32, 5 << 20)


def test_an_image_has_what_ram_had_and_ram_goes_on() -> None:
    ram = memory()
    ram.write(0x5000, b"low")
    ram.write((1 << 32) + SIZE // 2, b"high")
    before = content(ram)
    image = ram.freeze()
    assert content(ram) == before
    ram.write(0x5000, b"own")
    clones = [memory(image) for _ in range(2)]
    clones[0].write(0x6000, b"its")
    assert content(clones[1]) == before
    assert clones[0].read(0x6000, 3) == b"its"
    assert ram.read(0x5000, 3) == b"own"
    clones[0].become(image)
    assert content(clones[0]) == before
    for each in (ram, *clones):
        each.close()


def test_any_number_of_generations() -> None:
    ram, chances = memory(), random.Random(0)
    model = bytearray(SIZE)
    for generation in range(12):
        for _ in range(20):
            at = chances.randrange(SIZE // PAGE) * PAGE
            data = chances.choice([bytes(PAGE), bytes([generation + 1]) * PAGE])
            low = at < 3 << 20
            addr = at if low else (1 << 32) + at - (3 << 20)
            if chances.random() < 0.3:
                ram.discard(addr, PAGE)
                data = bytes(PAGE)
            else:
                ram.write(addr, data)
            model[at : at + PAGE] = data
        image = ram.freeze()
        assert content(ram) == model
        with_image = memory(image)
        assert content(with_image) == model
        with_image.close()
    ram.close()


def test_zeros_take_no_memory() -> None:
    ram = memory()
    ram.write(0, bytes(2 << 20))
    ram.write(1 << 20, b"one")
    image = ram.freeze()
    assert image.allocated() == 32 << 10
    ram.write(1 << 20, bytes(3))  # over what isn't zero in the base
    assert ram.freeze().allocated() == 28 << 10  # the page was all of it
    assert ram.read(1 << 20, 3) == bytes(3)
    ram.close()


def test_discarded_ram_is_zero_and_not_the_images() -> None:
    ram = memory()
    ram.write(0x5000, b"low")
    ram.freeze()
    ram.clear()
    assert content(ram) == bytes(SIZE)
    ram.close()


def test_discarded_pages_are_zero_in_whoever_goes_on_from_an_image_too() -> None:
    ram = memory()
    ram.write(0x5000, b"x" * 4 * PAGE)
    image = ram.freeze()
    ram.discard(0x5800, 3 * PAGE)  # two whole pages
    after = b"x" * PAGE + bytes(2 * PAGE) + b"x" * PAGE
    assert ram.read(0x5000, 4 * PAGE) == after
    later = ram.freeze()
    assert ram.read(0x5000, 4 * PAGE) == after
    ram.become(image)
    assert ram.read(0x5000, 4 * PAGE) == b"x" * 4 * PAGE
    ram.discard(0x5000, PAGE)
    ram.become(image)  # which it has already
    assert ram.read(0x5000, 4 * PAGE) == b"x" * 4 * PAGE
    ram.become(later)
    assert ram.read(0x5000, 4 * PAGE) == after
    ram.close()


def test_discarded_pages_of_an_image_cost_a_bounded_number_of_mappings() -> None:
    pages = 2 * ZEROED_MAX + 100
    ram = GuestMemory([Range(0, pages * PAGE)])
    ram.write(0, b"x" * pages * PAGE)
    ram.freeze()
    before = _mappings()
    for page in range(0, pages, 2):
        ram.discard(page * PAGE, PAGE)
    assert _mappings() - before <= 2 * ZEROED_MAX
    assert ram.read(0, pages * PAGE) == (bytes(PAGE) + b"x" * PAGE) * (pages // 2)
    ram.close()


def _mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def test_nobody_can_change_an_image() -> None:
    image = memory().freeze()
    with pytest.raises(PermissionError):
        os.truncate(image.fd, PAGE)
    with pytest.raises(PermissionError):
        os.pwrite(image.fd, b"x", 0)
    copy = os.open(f"/proc/self/fd/{image.fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(copy, b"x", 0)
    os.close(copy)


def test_an_image_is_there_for_as_long_as_somebody_has_it() -> None:
    before = open_fds()
    ram = memory()
    ram.write(0x5000, b"low")
    image = ram.freeze()
    clone = memory(image)
    del image
    ram.close()
    assert clone.freeze().allocated() == 32 << 10
    clone.close()
    assert open_fds() == before


def test_a_host_without_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_fds()
    ram = memory()
    ram.write(0x5000, b"low")
    failing = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_: object) -> int:
        raise failing

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(VmmError, match=r"no memory for a copy of 8 MiB .*: No space"):
        ram.freeze()
    monkeypatch.undo()
    assert ram.read(0x5000, 3) == b"low"
    monkeypatch.setattr(os, "memfd_create", fail)
    with pytest.raises(VmmError, match="no memory"):
        ram.freeze()
    ram.close()
    assert open_fds() == before


def test_a_file_that_can_not_be_looked_at_is_an_error(tmp_path: Path) -> None:
    fd = new_memfd("gone", PAGE)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file"):
        list(extents(fd, PAGE))


def test_own_pages_are_those_that_were_written_to() -> None:
    image = memory().freeze()
    ram = memory(image)
    for page in (3, 4, 9):
        ram.write(page * PAGE, b"x")
    ram.read(20 * PAGE, 1)
    address = ram.host_addr(ram.regions[0])
    assert list(own_pages(address, SIZE)) == [
        (3 * PAGE, 5 * PAGE),
        (9 * PAGE, 10 * PAGE),
    ]
    ram.close()


runs = st.lists(st.integers(0, 40), unique=True).map(
    lambda ends: [(a, b) for a, b in zip(*[iter(sorted(ends))] * 2, strict=False)]
)


@given(runs, runs)
def test_without_is_the_difference(
    some: list[tuple[int, int]], others: list[tuple[int, int]]
) -> None:
    def points(of: list[tuple[int, int]]) -> set[int]:
        return {point for start, end in of for point in range(start, end)}

    left = list(without(some, others))
    assert points(left) == points(some) - points(others)
    assert left == sorted(left)
    assert all(start < end for start, end in left)


def test_merged_runs_touch_no_other() -> None:
    assert merged([(0, 1), (3, 4), (8, 9)], (1, 3)) == [(0, 4), (8, 9)]
    assert merged([(4, 5)], (0, 1)) == [(0, 1), (4, 5)]
    assert merged([(0, 9)], (3, 4)) == [(0, 9)]
