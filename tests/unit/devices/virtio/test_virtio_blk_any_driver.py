"""VirtioBlk and any driver: whatever it asks for, it is answered, and nothing more."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from support.blk_rig import CHOOSES, SECTORS, BlkRig, MemoryDisk, a_range, header
from support.virtio_driver import INDIRECT_DESC

from vmm.devices.virtio.blk import VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT

END = 512 * SECTORS
KINDS = (0, 1, 4, 8, 11, 13, 99)

_sectors = st.one_of(
    st.integers(0, SECTORS + 1), st.sampled_from([1 << 32, 1 << 55, (1 << 64) - 1])
)
_headers = st.builds(header, st.sampled_from(KINDS), _sectors)
_ranges = st.builds(
    a_range, _sectors, st.integers(0, SECTORS + 1), st.sampled_from([0, 0, 1, 2])
)
_data = st.one_of(
    st.builds(bytes, st.integers(0, 1500)),
    st.integers(0, 3).map(lambda count: b"d" * 512 * count),
    _ranges,
    st.binary(max_size=40),
)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[list[bytes], list[int]]:
    """Buffers to read, cut anywhere, and the lengths of some to write to."""
    whole = draw(st.one_of(_headers, st.binary(max_size=20))) + draw(_data)
    cuts = draw(st.lists(st.integers(0, len(whole)), max_size=3).map(sorted))
    edges = [0, *cuts, len(whole)]
    readable = [whole[a:b] for a, b in pairwise(edges)]
    sizes = st.one_of(st.integers(0, 3), st.sampled_from([20, 511, 512, 513, 1025]))
    return readable, draw(st.lists(sizes, max_size=3))


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(_requests(), min_size=1, max_size=6),
    is_read_only=st.booleans(),
    features=st.sampled_from([0, CHOOSES]),
)
def test_any_request_is_answered(
    requests: list[tuple[list[bytes], list[int]]], is_read_only: bool, features: int
) -> None:
    rig = BlkRig(MemoryDisk(is_read_only=is_read_only))
    rig.start(features | INDIRECT_DESC, size=64)
    before = bytes(rig.disk.data)
    sent = [rig.drivers[0].send(*request) for request in requests]
    rig.kick(0)
    assert all(request.is_done for request in sent)
    assert rig.told == []
    assert len(rig.disk.data) == END
    for name, *place in rig.disk.calls:
        if name != "flush":
            offset, size = place[:2]
            assert isinstance(offset, int)
            assert isinstance(size, int)
            assert 0 <= offset <= offset + size <= END
    if is_read_only:
        assert rig.disk.data == before


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, SECTORS - 4), st.integers(1, 4)),
        max_size=20,
    )
)
def test_a_disk_is_as_plain_bytes_are(steps: list[tuple[bool, int, int]]) -> None:
    rig = BlkRig()
    model = bytearray(rig.disk.data)
    for number, (writes, sector, count) in enumerate(steps):
        place = slice(512 * sector, 512 * (sector + count))
        if writes:
            data = bytes([number]) * 512 * count
            request = rig.ask(VIRTIO_BLK_T_OUT, sector, data)
            model[place] = data
        else:
            request = rig.ask(VIRTIO_BLK_T_IN, sector, room=512 * count)
            assert request.data[:-1] == model[place]
        assert rig.status(request) == 0
    assert rig.disk.data == model
