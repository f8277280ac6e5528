"""InputPump: what is typed at a console, no faster than its guest reads."""

import threading
from typing import Final, Protocol

from ..devices.errors import FullFifo
from ..devices.serial.events import SerialEvents
from ..errors import VmmError
from ..event_loop import EventLoop
from .endpoint import Endpoint

TURN: Final = 64  # fillings of the guest's FIFO in one turn of the loop
LISTEN_NS: Final = 20_000_000  # between two looks whether the guest listens
PATIENCE_NS: Final = 10_000_000_000  # with a guest that doesn't


class InputDevice(Protocol):
    """What a guest is typed to by: a Serial, or a ConsolePort.

    Whenever it may have room again for what it took not all of, it has the pump's
    `in_buffer_empty` called.
    """

    @property
    def listens(self) -> bool:
        """Whether there is a driver that waits for input."""

    def fifo_capacity(self) -> int:
        """How many bytes there is room for, or may be; 0: none."""

    def enqueue_raw_bytes(self, data: bytes, /) -> int:
        """Type some of `data`; how many bytes. May raise FullFifo for none."""

    def inject_break(self) -> bool:
        """Type BREAK; False if it can't be now."""

    def flush(self) -> None:
        """Give the sink all that the guest has sent."""


class InputPump(SerialEvents):
    """A queue that is emptied on the loop's thread, as the guest drains its FIFO."""

    def __init__(self, loop: EventLoop, endpoint: Endpoint) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._device: InputDevice | None = None
        self._lock = threading.Lock()  # for the next two
        self._queue = bytearray()
        self._breaks: list[int] = []  # places in the queue, of what comes after each
        self._feed_is_due = False
        self._awaiting = False  # looking now and then whether the guest listens
        self._holding = False
        self._listened = False
        self._patience_ends_ns = 0
        self._held_since_ns: int | None = None

    def connect(self, device: InputDevice) -> None:
        """Wire the device's input, before the loop starts."""
        self._device = device

    def power_on(self, *, goes_on: bool) -> None:
        """The guest is about to boot, for the first time or again; or to go on."""
        self._holding = self._endpoint.may_be_early and not goes_on
        self._listened = False
        self._patience_ends_ns = self._loop.now_ns() + PATIENCE_NS

    def hold(self) -> None:
        """The guest stands still: keep what is typed. On the loop's thread."""
        self._held_since_ns = self._loop.now_ns()

    def release(self) -> None:
        """It goes on: from any thread."""
        since_ns = self._held_since_ns
        if since_ns is None:
            return
        self._patience_ends_ns += self._loop.now_ns() - since_ns
        self._held_since_ns = None  # after that: the loop may look in between
        if self._device is not None:
            self._loop.call_soon(self._feed)

    def drop(self) -> None:
        """Forget what the guest hasn't taken."""
        with self._lock:
            self._queue.clear()
            self._breaks.clear()

    def check_connected(self) -> None:
        """Raises VmmError for a console that only shows."""
        if self._device is None:
            raise VmmError("this console takes no input")

    def send(self, data: bytes, *, then_break: bool = False) -> None:
        """Type `data`, from any thread, and BREAK if that is to follow.

        Raises VmmError for a console that only shows.
        """
        self.check_connected()
        with self._lock:
            self._queue += data
            if then_break:
                self._breaks.append(len(self._queue))
        self._holding = False  # whoever calls this knows when
        self._loop.call_soon(self._feed)

    def take(self, data: bytes) -> bool:
        """Type what came from the endpoint; False if some of it has to wait.

        On the loop's thread; the endpoint's `resume_input` follows. What nobody could
        read goes nowhere.
        """
        if self._device is None:
            return True
        with self._lock:
            self._queue += data
        self._feed()
        return not self._queue

    def in_buffer_empty(self) -> None:
        """The guest has drained its FIFO: SerialEvents, on a vCPU's thread."""
        # Not twice: a guest may do this faster than the loop turns.
        if (self._queue or self._breaks) and not self._feed_is_due:
            self._feed_is_due = True
            self._loop.call_soon(self._feed)

    def _await_listener(self) -> None:
        """Hold input back until the guest's driver has opened the port.

        A pipe has its input ready before the guest has booted, and a driver that
        opens the port clears the FIFO: what is in it would be lost. It listens
        when RDI is enabled and stays so, for Linux's probe enables it in passing;
        a guest that polls never does, and gets its input a little later.
        """
        assert self._device is not None
        if self._held_since_ns is not None:
            self._awaiting = False
            return
        now = self._loop.now_ns()
        listens = self._device.listens
        if (listens and self._listened) or now > self._patience_ends_ns:
            self._holding = self._awaiting = False
            self._feed()
            return
        self._awaiting = True
        self._listened = listens
        self._loop.call_at(now + LISTEN_NS, self._await_listener)

    def _feed(self) -> None:
        assert self._device is not None
        self._feed_is_due = False
        if self._held_since_ns is not None:
            return
        if self._holding:
            if not self._awaiting:
                self._await_listener()
            return
        with self._lock:
            for _ in range(TURN):
                if not self._queue and not self._breaks:
                    break
                if not self._feed_some(self._device):
                    return
            else:
                self._feed_is_due = True
                self._loop.call_soon(self._feed)
                return
        self._endpoint.resume_input()

    def _feed_some(self, device: InputDevice) -> bool:
        """A break, or what there is before one; False if the guest takes none."""
        room = device.fifo_capacity()
        if self._breaks and self._breaks[0] == 0:
            sent = room > 0 and device.inject_break()
            if sent:
                del self._breaks[0]
            return sent
        end = self._breaks[0] if self._breaks else len(self._queue)
        try:
            taken = device.enqueue_raw_bytes(bytes(self._queue[: min(end, room)]))
        except FullFifo:
            return False
        del self._queue[:taken]
        self._breaks = [place - taken for place in self._breaks]
        return taken > 0  # loopback refuses the host
