"""VirtioBlk: a disk, whose sectors a backend has.

A request is a header, data, and a byte that says how it went: the first 16 bytes to
read and the last one to write, however the driver spreads them over buffers.
Sources: VIRTIO 1.3, 5.2; Linux drivers/block/virtio_blk.c.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from ..state import State
from .device import VirtioDevice

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..token_bucket import TokenBucket
    from .chain import Chain
    from .queue import Virtqueue

VIRTIO_BLK_F_SEG_MAX: Final = 2
VIRTIO_BLK_F_RO: Final = 5
VIRTIO_BLK_F_BLK_SIZE: Final = 6
VIRTIO_BLK_F_FLUSH: Final = 9
VIRTIO_BLK_F_TOPOLOGY: Final = 10
VIRTIO_BLK_F_CONFIG_WCE: Final = 11
VIRTIO_BLK_F_MQ: Final = 12
VIRTIO_BLK_F_DISCARD: Final = 13
VIRTIO_BLK_F_WRITE_ZEROES: Final = 14

# Types of a request
VIRTIO_BLK_T_IN: Final = 0
VIRTIO_BLK_T_OUT: Final = 1
VIRTIO_BLK_T_FLUSH: Final = 4
VIRTIO_BLK_T_GET_ID: Final = 8
VIRTIO_BLK_T_DISCARD: Final = 11
VIRTIO_BLK_T_WRITE_ZEROES: Final = 13

# How it went
VIRTIO_BLK_S_OK: Final = 0
VIRTIO_BLK_S_IOERR: Final = 1
VIRTIO_BLK_S_UNSUPP: Final = 2

VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP: Final = 1

SECTOR: Final = 512
ID_SIZE: Final = 20
QUEUE_SIZE: Final = 256
QUEUES_MAX: Final = 64
ANSWERED_AT: Final = 256 << 10
"""Bytes after which what is done is answered, though there is more to do."""
RANGES_MAX: Final = 64
"""Of a request to discard or to write zeros."""
RANGE_MAX: Final = 1 << 30
"""Bytes of one of those ranges."""

_HEADER: Final = Struct("<IIQ")  # type, reserved, sector
_RANGE: Final = Struct("<QII")  # sector, num_sectors, flags
_CONFIG: Final = Struct("<QIIHBBIBBHIBxHIIIIIB3x")
_WRITEBACK: Final = 32  # where in it that is
_NAMES: Final = {
    VIRTIO_BLK_T_IN: "it can't be read",
    VIRTIO_BLK_T_OUT: "it can't be written to",
    VIRTIO_BLK_T_FLUSH: "what was written can't be made durable",
    VIRTIO_BLK_T_DISCARD: "space can't be given back",
    VIRTIO_BLK_T_WRITE_ZEROES: "zeros can't be written to it",
}


class BlockBackend(Protocol):
    """What has a disk's bytes. A call may block; there is one at a time.

    All raise OSError, and `strerror` is for the host's user to read; the guest is told
    of an error. Offsets and sizes are multiples of 512 within `size`; views may be
    many, more than IOV_MAX, and of any lengths.
    """

    size: int
    """Bytes, a multiple of 512; it may change, between two calls: see `resized`."""
    is_read_only: bool
    block_size: int
    """The least that can be written at once, a power of two from 512."""
    physical_block_size: int
    """The least that is written without reading it before; `block_size` or more."""

    def read(self, views: Sequence[memoryview], offset: int, /) -> None:
        """Fill them with what is at `offset`."""

    def write(self, views: Sequence[memoryview], offset: int, /) -> None:
        """Write them there."""

    def flush(self) -> None:
        """Return when all that was written is durable."""

    def discard(self, offset: int, size: int, /) -> None:
        """Give the space back; what is read there then may be anything."""

    def write_zeroes(self, offset: int, size: int, may_discard: bool, /) -> None:
        """Have zeros there, with or without space behind them."""


class BlkState(State):
    """Whether the driver has chosen that a write needn't be durable before a flush."""

    is_writeback: bool


class _Refused(Exception):
    """The driver asks for what can't be; nothing was done of it."""

    def __init__(self, status: int) -> None:
        self.status = status


_Request: TypeAlias = "tuple[Chain, bytes, int]"
"""And its header, and its size."""


