"""Drivers that do anything, step by step: one by the rules, one that pokes about.

A step is a name and a number that says how; any number is a step. So Hypothesis may
choose them, and a generator of random numbers, too, for runs of any length:

    PYTHONPATH=tests:. python tests/support/any_driver.py STEPS [SEED]

A million take about a minute of CPU time.
"""

import random
import sys
import time
from collections import deque
from typing import Final

from support.plain_ram import PlainRam
from support.virtio_driver import (
    EVENT_IDX,
    INDIRECT_DESC,
    PACKED,
    PackedDriver,
    Request,
    VirtioDriver,
)
from vmm.devices.virtio.chain import Chain
from vmm.devices.virtio.queue import BrokenRing, Virtqueue, VirtqueueState

RAM_SIZE: Final = 1 << 13
SIZES: Final = 1, 2, 4, 8, 16, 3, 5  # the last ones for packed rings
ALL_FEATURES: Final = [
    packed | event_idx | indirect
    for packed in (0, PACKED)
    for event_idx in (0, EVENT_IDX)
    for indirect in (0, INDIRECT_DESC)
]


class Parts:
    """A number taken apart: each call of `below` uses up some of it."""

    def __init__(self, number: int) -> None:
        self._left = number

    def below(self, limit: int) -> int:
        self._left, part = divmod(self._left, limit)
        return part


class _Pair:
    """What both have: a queue, its driver, and the chains that the device has."""

    def __init__(self, which: int) -> None:
        parts = Parts(which)
        self.features = ALL_FEATURES[parts.below(len(ALL_FEATURES))]
        sizes = SIZES if self.features & PACKED else SIZES[:5]
        self.size = sizes[parts.below(len(sizes))]
        self.ram = PlainRam(RAM_SIZE)
        self.queue = Virtqueue(0, 16)
        self.has: list[Chain] = []
        self.restart()

    def restart(self) -> None:
        """A driver that begins from anew."""
        self.queue.reset()
        self.has = []
        self.driver = VirtioDriver.make(
            self.ram, range(RAM_SIZE), self.size, self.features
        )
        self.driver.set_up(self.queue)

    def moved(self) -> None:
        """Have another queue go on from this one's state, and take its chains again."""
        state = VirtqueueState.from_json(self.queue.state().to_json())
        queue = Virtqueue(0, 16)
        queue.restore(state, self.ram, self.features)
        assert queue.state() == state
        self.queue = queue
        heads = [chain.head for chain in self.has]
        self.has = [chain for _ in heads if (chain := queue.pop()) is not None]
        assert sorted(heads) == sorted(chain.head for chain in self.has)


