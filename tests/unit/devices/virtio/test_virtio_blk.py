"""VirtioBlk: what a request does to the disk, and what the driver is told.

A case is one of the hostile drivers of issue 19, by its number.
"""

import errno
import threading
from struct import unpack_from

import pytest
from support.blk_rig import (
    CHOOSES,
    FULL,
    SECTORS,
    WRITEBACK,
    BlkRig,
    MemoryDisk,
    a_range,
    header,
)
from support.guests import wait_until
from support.virtio_transports import DRIVERS, RAM_SIZE, VERSION_1

from vmm.devices.clock import VirtualClock
from vmm.devices.errors import InvalidState
from vmm.devices.token_bucket import TokenBucket
from vmm.devices.virtio.blk import (
    ANSWERED_AT,
    RANGES_MAX,
    VIRTIO_BLK_F_DISCARD,
    VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
    BlkState,
    VirtioBlk,
)

OK, IOERR, UNSUPP, UNANSWERED = 0, 1, 2, 0xEE
END = SECTORS * 512


# Reads and writes


def test_a_read_gets_what_is_there() -> None:
    rig = BlkRig()
    assert rig.read(3, 1024) == rig.disk.data[3 * 512 : 5 * 512]
    assert rig.interrupts == [0]


def test_a_write_is_read_again() -> None:
    rig = BlkRig()
    assert rig.write(7, b"new!" * 256) == OK
    assert rig.read(7, 1024) == b"new!" * 256
    assert rig.read(9, 512) == rig.disk.data[9 * 512 : 10 * 512]


def test_requests_of_one_kick_are_answered_together() -> None:
    rig = BlkRig()
    driver = rig.drivers[0]
    requests = [driver.send([header(VIRTIO_BLK_T_IN, at)], [512, 1]) for at in range(4)]
    rig.kick(0)
    assert [request.is_done for request in requests] == [True] * 4
    assert rig.interrupts == [0]


@pytest.mark.parametrize("pieces", [[1] * 17, [16, 1], [17], [3, 14]])
def test_case_13_a_header_may_be_in_any_pieces(pieces: list[int]) -> None:
    rig = BlkRig()
    rig.start(WRITEBACK, size=32)
    whole, parts = header(VIRTIO_BLK_T_OUT, 2) + b"x" * 512, []
    for size in pieces:
        parts.append(whole[:size])
        whole = whole[size:]
    request = rig.drivers[0].send([*parts, whole], [1])
    rig.kick(0)
    assert rig.status(request) == OK
    assert rig.disk.data[1024:1536] == b"x" * 512


@pytest.mark.parametrize("pieces", [[513], [1, 511, 1], [512, 1], [256, 257]])
def test_case_13_so_may_data_and_status(pieces: list[int]) -> None:
    rig = BlkRig()
    request = rig.drivers[0].send([header(VIRTIO_BLK_T_IN, 5)], pieces)
    rig.kick(0)
    assert request.data == rig.disk.data[5 * 512 : 6 * 512] + b"\0"


def test_case_12_without_room_for_a_status_nothing_is_done() -> None:
    rig = BlkRig()
    before = bytes(rig.disk.data)
    request = rig.send(0, header(VIRTIO_BLK_T_OUT), b"x" * 512)
    assert (request.is_done, request.length) == (True, 0)
    assert rig.disk.data == before


@pytest.mark.parametrize("short", [b"", b"\0" * 15])
def test_a_header_that_is_too_short_is_an_error(short: bytes) -> None:
    rig = BlkRig()
    request = rig.send(0, *filter(None, [short]), room=1)
    assert rig.status(request) == IOERR


def test_an_unknown_type_is_not_supported() -> None:
    rig = BlkRig()
    assert rig.status(rig.ask(99, room=512)) == UNSUPP


# Case 31: off the disk


@pytest.mark.parametrize(
    ("sector", "size"),
    [(SECTORS - 1, 1024), (SECTORS, 512), (1 << 55, 512), ((1 << 64) - 1, 512)],
)
def test_case_31_beyond_the_end_is_an_error(sector: int, size: int) -> None:
    rig = BlkRig()
    assert rig.write(sector, b"x" * size) == IOERR
    assert rig.status(rig.ask(VIRTIO_BLK_T_IN, sector, room=size)) == IOERR
    assert (len(rig.disk.data), rig.disk.calls) == (END, [])


