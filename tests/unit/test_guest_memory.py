"""GuestMemory: bounds, regions, loading and release."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.guests import process_status

from vmm.errors import GuestAddressError, VmmError
from vmm.kvm.abi import kvm_msr_entry
from vmm.memory import HUGE_PAGE, GuestMemory, Range, Region

LOW = Range(0, 0x4000)
HIGH = Range(1 << 32, 0x2000)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory([LOW, HIGH])
    yield memory
    memory.close()


def test_ram_is_zero(memory: GuestMemory) -> None:
    assert memory.read(0, LOW.size) == bytes(LOW.size)


def test_regions_lie_one_after_the_other(memory: GuestMemory) -> None:
    assert memory.regions == [Region(*LOW, 0), Region(*HIGH, LOW.size)]
    low, high = map(memory.host_addr, memory.regions)
    assert high == low + LOW.size


def test_what_is_written_is_read_back_in_each_region(memory: GuestMemory) -> None:
    memory.write(0x3FFE, b"ab")
    memory.write(1 << 32, b"cd")
    assert memory.read(0x3FFE, 2) == b"ab"
    assert memory.read(1 << 32, 2) == b"cd"


def test_struct_is_written_as_its_bytes(memory: GuestMemory) -> None:
    memory.write(8, kvm_msr_entry(index=0x1A0, data=1))
    assert memory.read(8, 16) == b"\xa0\x01" + bytes(6) + b"\x01" + bytes(7)


@pytest.mark.parametrize(
    ("address", "size"),
    [(0x3FFF, 2), (0x4000, 1), ((1 << 32) - 1, 2), ((1 << 32) + 0x2000, 1), (-1, 1)],
)
def test_access_that_is_not_wholly_ram_is_refused(
    memory: GuestMemory, address: int, size: int
) -> None:
    with pytest.raises(GuestAddressError, match="is not RAM"):
        memory.view(address, size)


def test_clear_zeroes_all_regions(memory: GuestMemory) -> None:
    memory.write(0, b"x")
    memory.write(1 << 32, b"x")
    memory.clear()
    assert memory.read(0, 1) + memory.read(1 << 32, 1) == bytes(2)


def test_discard_zeroes_the_whole_pages_of_a_range_alone(memory: GuestMemory) -> None:
    memory.write(0, b"x" * 0x4000)
    memory.discard(0x0FFF, 0x2001)
    assert memory.read(0, 0x4000) == b"x" * 0x1000 + bytes(0x2000) + b"x" * 0x1000
    memory.discard(0x3001, 0xFFF)
    memory.discard(0x3FFF, 0)
    assert memory.read(0x3000, 0x1000) == b"x" * 0x1000


def test_discard_gives_the_host_its_memory_back() -> None:
    size = 64 << 20
    memory = GuestMemory([Range(0, size)])
    memory.write(0, b"x" * size)
    before = process_status("VmRSS")
    memory.discard(0, size)
    assert process_status("VmRSS") < before - (size >> 10) // 2
    memory.close()


@pytest.mark.parametrize("address", [0x3001, 0x4000, -0x1000, 1 << 40])
def test_discard_of_what_is_not_wholly_ram_is_refused(
    memory: GuestMemory, address: int
) -> None:
    with pytest.raises(GuestAddressError, match="is not RAM"):
        memory.discard(address, 0x1000)


def test_load_reads_a_part_of_a_file(memory: GuestMemory, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "image", os.O_RDONLY)
    memory.load(fd, 3, 4, 0x1000)
    os.close(fd)
    assert memory.read(0xFFF, 6) == b"\x003456\0"


def test_impossible_size_is_one_error_that_says_so() -> None:
    with pytest.raises(VmmError, match="memory: the host refuses to map"):
        GuestMemory([Range(0, 1 << 56)])


def test_closing_twice_is_fine() -> None:
    memory = GuestMemory([LOW])
    memory.close()
    memory.close()


def test_host_addresses_allow_huge_pages(memory: GuestMemory) -> None:
    first = memory.regions[0]
    assert (memory.host_addr(first) - first.guest_addr) % HUGE_PAGE == 0


def test_host_without_huge_pages_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmap.MADV_HUGEPAGE", 0x7FFF)  # EINVAL, as an older kernel's
    memory = GuestMemory([Range(0, 0x10000)])
    assert memory.read(0, 4) == bytes(4)
    memory.close()


# How long a view lives


def test_a_view_shows_the_ram_of_the_next_boot_after_a_reset(
    memory: GuestMemory,
) -> None:
    view = memory.view(0x1000, 4)
    view[:] = b"left"
    memory.clear()  # what a reset does
    assert bytes(view) == bytes(4)
    memory.write(0x1000, b"next")
    assert bytes(view) == b"next"


def test_a_view_outlives_the_memory_and_shows_zeros() -> None:
    memory = GuestMemory([LOW])
    view = memory.view(0x1000, 8).cast("I")
    memory.write(0x1000, b"left")
    memory.close()
    memory.close()
    assert view.tolist() == [0, 0]
    view[0] = 1  # which nobody sees
    view.release()


def test_the_last_view_takes_the_mapping_along() -> None:
    before = process_status("VmSize")
    memory = GuestMemory([Range(0, 1 << 30)])
    view = memory.view(0, 4)
    memory.close()
    del memory
    assert process_status("VmSize") >= before + (1 << 20)
    del view
    assert process_status("VmSize") < before + (1 << 20)


@pytest.mark.parametrize("method", ["view", "read"])
def test_after_close_there_is_one_clear_error(method: str) -> None:
    memory = GuestMemory([LOW])
    memory.close()
    with pytest.raises(GuestAddressError, match="the machine is closed"):
        getattr(memory, method)(0, 1)


def test_a_negative_size_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(GuestAddressError, match="is not RAM"):
        memory.view(0x1000, -1)


def test_a_child_sees_zeros_in_a_view_that_it_inherits(memory: GuestMemory) -> None:
    view = memory.view(0x1000, 4)
    view[:] = b"ours"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, bytes(view))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert os.read(reader, 8) == bytes(4)
    assert bytes(view) == b"ours"
    os.close(reader)
    os.close(writer)


def test_shared_ram_is_one_file_for_all_who_map_it(memory: GuestMemory) -> None:
    fd = memory.share()
    assert memory.share() == fd
    memory.write(8, b"ours")
    memory.write(1 << 32, b"high")
    with mmap.mmap(fd, memory.size) as other:
        assert other[8:12] == b"ours"
        assert other[LOW.size : LOW.size + 4] == b"high"
        other[8:12] = b"else"
        assert memory.read(8, 4) == b"else"


def test_shared_ram_is_zero_after_clear_for_all(memory: GuestMemory) -> None:
    fd = memory.share()
    memory.write(8, b"ours")
    memory.clear()
    assert memory.read(8, 4) == bytes(4)
    assert os.pread(fd, 4, 8) == bytes(4)


def test_shared_ram_is_given_back(memory: GuestMemory) -> None:
    fd = memory.share()
    memory.write(0, b"x" * LOW.size)
    memory.discard(0x1000, 0x2000)
    assert memory.read(0, LOW.size) == b"x" * 0x1000 + bytes(0x2000) + b"x" * 0x1000
    assert os.pread(fd, 0x2000, 0x1000) == bytes(0x2000)


def test_views_are_of_shared_ram_too_that_were_there_before(
    memory: GuestMemory,
) -> None:
    view = memory.view(0, 4)
    fd = memory.share()
    view[:] = b"late"
    assert os.pread(fd, 4, 0) == b"late"
    view.release()


def test_shared_ram_can_not_be_shortened(memory: GuestMemory) -> None:
    with pytest.raises(PermissionError):
        os.truncate(memory.share(), 0)


def test_shared_ram_has_no_image(memory: GuestMemory) -> None:
    memory.share()
    with pytest.raises(VmmError, match="shared with another process: no snapshot"):
        memory.freeze()


def test_ram_of_an_image_can_not_be_shared(memory: GuestMemory) -> None:
    memory.freeze()
    with pytest.raises(VmmError, match="from a snapshot has RAM of its own"):
        memory.share()


def test_view_of_shared_ram_outlives_it_as_zeros() -> None:
    memory = GuestMemory([LOW])
    memory.share()
    view = memory.view(0, 4)
    view[:] = b"text"
    memory.close()
    assert bytes(view) == bytes(4)