class RuleAbider(_Pair):
    """A driver and a device that both know the rules, and what must come of it.

    What goes on between the two is modelled with counts that never wrap.
    """

    STEPS: Final = (
        *(
            "send",
            "send",
            "kick",
            "take",
            "drain",
            "answer",
            "answer",
            "answer_several",
        ),
        *("interrupt", "collect", "listen", "deafen", "put_back", "move", "start_over"),
    )

    def restart(self) -> None:
        super().restart()
        self.sent: deque[tuple[Request, bytes]] = deque()  # and what it asks
        self.asked: dict[int, Request] = {}  # by head, that the device has
        self.answered: deque[tuple[Request, bytes]] = deque()
        self.is_awake = False
        self.used = self.used_when_asked = 0  # entries
        self.seen = 0  # by the driver
        # The driver wants an interrupt when so many are used; each, or none.
        self.wants: int | str = 0 if self._has_positions() else "each"
        self.count = 0

    def _has_positions(self) -> bool:
        return self.features & (EVENT_IDX | PACKED) == EVENT_IDX

    def step(self, name: str, how: int) -> None:
        getattr(self, name)(Parts(how))

    def send(self, how: Parts) -> None:
        indirect = bool(self.features & INDIRECT_DESC) and how.below(2) == 1
        sizes = [1 + how.below(40) for _ in range(1 + how.below(4))]
        slots = 1 if indirect else len(sizes)
        if slots > self.driver.free_slots:
            return
        reads = how.below(len(sizes) + 1)
        self.count += 1
        stamp = b"%d " % self.count
        readable = [(stamp * size)[:size] for size in sizes[:reads]]
        request = self.driver.send(readable, sizes[reads:], indirect=indirect)
        self.sent.append((request, b"".join(readable)))

    def kick(self, how: Parts) -> None:
        if self.driver.needs_kick():
            self.is_awake = True
        assert self.is_awake or not self.sent, "a kick is lost"

    def take(self, how: Parts) -> None:
        chain = self.queue.pop()
        assert (chain is None) == (not self.sent)
        if chain is not None:
            self._takes(chain)

    def drain(self, how: Parts) -> None:
        """Of all that there is, or some of it."""
        few = how.below(6)
        for chain in self.queue:
            self._takes(chain)
            few -= 1
            if not few:
                self.is_awake = True
                return
        self.is_awake = self.queue.more
        assert self.queue.more or not self.sent

    def _takes(self, chain: Chain) -> None:
        request, asked = self.sent.popleft()
        assert b"".join(chain.readable) == asked
        assert chain.readable_size == len(asked)
        room = sum(size for _, size, is_writable in request.buffers if is_writable)
        assert chain.writable_size == room
        assert chain.head not in self.asked
        self.asked[chain.head] = request
        self.has.append(chain)

    def answer(self, how: Parts) -> None:
        if self.has:
            self.queue.push(*self._answered(how))

    def answer_several(self, how: Parts) -> None:
        count = min(len(self.has), how.below(4))
        self.queue.push_all([self._answered(how) for _ in range(count)])

    def _answered(self, how: Parts) -> tuple[Chain, int | None]:
        chain = self.has.pop(how.below(len(self.has)))
        request = self.asked.pop(chain.head)
        answer = bytes(how.below(256) for _ in range(how.below(50)))
        half = how.below(len(answer) + 1)
        written = chain.write(answer[:half]) + chain.write(answer[half:])
        assert written == min(len(answer), chain.written + chain.writable_size)
        answer = answer[:written]
        self.answered.append((request, answer))
        self.used += request.slots if self.features & PACKED else 1
        return chain, (None, len(answer))[how.below(2)]

    def interrupt(self, how: Parts) -> None:
        needed = self.queue.needs_interrupt()
        begin, self.used_when_asked = self.used_when_asked, self.used
        if self.wants == "none" or begin == self.used:
            assert not needed
        elif self.wants == "each":
            assert needed
        else:
            assert isinstance(self.wants, int)
            if begin <= self.wants < self.used:
                assert needed, "an interrupt is lost"
            elif needed:  # for an index that means another one by now
                again = 2 * self.size if self.features & PACKED else 1 << 16
                ago = (self.used - 1 - self.wants) % again
                whole = self.features & PACKED and self.used - begin >= self.size
                assert whole or ago < self.used - begin, "nobody waits for it"

    def collect(self, how: Parts) -> None:
        for request in self.driver.collect():
            expected, answer = self.answered.popleft()
            assert request is expected
            assert request.data == answer
            self.seen += request.slots if self.features & PACKED else 1
        assert not self.answered

    def listen(self, how: Parts) -> None:
        after = 1 + how.below(self.size) if self.features & EVENT_IDX else 1
        self.driver.enable_interrupts(after)
        self.wants = self.seen + after - 1 if self.features & EVENT_IDX else "each"

    def deafen(self, how: Parts) -> None:
        self.driver.disable_interrupts()
        # With split rings' EVENT_IDX that is only to wait for what has long been used.
        self.wants = self.seen - 1 if self._has_positions() else "none"

    def put_back(self, how: Parts) -> None:
        if self.has:
            chain = self.has[how.below(len(self.has))]
            self.queue.put_back(chain)
            assert self.queue.pop() is chain

    def move(self, how: Parts) -> None:
        self.moved()
        self.is_awake = True  # as after any restore

    def start_over(self, how: Parts) -> None:
        if how.below(8) == 0:
            self.restart()


