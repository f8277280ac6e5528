"""HotPages: what the machines that go on from an image of RAM write to, each of them.

A guest makes each page its own by an exit and a host's fault. Those that it is going to
write to anyway can be there before, as record-and-prefetch has it (REAP, ASPLOS 2021).
"""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final

from .page_runs import PAGE_SIZE, Run, own_pages

LIVES: Final = 3
"""Lives of machines that tell which pages each of them writes to."""
HOT_MAX: Final = 1024
"""Pages at most; of a guest that writes to more, none are had in advance."""


class HotPages:
    """Of RAM with `size` bytes. `runs` are theirs, once known. Thread-safe."""

    def __init__(self, size: int) -> None:
        self.runs: list[Run] = []
        self._size = size
        self._lives = 0
        self._tally: Counter[int] = Counter()  # in how many of them, by page
        self._lock = threading.Lock()

    def learn(self, address: int) -> None:
        """A machine whose RAM at `address` this was is put back, or ends."""
        with self._lock:
            if self._lives == LIVES:
                return
            for start, end in own_pages(address, self._size):
                self._tally.update(range(start, end, PAGE_SIZE))
            self._lives += 1
            if self._lives == LIVES:
                pages = [p for p, lives in self._tally.items() if 2 * lives > LIVES]
                self.runs = _runs(sorted(pages)) if len(pages) <= HOT_MAX else []
                self._tally.clear()


def _runs(pages: Sequence[int]) -> list[Run]:
    """Start and end of each run of pages, which are in order, in bytes."""
    runs: list[Run] = []
    for page in pages:
        if runs and runs[-1][1] == page:
            runs[-1] = runs[-1][0], page + PAGE_SIZE
        else:
            runs.append((page, page + PAGE_SIZE))
    return runs