@pytest.mark.parametrize("size", [1, 511, 513])
def test_case_31_a_part_of_a_sector_is_an_error(size: int) -> None:
    rig = BlkRig()
    assert rig.write(0, b"x" * size) == IOERR
    assert rig.status(rig.ask(VIRTIO_BLK_T_IN, 0, room=size)) == IOERR
    assert rig.disk.calls == []


def test_the_last_sector_is_on_the_disk() -> None:
    rig = BlkRig()
    assert rig.write(SECTORS - 1, b"z" * 512) == OK
    assert rig.disk.data.endswith(b"z" * 512)


# Case 32: read-only disks


@pytest.mark.parametrize("features", [0, 1 << VIRTIO_BLK_F_RO])
def test_case_32_a_read_only_disk_is_not_written_to(features: int) -> None:
    rig = BlkRig(MemoryDisk(is_read_only=True), features)
    assert rig.write(0, b"x" * 512) == IOERR
    for kind in (VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES):
        assert rig.status(rig.ask(kind, data=a_range(0, 1))) == IOERR
    assert rig.status(rig.ask(VIRTIO_BLK_T_FLUSH)) == OK
    assert rig.read(0, 512) == rig.disk.data[:512]
    assert rig.disk.calls == [("read", 0, 512)]


def test_a_read_only_disk_says_so_and_offers_no_discard() -> None:
    features = VirtioBlk(MemoryDisk(is_read_only=True)).features
    assert features >> VIRTIO_BLK_F_RO & 1
    assert not features >> VIRTIO_BLK_F_DISCARD & 1


# Case 33: ranges


def test_ranges_are_discarded_and_zeroed() -> None:
    rig = BlkRig()
    two = a_range(0, 8) + a_range(16, 1)
    assert rig.status(rig.ask(VIRTIO_BLK_T_DISCARD, data=two)) == OK
    assert rig.disk.calls == [("discard", 0, 4096), ("discard", 8192, 512)]
    flagged = a_range(2, 1, flags=1) + a_range(4, 1)
    assert rig.status(rig.ask(VIRTIO_BLK_T_WRITE_ZEROES, data=flagged)) == OK
    assert rig.disk.calls[2:] == [("zero", 1024, 512, True), ("zero", 2048, 512, False)]
    assert rig.read(2, 512) == bytes(512)


@pytest.mark.parametrize("kind", [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        a_range(0, 1)[:15],
        a_range(0, 1) + b"\0",
        a_range(SECTORS, 1),
        a_range(0, SECTORS + 1),
        a_range((1 << 64) - 1, 1),
        a_range(0, 0xFFFF_FFFF),
        a_range(0, 1) + a_range(1 << 60, 1),
        a_range(0, 1) * (RANGES_MAX + 1),
    ],
)
def test_case_33_ranges_that_can_not_be_are_an_error(kind: int, data: bytes) -> None:
    rig = BlkRig()
    assert rig.status(rig.ask(kind, data=data)) == IOERR
    assert rig.disk.calls == []


def test_case_33_overlapping_ranges_are_the_guests_business() -> None:
    rig = BlkRig()
    data = a_range(0, 8) + a_range(4, 8)
    assert rig.status(rig.ask(VIRTIO_BLK_T_DISCARD, data=data)) == OK


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (VIRTIO_BLK_T_DISCARD, 1),
        (VIRTIO_BLK_T_DISCARD, 2),
        (VIRTIO_BLK_T_WRITE_ZEROES, 2),
        (VIRTIO_BLK_T_WRITE_ZEROES, 0x8000_0001),
    ],
)
def test_case_33_unknown_flags_are_not_supported(kind: int, flags: int) -> None:
    rig = BlkRig()
    data = a_range(0, 1) + a_range(0, 1, flags)
    assert rig.status(rig.ask(kind, data=data)) == UNSUPP
    assert rig.disk.calls == []


# Case 34: what is durable when


def test_case_34_a_flush_is_over_before_its_status_is_written() -> None:
    rig = BlkRig()
    seen = []
    request = rig.drivers[0].send([header(VIRTIO_BLK_T_FLUSH)], [1])
    rig.disk.flush = lambda: seen.append(rig.status(request))  # type: ignore[method-assign]
    rig.kick(0)
    assert (seen, rig.status(request)) == ([UNANSWERED], OK)