class Hooligan(_Pair):
    """A driver that writes anything anywhere; the device must stand it.

    It breaks nothing but its ring, gets nothing written but where a device may write,
    and makes the device keep no more than the ring has.
    """

    STEPS: Final = (
        *("send", "poke", "poke", "poke_descriptor", "poke_descriptor", "advance"),
        *("take", "drain", "answer", "answer", "interrupt", "move", "start_over"),
    )
    WORDS: Final = 0, 1, 2, 3, 7, 8, 0x80, 0x7FFF, 0x8000, 0x8080, 0xFFFE, 0xFFFF
    ADDRESSES: Final = (
        *(0, 1, 16, 0x100, 0x1000, RAM_SIZE - 16, RAM_SIZE - 1, RAM_SIZE),
        *(1 << 32, (1 << 63) - 1, (1 << 64) - 16, (1 << 64) - 1),
    )
    LENGTHS: Final = 0, 1, 15, 16, 32, 48, 0x1000, RAM_SIZE, 0x7FFFFFFF, 0xFFFFFFFF

    broken = 0

    def __init__(self, which: int) -> None:
        super().__init__(which)
        self.writable: list[slice] = []

    def step(self, name: str, how: int) -> None:
        before = bytes(self.ram.data)
        self.writable = self._own_areas()
        for chain in self.has:
            self._may_write(chain)
        try:
            pokes = getattr(self, name)(Parts(how))
        except BrokenRing:
            self.broken += 1
            assert self.queue.broken
            assert self.queue.pop() is None
            assert not any(chain.writable or chain.readable for chain in self.has)
            self._check_untouched(before)
            self.restart()
            return
        if not pokes:
            self._check_untouched(before)
        assert len(self.has) <= self.size

    def _own_areas(self) -> list[slice]:
        """Where a device writes to the ring itself."""
        desc, _, device = self.driver.areas
        sizes = self.driver.area_sizes()
        places = [slice(device, device + sizes[2])]
        if isinstance(self.driver, PackedDriver):
            places.append(slice(desc, desc + sizes[0]))
        return places

    def _may_write(self, chain: Chain) -> None:
        self.writable += [
            slice(addr, addr + size)
            for addr, size, is_writable in chain.state().buffers
            if is_writable and size
        ]

    def _check_untouched(self, before: bytes) -> None:
        """All but `writable` is as it was."""
        was, now = bytearray(before), bytearray(self.ram.data)
        if was == now:
            return
        for place in self.writable:
            was[place] = now[place]
        assert was == now, "the device wrote where it mustn't"

    # Each returns True if the driver has written to RAM.

    def send(self, how: Parts) -> bool:
        if not self.driver.free_slots or len(self.driver.in_flight) > 12:
            self.restart()
        indirect, reads = how.below(2) == 1, how.below(self.driver.free_slots)
        self.driver.send([b"some"] * reads, [8], indirect=indirect)
        return True

    def poke(self, how: Parts) -> bool:
        """16 bits anywhere in a ring."""
        which = how.below(3)
        at = 2 * how.below(self.driver.area_sizes()[which] // 2)
        word = self.WORDS[how.below(len(self.WORDS))]
        self.ram.write(self.driver.areas[which] + at, word.to_bytes(2, "little"))
        return True

    def poke_descriptor(self, how: Parts) -> bool:
        """All of one, in the table or where an indirect one points to."""
        at = self.driver.areas[0] + 16 * how.below(self.size)
        if how.below(4) == 0:
            at = 16 * how.below(RAM_SIZE // 16)
        addr = self.ADDRESSES[how.below(len(self.ADDRESSES))]
        length = self.LENGTHS[how.below(len(self.LENGTHS))]
        flags = how.below(8) | (0, 0x80, 0x8000, 0x8080)[how.below(4)]
        last = how.below(self.size + 1)
        words = (last, flags) if self.features & PACKED else (flags, last)
        descriptor = addr.to_bytes(8, "little") + length.to_bytes(4, "little")
        descriptor += b"".join(word.to_bytes(2, "little") for word in words)
        self.ram.write(at, descriptor)
        return True

    def advance(self, how: Parts) -> bool:
        """Make one more available, whatever stands there."""
        if not self.features & PACKED:
            addr = self.driver.areas[1] + 2
            idx = int.from_bytes(self.ram.read(addr, 2), "little")
            idx = idx + 1 + how.below(2) & 0xFFFF
            self.ram.write(addr, idx.to_bytes(2, "little"))
        return True

    def take(self, how: Parts) -> None:
        chain = self.queue.pop()
        if chain is not None:
            self._takes(chain)

    def _takes(self, chain: Chain) -> None:
        assert chain.readable_size == sum(map(len, chain.readable))
        assert chain.writable_size == sum(map(len, chain.writable))
        assert chain.readable_size + chain.writable_size < 1 << 32
        assert len(chain.readable) + len(chain.writable) <= 1024
        self._may_write(chain)
        self.has.append(chain)

    def drain(self, how: Parts) -> None:
        answers = how.below(2) == 1
        for chain in self.queue:
            self._takes(chain)
            if answers:
                self.answer(how)

    def answer(self, how: Parts) -> None:
        if self.has:
            chain = self.has[how.below(len(self.has))]
            chain.read(how.below(8))
            chain.write(b"answer"[: how.below(7)])
            self.queue.push(chain, (None, 1 << 40)[how.below(2)])
            self.has.remove(chain)

    def interrupt(self, how: Parts) -> None:
        self.queue.needs_interrupt()

    def move(self, how: Parts) -> None:
        self.moved()

    def start_over(self, how: Parts) -> bool:
        if how.below(8) == 0:
            self.restart()
        return True


def main(steps: int, seed: int) -> None:
    """Take so many steps in drivers of all kinds, 2,000 in each; print figures."""
    chance = random.Random(seed)
    broken = done = lives = 0
    begin = time.perf_counter()
    while done < steps:
        kind = (RuleAbider, Hooligan)[lives % 2]
        driver = kind(chance.getrandbits(32))
        for _ in range(2000):
            driver.step(chance.choice(kind.STEPS), chance.getrandbits(64))
        done += 2000
        lives += 1
        broken += driver.broken if isinstance(driver, Hooligan) else 0
    taken = time.perf_counter() - begin
    print(f"{done:,} steps of {lives:,} drivers, seed {seed}: {taken:.0f} s")
    print(f"{broken:,} broken rings, no other trouble")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
