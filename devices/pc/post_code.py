"""PostCode: port 0x80, to which firmware writes how far it has come.

Source: IBM PC AT Technical Reference, "Manufacturing Test Port". Linux writes to it,
too, to let time pass (arch/x86/kernel/io_delay.c).
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Final

from ..device_io import DeviceIo
from ..fast_port import RING_SIZE, FastPort
from ..resources import PioAddressConstraint, ResourceConstraint
from ..state import Byte, State

POST_PORT: Final = 0x80


class PostCodeState(State):
    """The last code; None before the first."""

    last: Byte | None


class PostCode(DeviceIo):
    """A byte that keeps what was last written, for whoever looks at a crash.

    Nothing waits for the writes: they are posted, and cost no exit where KVM can
    collect them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._port = FastPort(posted=True)
        self._port.accept(RING_SIZE)
        self._last: int | None = None

    @property
    def last(self) -> int | None:
        """The last code, 0..0xFF; None before the first."""
        with self._lock:
            return self._take()

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [PioAddressConstraint.at(POST_PORT, 1)]

    def get_fast_ports(self) -> Mapping[int, FastPort]:
        return {POST_PORT: self._port}

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        """Give the last code; 0 before the first."""
        data[0] = self.last or 0

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        """Keep a code. Comes where no run loop serves the port, or its ring is full."""
        with self._lock:
            self._take()
            self._last = data[0]

    def reset(self) -> None:
        self.restore(PostCodeState(None))

    def state(self) -> PostCodeState:
        return PostCodeState(self.last)

    def restore(self, state: State | None) -> None:
        last = PostCodeState.of(state).last
        with self._lock:
            self._take()
            self._last = last

    def get_report(self) -> str:
        last = self.last
        return "" if last is None else f"POST code (port {POST_PORT:#x}): {last:#04x}"

    def _take(self) -> int | None:
        if written := self._port.take():
            self._last = written[-1]
            self._port.accept(RING_SIZE)
        return self._last