def test_a_driver_that_flushes_is_left_to_it() -> None:
    rig = BlkRig(features=WRITEBACK)
    rig.write(0, b"x" * 512)
    assert ("flush",) not in rig.disk.calls


def test_a_driver_that_can_not_flush_needs_not_to() -> None:
    rig = BlkRig(features=0)
    rig.write(0, b"x" * 512)
    rig.ask(VIRTIO_BLK_T_DISCARD, data=a_range(0, 1))
    rig.ask(VIRTIO_BLK_T_WRITE_ZEROES, data=a_range(0, 1))
    assert [call[0] for call in rig.disk.calls] == [
        *("write", "flush", "discard", "flush", "zero", "flush")
    ]


@pytest.mark.parametrize("writeback", [True, False])
def test_a_driver_may_choose(writeback: bool) -> None:
    rig = BlkRig(features=CHOOSES, writeback=writeback)
    assert rig.blk.config()[32] == writeback
    rig.write(0, b"x" * 512)
    assert (("flush",) in rig.disk.calls) is not writeback
    rig.blk.write_config(32, bytes([not writeback]))
    rig.disk.calls.clear()
    rig.write(0, b"x" * 512)
    assert (("flush",) in rig.disk.calls) is writeback
    rig.start(CHOOSES)
    assert rig.blk.config()[32] == writeback


def test_one_that_has_not_asked_for_the_choice_has_none() -> None:
    rig = BlkRig(features=WRITEBACK)
    rig.blk.write_config(32, b"\0")
    assert rig.blk.config()[32] == 1


# Case 35: its serial


@pytest.mark.parametrize("room", [0, 1, 19, 20, 4095])
def test_case_35_of_a_serial_no_more_than_20_bytes_are_written(room: int) -> None:
    rig = BlkRig(serial=b"a serial of 20 bytes")
    request = rig.ask(VIRTIO_BLK_T_GET_ID, room=room)
    written = min(room, 20)
    assert request.data[:written] == b"a serial of 20 bytes"[:written]
    assert request.length == (room + 1 if room <= 20 else 20)
    assert rig.status(request) == OK


def test_a_short_serial_ends_in_zeros() -> None:
    rig = BlkRig(serial=b"disk1")
    assert rig.ask(VIRTIO_BLK_T_GET_ID, room=20).data == b"disk1".ljust(21, b"\0")


# Case 36: the host's errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_case_36_an_error_of_the_hosts_is_the_guests_and_told_once(number: int) -> None:
    rig = BlkRig()
    rig.disk.fails = number
    for _ in range(3):
        assert rig.write(0, b"x" * 512) == IOERR
    assert rig.status(rig.ask(VIRTIO_BLK_T_FLUSH)) == IOERR
    assert len(rig.told) == 2
    rig.disk.fails = None
    assert rig.write(0, b"y" * 512) == OK


def test_an_error_in_a_read_claims_no_data() -> None:
    rig = BlkRig()
    rig.disk.fails = FULL
    request = rig.ask(VIRTIO_BLK_T_IN, room=512)
    assert (request.length, rig.status(request)) == (0, IOERR)


def test_a_bug_of_the_backends_is_no_error_of_the_disk() -> None:
    rig = BlkRig()

    def fail() -> None:
        raise ZeroDivisionError

    rig.disk.meanwhile = fail
    with pytest.raises(ZeroDivisionError):
        rig.write(0, b"x" * 512)


# Case 38, and who holds whom up


def test_case_38_while_the_disk_is_at_it_nobody_waits_for_the_device() -> None:
    rig = BlkRig()
    was_free = []

    def try_lock() -> None:
        taken = rig.blk.lock.acquire(timeout=60)
        was_free.append(taken)
        if taken:
            rig.blk.lock.release()

    def meanwhile() -> None:
        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()

    rig.disk.meanwhile = meanwhile
    rig.write(0, b"x" * 512)
    assert was_free == [True]


