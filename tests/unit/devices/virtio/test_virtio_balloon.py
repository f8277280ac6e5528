"""VirtioBalloon: pages that are given back, and what the driver says of itself."""

from struct import pack, unpack

import pytest
from support.plain_ram import PlainRam
from support.queue_rig import RamOfPieces
from support.virtio_device_rig import REGION, DeviceRig

from vmm.devices.errors import InvalidState
from vmm.devices.virtio.balloon import (
    CHAINS_A_TURN,
    PFNS_MAX,
    BalloonState,
    VirtioBalloon,
)

INFLATE, DEFLATE, STATS = 0, 1, 2
STATS_VQ, DEFLATE_ON_OOM, PAGE_POISON, REPORTING = (1 << bit for bit in (1, 2, 4, 5))
ALL = STATS_VQ | DEFLATE_ON_OOM | PAGE_POISON | REPORTING
PAGE = 4096
PAGES = 0x100  # of RAM, the last half of which no ring is in
FREE = 0x80


class Ram(PlainRam):
    """Notes what is discarded, by pages."""

    def __init__(self) -> None:
        super().__init__(PAGES * PAGE)
        self.discarded: list[tuple[int, int]] = []

    def discard(self, guest_addr: int, size: int) -> None:
        super().discard(guest_addr, size)
        self.discarded.append((guest_addr // PAGE, size // PAGE))


class BalloonRig(DeviceRig):
    """A started one."""

    device: VirtioBalloon
    ram: Ram

    def __init__(self, features: int = ALL) -> None:
        ram = Ram()
        super().__init__(VirtioBalloon(ram, PAGES * PAGE), ram)
        assert len(self.device.queues) * REGION <= FREE * PAGE
        self.start(features)
        self.statistics: list[dict[str, int]] = []

    def inflate(self, *pfns: int) -> None:
        assert self.send(INFLATE, pack(f"<{len(pfns)}I", *pfns)).is_done

    def config(self) -> tuple[int, ...]:
        return unpack("<4I", self.device.config())

    def ask(self) -> bool:
        return self.device.ask_statistics(self.statistics.append)


# Inflating


def test_the_pages_of_a_buffer_are_given_back_in_runs() -> None:
    rig = BalloonRig()
    rig.ram.write(FREE * PAGE, b"x" * 0x80 * PAGE)
    rig.inflate(0x92, 0x90, 0x91, 0xA0, 0x90)
    assert rig.ram.discarded == [(0x90, 3), (0xA0, 1)]
    assert rig.ram.read(0x90 * PAGE, 3 * PAGE) == bytes(3 * PAGE)
    assert rig.ram.read(0x93 * PAGE, PAGE) == b"x" * PAGE


def test_page_numbers_may_be_spread_over_buffers() -> None:
    rig = BalloonRig()
    data = pack("<2I", 0x90, 0x95)
    rig.send(INFLATE, data[:3], data[3:5], data[5:])
    assert rig.ram.discarded == [(0x90, 1), (0x95, 1)]


@pytest.mark.parametrize("pfn", [PAGES, 0xFFFF_FFFF, 1 << 20])
def test_case_59_pages_beyond_ram_are_ignored_and_the_others_not(pfn: int) -> None:
    rig = BalloonRig()
    rig.inflate(pfn, 0x90)
    assert rig.ram.discarded == [(0x90, 1)]
    assert rig.told == []


def test_case_59_of_a_run_that_leaves_ram_what_is_in_it_goes() -> None:
    rig = BalloonRig()
    rig.inflate(*range(PAGES - 3, PAGES + 5))
    assert sum(size for _, size in rig.ram.discarded) == 3
    assert all(page + size <= PAGES for page, size in rig.ram.discarded)


@pytest.mark.parametrize("data", [b"", b"\x90", pack("<I", 0x90)[:3]])
def test_case_59_a_part_of_a_page_number_is_ignored(data: bytes) -> None:
    rig = BalloonRig()
    assert rig.send(INFLATE, pack("<I", 0xA0) + data).is_done
    assert rig.ram.discarded == [(0xA0, 1)]


def test_case_59_a_buffer_has_a_bounded_number_of_pages() -> None:
    rig = BalloonRig()
    pfns = [*[0x90] * PFNS_MAX, 0x95]
    rig.inflate(*pfns)
    assert rig.ram.discarded == [(0x90, 1)]


def test_case_20_a_ring_full_of_pages_leaves_others_their_turn() -> None:
    rig = BalloonRig()
    data = pack(f"<{PFNS_MAX}I", *range(0xF000_0000, 0xF000_0000 + PFNS_MAX))
    requests = [rig.drivers[INFLATE].send([data]) for _ in range(2 * CHAINS_A_TURN)]
    for turn in (1, 2):
        rig.kick(INFLATE)
        assert sum(request.is_done for request in requests) == turn * CHAINS_A_TURN
        assert rig.again.count(rig.device.queues[INFLATE]) == turn


def test_case_60_a_guest_that_gives_its_rings_away_harms_itself_alone() -> None:
    rig = BalloonRig()
    rig.inflate(*range(REGION // PAGE))
    assert rig.ram.discarded == [(0, REGION // PAGE)]
    assert rig.interrupts == ["config"]
    assert "queue 0" in rig.device.trouble  # a ring of zeros
    rig.start(ALL)
    rig.inflate(0x90)
    assert rig.device.trouble == ""


def test_deflating_gives_the_buffer_back_and_no_page() -> None:
    rig = BalloonRig()
    assert rig.send(DEFLATE, pack("<I", 0x90)).is_done
    assert rig.ram.discarded == []


# Target and actual


def test_a_new_target_is_told_once() -> None:
    rig = BalloonRig()
    rig.device.target = 7 * PAGE + 5
    rig.device.target = 7 * PAGE
    assert rig.interrupts == ["config"]
    assert rig.config() == (7, 0, 0, 0)
    assert rig.device.target == 7 * PAGE


@pytest.mark.parametrize("target", [-1, PAGES * PAGE + 1])
def test_a_target_that_can_not_be_is_refused(target: int) -> None:
    rig = BalloonRig()
    with pytest.raises(ValueError, match="not within"):
        rig.device.target = target
    with pytest.raises(ValueError, match="not within"):
        VirtioBalloon(Ram(), PAGES * PAGE, target)


def test_actual_is_what_the_driver_says() -> None:
    rig = BalloonRig()
    told: list[int] = []
    rig.device.on_actual = lambda: told.append(rig.device.actual)
    rig.device.write_config(4, pack("<I", 9))
    assert told == [9 * PAGE]
    assert rig.config() == (0, 9, 0, 0)


@pytest.mark.parametrize("pages", [0xFFFF_FFFF, PAGES + 1, 1 << 31])
def test_case_61_actual_is_never_more_than_ram_has(pages: int) -> None:
    rig = BalloonRig()
    rig.device.write_config(4, pack("<I", pages))
    assert rig.device.actual == PAGES * PAGE


def test_case_61_deflating_more_than_was_inflated_is_fine() -> None:
    rig = BalloonRig()
    rig.send(DEFLATE, pack("<64I", *range(64)))
    rig.device.write_config(4, pack("<I", 0))
    assert rig.device.actual == 0


@pytest.mark.parametrize(
    ("offset", "data"), [(0, 4), (8, 4), (4, 2), (5, 4), (4, 8), (12, 1)]
)
def test_a_driver_writes_nothing_else(offset: int, data: int) -> None:
    rig = BalloonRig()
    rig.device.write_config(offset, b"\xff" * data)
    assert rig.config() == (0, 0, 0, 0)


def test_a_reset_keeps_the_target_alone() -> None:
    rig = BalloonRig()
    rig.device.target = 7 * PAGE
    rig.device.write_config(4, pack("<I", 7))
    rig.device.write_config(12, pack("<I", 0xAAAAAAAA))
    rig.device.stop()
    assert rig.config() == (7, 0, 0, 0)


# Statistics


def test_statistics_are_those_that_come_when_asked() -> None:
    rig = BalloonRig()
    first = rig.drivers[STATS].send([pack("<HQ", 4, 1)])
    rig.kick(STATS)
    assert not first.is_done
    assert rig.ask()
    rig.collect()
    assert first.is_done
    assert STATS in rig.interrupts
    assert rig.statistics == []
    second = rig.send(STATS, pack("<HQHQ", 4, 1 << 30, 5, 2 << 30))
    assert rig.statistics == [{"free_memory": 1 << 30, "total_memory": 2 << 30}]
    assert not second.is_done


def test_case_19_statistics_from_before_the_driver_is_ready_are_looked_at_then() -> (
    None
):
    rig = BalloonRig()
    rig.device.stop()
    rig.again.clear()
    rig.device.start()
    assert rig.again == [rig.device.queues[STATS]]


def test_all_who_have_asked_get_the_same() -> None:
    rig = BalloonRig()
    rig.send(STATS, pack("<HQ", 4, 1))
    assert [rig.ask(), rig.ask()] == [True, True]
    rig.collect()
    rig.send(STATS, pack("<HQ", 4, 2))
    assert rig.statistics == [{"free_memory": 2}] * 2


def test_who_does_not_wait_any_more_is_forgotten() -> None:
    rig = BalloonRig()
    told: list[dict[str, int]] = []
    rig.ask()
    rig.device.ask_statistics(told.append)
    rig.device.forget_statistics(told.append)
    rig.device.forget_statistics(told.append)
    rig.send(STATS, pack("<HQ", 4, 2))
    assert (told, rig.statistics) == ([], [{"free_memory": 2}])


def test_case_62_unknown_tags_are_skipped() -> None:
    rig = BalloonRig()
    rig.ask()
    rig.send(STATS, pack("<HQHQHQ", 16, 1, 0xFFFF, 2, 15, 3))
    assert rig.statistics == [{"direct_reclaims": 3}]


@pytest.mark.parametrize("size", [1, 9, 11, 19])
def test_case_62_a_buffer_of_another_length_is_ignored(size: int) -> None:
    rig = BalloonRig()
    rig.ask()
    rig.send(STATS, bytes(size))
    assert rig.statistics == []
    rig.ask()
    rig.collect()
    rig.send(STATS, pack("<HQ", 4, 2))
    assert rig.statistics == [{"free_memory": 2}] * 2


def test_case_62_of_two_buffers_one_comes_back() -> None:
    rig = BalloonRig()
    first, second = (rig.send(STATS, pack("<HQ", 4, n)) for n in (1, 2))
    assert (first.is_done, second.is_done) == (True, False)


def test_nobody_can_be_asked_without_a_driver_that_can() -> None:
    rig = BalloonRig()
    rig.device.stop()
    assert not rig.ask()
    rig.start(REPORTING)
    assert not rig.ask()


def test_who_has_asked_before_a_reset_gets_nothing() -> None:
    rig = BalloonRig()
    rig.ask()
    rig.start(ALL)
    rig.send(STATS, pack("<HQ", 4, 2))
    assert rig.statistics == []


# Reports of free pages, and where their queue is


@pytest.mark.parametrize(
    ("features", "queue"), [(ALL, 3), (REPORTING, 2), (REPORTING | DEFLATE_ON_OOM, 2)]
)
def test_queues_are_numbered_by_what_was_negotiated(features: int, queue: int) -> None:
    rig = BalloonRig(features)
    rig.drivers[queue].offer([(0x90 * PAGE, 0x10 * PAGE, True)])
    rig.kick(queue)
    assert rig.ram.discarded == [(0x90, 0x10)]


def test_a_queue_that_nobody_has_negotiated_does_nothing() -> None:
    rig = BalloonRig(0)
    request = rig.drivers[2].offer([(0x90 * PAGE, PAGE, True)])
    rig.kick(2)
    assert request.is_done
    assert rig.ram.discarded == []


def test_case_59_of_a_reported_range_whole_pages_go() -> None:
    rig = BalloonRig()
    ranges = [(0x90 * PAGE + 1, 2 * PAGE), (0xA0 * PAGE, PAGE - 1)]
    rig.drivers[3].offer([(addr, size, True) for addr, size in ranges])
    rig.kick(3)
    assert rig.ram.discarded == [(0x91, 1)]


def test_case_6_a_report_over_two_pieces_of_ram_goes_as_a_whole() -> None:
    ram = RamOfPieces(range(0, 0x90 * PAGE), range(0x90 * PAGE, PAGES * PAGE))
    rig = DeviceRig(VirtioBalloon(ram, PAGES * PAGE), ram)
    rig.start(ALL)
    for page in (0x8F, 0x90):
        ram.write(page * PAGE, b"x" * PAGE)
    rig.drivers[3].offer([(0x8F * PAGE, 2 * PAGE, True)])
    rig.device.serve(rig.device.queues[3])
    assert [ram.read(page * PAGE, PAGE) for page in (0x8F, 0x90)] == [bytes(PAGE)] * 2


def test_case_59_a_report_of_what_is_no_ram_breaks_the_ring() -> None:
    rig = BalloonRig()
    rig.drivers[3].offer([(PAGES * PAGE - PAGE, 2 * PAGE, True)])
    rig.device.serve(rig.device.queues[3])
    assert rig.ram.discarded == []
    assert len(rig.told) == 1
    assert "not in RAM" in rig.told[0]


def test_a_report_of_what_may_not_be_written_is_none() -> None:
    rig = BalloonRig()
    rig.drivers[3].offer([(0x90 * PAGE, PAGE, False)])
    rig.kick(3)
    assert rig.ram.discarded == []


def test_poisoned_pages_stay_as_they_are() -> None:
    rig = BalloonRig()
    rig.device.write_config(12, pack("<I", 0xAAAAAAAA))
    request = rig.drivers[3].offer([(0x90 * PAGE, PAGE, True)])
    rig.kick(3)
    assert request.is_done
    assert rig.ram.discarded == []


# State


def test_a_state_has_what_the_driver_and_the_host_have_set() -> None:
    rig, other = BalloonRig(), BalloonRig()
    rig.device.target = 7 * PAGE
    rig.device.write_config(4, pack("<I", 6))
    rig.device.write_config(12, pack("<I", 5))
    other.device.restore(rig.device.state())
    assert other.config() == (7, 6, 0, 5)


def test_a_state_of_a_larger_one_is_refused() -> None:
    rig = BalloonRig()
    with pytest.raises(InvalidState, match="num_pages is at most"):
        rig.device.restore(BalloonState(PAGES + 1, 0, 0))
    assert rig.config() == (0, 0, 0, 0)


def test_case_67_the_drivers_statistics_buffer_comes_along() -> None:
    rig, other = BalloonRig(), BalloonRig()
    kept = rig.send(STATS, pack("<HQ", 4, 1))
    saved, queue = rig.device.state(), rig.device.queues[STATS].state()
    other.ram.data[:] = rig.ram.data
    other.drivers = rig.drivers
    for driver in other.drivers:
        driver.ram = other.ram
    other.device.queues[STATS].restore(queue, other.ram, 0)
    other.device.restore(saved)
    other.kick(STATS)
    assert not kept.is_done
    assert other.ask()
    other.collect()
    assert kept.is_done
    other.send(STATS, pack("<HQ", 4, 2))
    assert other.statistics == [{"free_memory": 2}]


def test_case_67_who_asks_before_that_is_answered_too() -> None:
    rig = BalloonRig()
    kept = rig.send(STATS, pack("<HQ", 4, 1))
    saved, queue = rig.device.state(), rig.device.queues[STATS]
    queue.restore(queue.state(), rig.ram, 0)
    rig.device.restore(saved)
    assert rig.device.state() == saved
    assert rig.ask()
    rig.kick(STATS)
    assert kept.is_done
    assert rig.statistics == []  # those were of before
    rig.send(STATS, pack("<HQ", 4, 2))
    assert rig.statistics == [{"free_memory": 2}]
