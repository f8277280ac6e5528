"""FastPort: a port that a run loop may serve without calling its device.

A device says ahead what reading a port would give, and lends a ring to what is
written there. A run loop that keeps to it serves the port by itself, in C and
without Python's lock; one that doesn't calls the device as ever. Both see the same.
"""

from threading import Lock
from typing import Final, NamedTuple

RING_SIZE: Final = 4096  # bytes; a power of two
ANSWERS: Final = 0x100  # in `answer`, beside the byte

# The layout that run_loop.c declares as struct fast_port: four 32-bit words, then
# the ring.
_ANSWER: Final = 0
_LIMIT: Final = 1
_HEAD: Final = 2
_BUSY: Final = 3
HEADER_SIZE: Final = 16
_MASK: Final = 0xFFFF_FFFF


class FastPort:
    """One port, one byte wide. All that is here is safe to call beside a run loop.

    `memory` is what a run loop reads and writes: the words `answer` (0x100 | byte
    while reads are answered, else 0), `limit`, `head` and `busy`, then a ring. A
    loop sets `busy` by an atomic exchange, appends at `head` as long as `head` is
    before `limit`, both counted modulo 2**32, and clears `busy`. Everything that a
    device has not allowed reaches it as an ordinary access.

    `posted`: a write may be delayed until the guest's next access to anything, or
    some tens of milliseconds; KVM can then collect writes without an exit.
    `in_use` is set by a run loop that serves the port: else the device may spare
    itself the trouble.
    """

    def __init__(self, *, posted: bool = False) -> None:
        self.posted = posted
        self.in_use = False
        self.memory = bytearray(HEADER_SIZE + RING_SIZE)
        self._words = memoryview(self.memory)[:HEADER_SIZE].cast("I")
        self._ring = memoryview(self.memory)[HEADER_SIZE:]
        self._answer = 0
        self._tail = 0
        self._fence = Lock()

    # The device's side, under its own lock

    def answer(self, value: int | None) -> None:
        """Let a read give `value`, 0..255, without effect; None: call the device."""
        answer = 0 if value is None else ANSWERS | value
        if answer != self._answer:
            self._words[_ANSWER] = self._answer = answer

    def accept(self, count: int) -> None:
        """Let `count` bytes be written behind those taken so far, RING_SIZE at most."""
        self._words[_LIMIT] = (self._tail + min(count, RING_SIZE)) & _MASK

    def take(self) -> bytes:
        """The bytes that were written since the last call, the oldest first."""
        count = (self._words[_HEAD] - self._tail) & _MASK
        if not count:
            return b""
        start = self._tail % RING_SIZE
        data = bytes(self._ring[start : start + count])
        data += bytes(self._ring[: count - len(data)])
        self._tail = (self._tail + count) & _MASK
        return data

    def is_quiet(self) -> bool:
        """After `accept(0)`: whether surely nothing is written any more.

        What is in the ring can be taken after that, and then it stays empty.
        """
        # A loop sets `busy` before it looks at `limit`. Taking a lock is a fence
        # between our write of `limit` and our look at `busy`: one sees the other.
        with self._fence:
            return self._words[_BUSY] == 0

    # A run loop's side, in Python: what C does, for tests and for reading

    def read(self) -> int | None:
        """What a read gives; None: call the device."""
        answer = self._words[_ANSWER]
        return answer & 0xFF if answer else None

    def write(self, value: int) -> bool:
        """Append a byte; False: call the device."""
        head = self._words[_HEAD]
        if (self._words[_LIMIT] - head - 1) & _MASK >= RING_SIZE:
            return False
        self._ring[head % RING_SIZE] = value
        self._words[_HEAD] = (head + 1) & _MASK
        return True


class FastPorts(NamedTuple):
    """The fast ports on a bus by their numbers, while `replaced[0]` is 0."""

    ports: dict[int, FastPort]
    replaced: bytearray