def test_a_kick_by_an_exit_does_not_hold_a_vcpu_up() -> None:
    disk = MemoryDisk()
    driver = DRIVERS["mmio"](VirtioBlk(disk))
    driver.start(VERSION_1 | WRITEBACK)
    request = driver.rings[0].send([header(VIRTIO_BLK_T_OUT), b"x" * 512], [1])
    for _ in range(100):
        driver.kick(0)
    assert disk.calls == []
    driver.clock.advance(1)
    driver.rings[0].collect()
    assert (request.data, disk.calls) == (b"\0", [("write", 0, 512)])


def test_much_data_is_answered_before_all_is_done() -> None:
    rig = BlkRig(MemoryDisk(256))
    rig.start(WRITEBACK, size=32)
    data = [(0x10000, 0x8000, True)] * 2  # both the same memory
    for _ in range(5):
        at = rig.drivers[0].allocate(header(VIRTIO_BLK_T_IN))
        rig.drivers[0].offer([(at, 16, False), *data, (0x1F000, 1, True)])
    interrupts: list[int] = []
    rig.disk.meanwhile = lambda: interrupts.append(len(rig.interrupts))
    rig.kick(0)
    assert interrupts == [0, 0, 0, 0, 1]
    assert ANSWERED_AT == 4 << 16


def test_nothing_is_done_before_its_driver_is_ready() -> None:
    rig = BlkRig()
    rig.blk.is_active = False
    rig.drivers[0].send([header(VIRTIO_BLK_T_IN)], [513])
    rig.kick(0)
    assert rig.disk.calls == []


def test_while_it_stands_still_the_backend_is_somebody_elses() -> None:
    rig = BlkRig()
    rig.drivers[0].send([header(VIRTIO_BLK_T_IN)], [513])
    server = threading.Thread(target=rig.blk.serve, args=(rig.blk.queues[0],))
    with rig.blk.standing_still():
        server.start()
        wait_until(lambda: bool(rig.blk._taken[0]), "it would do something")
        assert rig.disk.calls == []
    server.join()
    assert len(rig.disk.calls) == 1


def test_its_name_is_the_hosts() -> None:
    assert VirtioBlk(MemoryDisk()).name == "VirtioBlk"
    assert VirtioBlk(MemoryDisk(), name="disk 'a.img'").name == "disk 'a.img'"


# Case 23: a reset meanwhile


def test_case_23_a_reset_waits_for_what_is_under_way_alone() -> None:
    rig = BlkRig()
    rig.disk.data[:] = b"d" * END
    requests = [
        rig.drivers[0].send([header(VIRTIO_BLK_T_IN)], [512, 1]) for _ in range(3)
    ]
    resetter = threading.Thread(target=rig.blk.stop)

    def meanwhile() -> None:
        resetter.start()
        wait_until(lambda: not rig.blk.is_active, "the reset has begun")
        wait_until(lambda: not rig.blk._taken[0], "what is left is dropped")
        assert resetter.is_alive()

    rig.disk.meanwhile = meanwhile
    rig.blk.serve(rig.blk.queues[0])
    resetter.join()
    assert len(rig.disk.calls) == 1
    assert [rig.status(request) for request in requests] == [OK] + [UNANSWERED] * 2
    assert rig.interrupts == []
    rig.disk.meanwhile = lambda: None
    rig.start(WRITEBACK)
    assert rig.read(0, 512) == b"d" * 512


def test_a_reset_of_one_queue_leaves_the_other() -> None:
    rig = BlkRig(queues=2)
    held = rig.drivers[1].send([header(VIRTIO_BLK_T_IN)], [512, 1])
    with rig.blk.working():
        rig.blk.handle(rig.blk.queues[1])
    rig.blk.reset_queue(rig.blk.queues[0])
    rig.kick(1)
    assert held.is_done


# Case 66: more than there is room for


def test_case_66_a_full_ring_again_and_again() -> None:
    rig = BlkRig()
    for _ in range(50):
        requests = [
            rig.drivers[0].send([header(VIRTIO_BLK_T_IN, at)], [513]) for at in range(8)
        ]
        rig.kick(0)
        assert [request.data[:512] for request in requests] == [
            bytes(rig.disk.data[512 * at : 512 * at + 512]) for at in range(8)
        ]


# Configuration, limits, state