class VirtioBlk(VirtioDevice):
    """A disk of `backend`, with `queues` of 256, 1..64 of them.

    What takes time is done without `lock`: a vCPU that looks at the device isn't held
    up by its disk, and a reset waits for one request at most, the one that is under
    way. It is done on the thread that calls `serve`, and answered a few at a time.

    `name` is what the host's user knows it by, and `serial` what the guest finds it by,
    up to 20 bytes. With `writeback`, writes are durable after a flush alone, which
    drivers know; else at once, if the driver doesn't choose otherwise. `rate` is for
    bytes and `ops` for requests: who comes too early waits in the queue.
    """

    device_type = 2
    own_thread = True

    def __init__(
        self,
        backend: BlockBackend,
        serial: bytes = b"",
        queues: int = 1,
        *,
        name: str = "",
        writeback: bool = True,
        rate: "TokenBucket | None" = None,
        ops: "TokenBucket | None" = None,
    ) -> None:
        """Raises ValueError for another number of queues, or a longer serial."""
        if not 1 <= queues <= QUEUES_MAX or len(serial) > ID_SIZE:
            raise ValueError(f"{queues} queues, and a serial {serial!r}")
        self.backend: Final = backend
        self.queue_sizes = (QUEUE_SIZE,) * queues
        self.features = sum(1 << bit for bit in _offered(backend, queues))
        super().__init__()
        self._name = name
        self._id = serial.ljust(ID_SIZE, b"\0")
        self._starts_writeback = self._is_writeback = writeback
        self._rate, self._ops = rate, ops
        self._limits = [limit for limit in (rate, ops) if limit is not None]
        self._timer_is_set = False
        # Held while a request is done, by whoever does it; last in the lock order.
        self._doing = threading.Lock()
        self._taken: list[deque[_Request]] = [deque() for _ in self.queues]
        self._told: set[tuple[int, int | None]] = set()
        self._handlers: dict[int, Callable[[int, Chain, list[memoryview]], int]] = {
            VIRTIO_BLK_T_IN: self._read,
            VIRTIO_BLK_T_OUT: self._write,
            VIRTIO_BLK_T_FLUSH: self._flush,
            VIRTIO_BLK_T_GET_ID: self._get_id,
            VIRTIO_BLK_T_DISCARD: self._discard,
            VIRTIO_BLK_T_WRITE_ZEROES: self._write_zeroes,
        }

    def standing_still(self) -> "AbstractContextManager[object]":
        """A `with` block in which no request is done: the backend is somebody else's.

        From any thread but those that serve it; not with `lock` held.
        """
        return self._doing

    def resized(self) -> None:
        """Tell the driver that the backend has another size. From any thread."""
        self.config_changed()

    @property
    def name(self) -> str:
        return self._name or super().name

    # As its driver has it

    def config(self) -> bytes:
        backend = self.backend
        exponent = backend.physical_block_size.bit_length()
        return _CONFIG.pack(
            *(backend.size // SECTOR, 0, QUEUE_SIZE - 2),
            *(0, 0, 0),  # its geometry
            backend.block_size,
            *(exponent - backend.block_size.bit_length(), 0, 1, 0),
            self._is_writeback,
            len(self.queues),
            *(RANGE_MAX // SECTOR, RANGES_MAX),
            backend.physical_block_size // SECTOR,
            *(RANGE_MAX // SECTOR, RANGES_MAX, True),
        )

    def write_config(self, offset: int, data: bytes) -> None:
        """Of all that is there a driver writes `writeback` alone."""
        if offset == _WRITEBACK and self.has(VIRTIO_BLK_F_CONFIG_WCE):
            self._is_writeback = data[0] != 0

    def serve(self, queue: "Virtqueue") -> None:
        with self.working():
            if not self.is_active or not queue.is_enabled:
                return
            queue.more = False
            self.handle(queue)
        done: list[tuple[Chain, int]] = []
        moved = 0
        for chain, written, size in self._done(queue):
            done.append((chain, written))
            moved += size
            if moved >= ANSWERED_AT:
                self._answer(queue, done)
                moved = 0
        self._answer(queue, done)
        if queue.more:
            self.transport.serve_again(queue)

    def _answer(self, queue: "Virtqueue", done: "list[tuple[Chain, int]]") -> None:
        with self.working():
            queue.push_all(done)  # none of a former life's
        done.clear()

    def handle(self, queue: "Virtqueue") -> None:
        """Take what there is, for `serve` to do."""
        taken = self._taken[queue.index]
        for chain in queue:
            if self._limits and not self._may_pass(chain):
                queue.put_back(chain)
                return
            size = chain.readable_size + chain.writable_size
            taken.append((chain, chain.read(_HEADER.size), size))

    def _done(self, queue: "Virtqueue") -> "Iterator[tuple[Chain, int, int]]":
        """Do what was taken; each chain, what of it was written, and its size."""
        taken = self._taken[queue.index]
        while True:
            with self._doing:
                if not taken:
                    return
                chain, header, size = taken.popleft()
                written = self._do(chain, header)
            yield chain, written, size

    def reset_queue(self, queue: "Virtqueue") -> None:
        self._taken[queue.index].clear()
        with self._doing:  # when that is over, none of the queue's can follow
            pass

    def reset(self) -> None:
        for queue in self.queues:
            self.reset_queue(queue)
        self._is_writeback = self._starts_writeback

    def state(self) -> BlkState:
        return BlkState(self._is_writeback)

    def restore(self, state: State | None) -> None:
        self._is_writeback = BlkState.of(state).is_writeback

    # Limits

    def _may_pass(self, chain: "Chain") -> bool:
        late = next((limit for limit in self._limits if limit.tokens() < 1), None)
        if late is not None:
            if not self._timer_is_set:
                self._timer_is_set = True
                late.call_when_worthwhile(self._on_tokens)
            return False
        if self._rate is not None:
            self._rate.spend(chain.readable_size + chain.writable_size)
        if self._ops is not None:
            self._ops.spend(1)
        return True

    def _on_tokens(self) -> None:
        with self.lock:
            self._timer_is_set = False
            if self.is_active:
                for queue in self.queues:
                    self.transport.serve_again(queue)

    # Requests, with `_doing` held

    def _do(self, chain: "Chain", header: bytes) -> int:
        """Do it, and say how it went; return how many bytes were written.

        They are counted from the start: where there is more room than data, and so a
        gap before the last byte, that isn't one of them.
        """
        room = list(chain.writable)
        if not room:  # for that byte; or the ring is broken
            return 0
        size = chain.writable_size - 1
        last = room.pop()
        if len(last) > 1:
            room.append(last[:-1])
        status, done = self._outcome(header, chain, room)
        last[-1] = status
        return done + 1 if done == size else done

    def _outcome(
        self, header: bytes, chain: "Chain", room: list[memoryview]
    ) -> tuple[int, int]:
        """Its status, and how many bytes of `room` were written."""
        if len(header) < _HEADER.size:
            return VIRTIO_BLK_S_IOERR, 0
        kind, _, sector = _HEADER.unpack(header)
        handler = self._handlers.get(kind)
        if handler is None:
            return VIRTIO_BLK_S_UNSUPP, 0
        try:
            return VIRTIO_BLK_S_OK, handler(sector, chain, room)
        except _Refused as refusal:
            return refusal.status, 0
        except OSError as error:
            self._tell(kind, error)
            return VIRTIO_BLK_S_IOERR, 0

    def _tell(self, kind: int, error: OSError) -> None:
        """The host's user, once of each; the guest is told each time."""
        if (kind, error.errno) not in self._told:
            self._told.add((kind, error.errno))
            self.report(f"{_NAMES[kind]}: {error.strerror or error}")

    def _place(self, sector: int, size: int) -> int:
        """Where that is, in bytes. Raises _Refused where it isn't on the disk."""
        offset = sector * SECTOR
        if size % SECTOR or offset + size > self.backend.size:
            raise _Refused(VIRTIO_BLK_S_IOERR)
        return offset

    def _check_writable(self) -> None:
        """Whether the driver has taken RO or not."""
        if self.backend.is_read_only:
            raise _Refused(VIRTIO_BLK_S_IOERR)

    def _read(self, sector: int, chain: "Chain", room: list[memoryview]) -> int:
        size = chain.writable_size - 1
        self.backend.read(room, self._place(sector, size))
        return size

    def _write(self, sector: int, chain: "Chain", _: list[memoryview]) -> int:
        self._check_writable()
        offset = self._place(sector, chain.readable_size)
        self.backend.write(chain.readable, offset)
        self._written()
        return 0

    def _written(self) -> None:
        """Make it durable, if the driver doesn't know that it has to ask for that."""
        if self.has(VIRTIO_BLK_F_CONFIG_WCE):
            is_writeback = self._is_writeback
        else:
            is_writeback = self.has(VIRTIO_BLK_F_FLUSH)
        if not is_writeback:
            self.backend.flush()

    def _flush(self, *_: object) -> int:
        if not self.backend.is_read_only:
            self.backend.flush()
        return 0

    def _get_id(self, _: int, chain: "Chain", room: list[memoryview]) -> int:
        done = 0
        for view in room:
            part = self._id[done : done + len(view)]
            view[: len(part)] = part
            done += len(part)
        return done

    def _discard(self, _: int, chain: "Chain", __: list[memoryview]) -> int:
        for offset, size, _may_discard in self._ranges(chain, flags=0):
            self.backend.discard(offset, size)
        self._written()
        return 0

    def _write_zeroes(self, _: int, chain: "Chain", __: list[memoryview]) -> int:
        unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
        for offset, size, may_discard in self._ranges(chain, flags=unmap):
            self.backend.write_zeroes(offset, size, may_discard)
        self._written()
        return 0

    def _ranges(self, chain: "Chain", flags: int) -> list[tuple[int, int, bool]]:
        """Offset, size, and whether a flag is set, of which `flags` are known.

        Raises _Refused if there is anything wrong with one of them.
        """
        self._check_writable()
        size = chain.readable_size
        if not 0 < size <= RANGES_MAX * _RANGE.size or size % _RANGE.size:
            raise _Refused(VIRTIO_BLK_S_IOERR)
        ranges = list(_RANGE.iter_unpack(b"".join(chain.readable)))
        if any(given & ~flags for _, _, given in ranges):
            raise _Refused(VIRTIO_BLK_S_UNSUPP)
        found = []
        for sector, sectors, given in ranges:
            length = sectors * SECTOR
            if length > RANGE_MAX:
                raise _Refused(VIRTIO_BLK_S_IOERR)
            found.append((self._place(sector, length), length, given != 0))
        return found


def _offered(backend: BlockBackend, queues: int) -> Iterable[int]:
    yield from (VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY)
    yield from (VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE)
    if queues > 1:
        yield VIRTIO_BLK_F_MQ
    if backend.is_read_only:
        yield VIRTIO_BLK_F_RO
    else:
        yield from (VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES)
