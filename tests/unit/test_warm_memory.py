"""An image of RAM learns which pages its machines write to, and has them at hand."""

from vmm.hot_pages import HOT_MAX, LIVES
from vmm.memory import GuestMemory, Range
from vmm.page_runs import PAGE_SIZE, own_pages
from vmm.ram_image import RamImage

PAGES = 4 * HOT_MAX
RAM = (Range(0, PAGES * PAGE_SIZE),)


def image() -> RamImage:
    memory = GuestMemory(RAM)
    try:
        memory.write(0, b"x" * PAGE_SIZE * 3)
        return memory.freeze()
    finally:
        memory.close()


def live(image: RamImage, *pages: int) -> None:
    memory = GuestMemory(RAM, image)
    for page in pages:
        memory.write(page * PAGE_SIZE, b"y")
    memory.close()


def test_pages_that_most_lives_write_to_become_hot() -> None:
    one = image()
    for own in range(LIVES):
        assert one.hot.runs == []
        live(one, 1, 2, 7, 100 + own)
    assert one.hot.runs == [
        (PAGE_SIZE, 3 * PAGE_SIZE),
        (7 * PAGE_SIZE, 8 * PAGE_SIZE),
    ]
    live(one, 50)  # it has learnt
    assert len(one.hot.runs) == 2


def test_one_that_is_put_back_has_ended_a_life_too() -> None:
    one = image()
    memory = GuestMemory(RAM, one)
    for _ in range(LIVES):
        memory.write(5 * PAGE_SIZE, b"z")
        memory.become(one)
    memory.close()
    assert one.hot.runs == [(5 * PAGE_SIZE, 6 * PAGE_SIZE)]


def test_warm_pages_are_there_and_have_what_the_image_has() -> None:
    one = image()
    for _ in range(LIVES):
        live(one, 1, 9)
    memory = GuestMemory(RAM, one)
    assert list(own_pages(memory.host_addr(memory.regions[0]), memory.size)) == []
    memory.warm()
    assert (
        list(own_pages(memory.host_addr(memory.regions[0]), memory.size))
        == one.hot.runs
    )
    assert memory.read(PAGE_SIZE, 2) == b"xx"
    assert memory.read(9 * PAGE_SIZE, 2) == bytes(2)
    memory.close()
    memory.warm()  # the loop's thread may come late


def test_machines_that_write_to_much_get_nothing_in_advance() -> None:
    one = image()
    for _ in range(LIVES):
        live(one, *range(HOT_MAX + 1))
    assert one.hot.runs == []