def test_the_configuration_space() -> None:
    rig = BlkRig(queues=4)
    config = rig.blk.config()
    assert len(config) == 60
    assert unpack_from("<QII", config) == (SECTORS, 0, 254)
    assert unpack_from("<I", config, 20) == (512,)
    assert unpack_from("<H", config, 34) == (4,)
    assert unpack_from("<II", config, 36) == (1 << 21, RANGES_MAX)
    assert rig.blk.features >> VIRTIO_BLK_F_MQ & 1
    assert not VirtioBlk(MemoryDisk()).features >> VIRTIO_BLK_F_MQ & 1


def test_larger_blocks_are_told_in_powers_of_two() -> None:
    disk = MemoryDisk()
    disk.block_size, disk.physical_block_size = 1024, 4096
    config = VirtioBlk(disk).config()
    assert unpack_from("<IBBHI", config, 20) == (1024, 2, 0, 1, 0)


@pytest.mark.parametrize("name", DRIVERS)
def test_a_resize_is_told(name: str) -> None:
    disk = MemoryDisk()
    device = VirtioBlk(disk)
    driver = DRIVERS[name](device)
    driver.start(VERSION_1 | WRITEBACK)
    generation = driver.get("config_generation")
    assert driver.read_config(0, 8) == SECTORS.to_bytes(8, "little")
    disk.size *= 2
    device.resized()
    assert driver.events() == {"config"}
    assert driver.read_config(0, 8) == (2 * SECTORS).to_bytes(8, "little")
    assert driver.get("config_generation") != generation


@pytest.mark.parametrize(("how", "per_s"), [("ops", 10), ("rate", 10 * (16 + 512 + 1))])
def test_requests_come_no_faster_than_a_limit(how: str, per_s: int) -> None:
    clock = VirtualClock()
    limits = {how: TokenBucket(per_s, per_s // 10, clock)}
    rig = BlkRig(None, WRITEBACK, **limits)
    driver = rig.drivers[0]
    requests = [driver.send([header(VIRTIO_BLK_T_IN)], [513]) for _ in range(8)]
    rig.kick(0)
    done = [request.is_done for request in requests]
    assert done == [True] + [False] * 7
    for _ in range(20):
        clock.advance(10**8)
        for queue in rig.again:
            rig.kick(queue.index)
        rig.again.clear()
    assert all(request.is_done for request in requests)


def test_a_request_beyond_the_burst_passes_and_is_paid_for() -> None:
    clock = VirtualClock()
    rig = BlkRig(rate=TokenBucket(1000, 100, clock))
    assert len(rig.read(0, 4096)) == 4096
    waiting = rig.ask(VIRTIO_BLK_T_IN, room=512)
    clock.advance(3 * 10**9)
    assert not rig.again
    clock.advance(2 * 10**9)
    assert rig.again
    rig.kick(0)
    assert waiting.is_done


def test_its_state_is_the_drivers_choice() -> None:
    rig, other = BlkRig(features=CHOOSES), BlkRig(features=CHOOSES)
    rig.blk.write_config(32, b"\0")
    state = BlkState.from_json(rig.blk.state().to_json())
    other.blk.restore(state)
    assert other.blk.config()[32] == 0
    with pytest.raises(InvalidState):
        other.blk.restore(None)


def test_case_67_what_waits_at_a_snapshot_is_done_after_it() -> None:
    drivers = []
    clock = VirtualClock()
    for _ in range(2):
        limited = VirtioBlk(MemoryDisk(), ops=TokenBucket(10, 1, clock))
        drivers.append(DRIVERS["mmio"](limited))
    saved, clone = drivers
    saved.start(VERSION_1 | WRITEBACK)
    clone.start(VERSION_1 | WRITEBACK)
    for at in range(2):
        saved.rings[0].send([header(VIRTIO_BLK_T_IN, at)], [513])
    saved.kick(0)
    saved.clock.advance(1)
    assert len(saved.device.queues[0].state().in_flight) == 1
    clone.ram.write(0, saved.ram.read(0, RAM_SIZE))
    clone.transport.restore(saved.transport.state())
    clock.advance(10**9)
    clone.clock.advance(1)
    assert clone.device.queues[0].state().in_flight == ()
    assert clone.events() == {"used"}


@pytest.mark.parametrize(
    "how", [{"queues": 0}, {"queues": 65}, {"serial": b"more than twenty bytes"}]
)
def test_what_can_not_be_is_refused(how: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="queues, and a serial"):
        VirtioBlk(MemoryDisk(), **how)  # type: ignore[arg-type]
