"""The virtio device of examples/, driven as Linux's virtio_blk does, and otherwise."""

from struct import pack
from typing import Any

import pytest
from support.virtio_device_rig import DeviceRig
from support.virtio_example import EXAMPLE, ram_disk

from vmm.devices.errors import InvalidState

IN, OUT, FLUSH = 0, 1, 4
OK, IOERR, UNSUPP = b"\0", b"\1", b"\2"
README = EXAMPLE.parents[1] / "README.md"


@pytest.fixture
def disk() -> Any:  # noqa: ANN401, a class of the example's
    return ram_disk(4)


@pytest.fixture
def rig(disk: Any) -> DeviceRig:  # noqa: ANN401
    rig = DeviceRig(disk)
    rig.start()
    return rig


def request(kind: int, sector: int) -> bytes:
    return pack("<IIQ", kind, 0, sector)


def status(rig: DeviceRig, header: bytes, data: bytes = b"", room: int = 0) -> bytes:
    """Of a request whose status is alone in the last buffer, as Linux has it."""
    driver = rig.drivers[0]
    rooms = [room, 1] if room else [1]
    wanted = driver.send([header, data] if data else [header], rooms)
    rig.kick(0)
    assert wanted.is_done
    at = wanted.buffers[-1][0]
    return rig.ram.read(at, 1)


def test_what_is_written_is_read_again(rig: DeviceRig, disk: Any) -> None:  # noqa: ANN401
    assert status(rig, request(OUT, 1), b"x" * 1024) == OK
    assert disk.data == bytes(512) + b"x" * 1024 + bytes(512)
    answer = rig.drivers[0].send([request(IN, 1)], [512, 1])
    rig.kick(0)
    assert answer.data == b"x" * 512


def test_its_size_is_in_sectors(disk: Any) -> None:  # noqa: ANN401
    assert disk.config() == pack("<Q", 4)


@pytest.mark.parametrize("kind", [FLUSH, 2, 0xFFFF_FFFF])
def test_other_requests_are_not_supported(rig: DeviceRig, kind: int) -> None:
    assert status(rig, request(kind, 0)) == UNSUPP


@pytest.mark.parametrize(
    ("sector", "size"), [(4, 512), (3, 1024), (1 << 63, 512), (0, 100), (0, 513)]
)
def test_case_31_beyond_its_end_and_not_of_whole_sectors_is_an_error(
    rig: DeviceRig,
    disk: Any,  # noqa: ANN401
    sector: int,
    size: int,
) -> None:
    assert status(rig, request(OUT, sector), b"x" * size) == IOERR
    assert status(rig, request(IN, sector), room=size) == IOERR
    assert disk.data == bytes(2048)


@pytest.mark.parametrize("header", [b"", request(IN, 0)[:15]])
def test_a_header_that_is_too_short_is_answered(rig: DeviceRig, header: bytes) -> None:
    assert status(rig, header, room=512) != OK


@pytest.mark.parametrize("kind", [IN, OUT])
def test_case_12_without_room_for_a_status_nothing_is_written(
    rig: DeviceRig, kind: int
) -> None:
    answer = rig.send(0, request(kind, 0))
    assert (answer.is_done, answer.length) == (True, 0)


def test_case_13_a_header_may_be_in_pieces_and_together_with_data(
    rig: DeviceRig,
    disk: Any,  # noqa: ANN401
) -> None:
    header = request(OUT, 0)
    pieces = [header[at : at + 1] for at in range(15)]
    rig.start(size=32)
    rig.drivers[0].send([*pieces, header[15:] + b"y" * 500, b"y" * 12], [1])
    rig.kick(0)
    assert disk.data[:512] == b"y" * 512


def test_its_state_is_what_is_on_it(disk: Any) -> None:  # noqa: ANN401
    other = ram_disk(4)
    other.data[:3] = b"abc"
    disk.restore(other.state())
    assert disk.data[:4] == b"abc\0"
    with pytest.raises(InvalidState, match="as large as the disk"):
        disk.restore(ram_disk(5).state())
    assert len(disk.data) == 2048


def test_it_has_about_forty_lines_and_the_readme_has_them() -> None:
    text = EXAMPLE.read_text()
    code = text.partition('"""\n\n')[2]
    assert len([line for line in code.splitlines() if line]) <= 44
    assert code in README.read_text()
