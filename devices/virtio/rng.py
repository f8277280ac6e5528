"""VirtioRng: random bytes of the host's.

Linux always has one request of up to 64 bytes under way, and waits for at least one of
them. Sources: VIRTIO 1.3, 5.4; Linux drivers/char/hw_random/virtio-rng.c.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..token_bucket import TokenBucket
from .device import VirtioDevice

if TYPE_CHECKING:
    from ..clock import Clock
    from .queue import Virtqueue

REQUEST_MAX: Final = 64 << 10
"""Bytes that one request gets at most, however large it is."""


class VirtioRng(VirtioDevice):
    """Fills what its driver gives it, at most `rate` bytes a second.

    After a pause `burst` come at once, a tenth of a second's by default. A request that
    comes too early waits in its queue. `source` is asked for so many bytes, 64 KiB at
    most, with the device's lock held: it must not block.
    """

    device_type = 4
    queue_sizes = (64,)

    def __init__(
        self,
        clock: "Clock",
        rate: int = 1 << 20,
        burst: int | None = None,
        source: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Raises ValueError unless `rate` and `burst` are 1 or more."""
        if rate < 1 or (burst is not None and burst < 1):
            raise ValueError(f"rate {rate}, burst {burst}: they must be at least 1")
        super().__init__()
        self._bucket = TokenBucket(rate, burst or max(1, rate // 10), clock)
        self._source = source
        self._timer_is_set = False

    def handle(self, queue: "Virtqueue") -> None:
        for chain in queue:
            if not self._bucket.tokens():
                queue.put_back(chain)
                self._wait_for_tokens()
                return
            size = self._bucket.take(min(chain.writable_size, REQUEST_MAX))
            chain.write(self._source(size))
            queue.push(chain)

    def _wait_for_tokens(self) -> None:
        if not self._timer_is_set:
            self._timer_is_set = True
            self._bucket.call_when_worthwhile(self._on_tokens)

    def _on_tokens(self) -> None:
        self._timer_is_set = False
        self.serve(self.queues[0])
