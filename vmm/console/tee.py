"""Tees: copies of the console's output to files and unix sockets."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from ..event_loop import EventLoop
from ..expect.capture import CaptureEndpoint
from ..expect.reader import Reader
from ..place import Place
from .endpoint import CHUNK, Endpoint, Flow
from .opening import fills_a_disk, open_endpoint


class Teed:
    """An endpoint whose output is captured, too, for the tees."""

    def __init__(self, endpoint: Endpoint, capture: CaptureEndpoint) -> None:
        self._endpoint = endpoint
        self._capture = capture
        self.may_be_early = endpoint.may_be_early

    def write(self, data: bytes) -> int:
        taken = self._endpoint.write(data[: self._capture.room(len(data))])
        self._capture.write(data[:taken])
        return taken

    def resume_input(self) -> None:
        self._endpoint.resume_input()

    def close(self) -> None:
        self._endpoint.close()


class Copy(Flow):
    """What a reader reads, to an endpoint. `on_written` is Flow's `on_drained`."""

    def __init__(
        self,
        loop: EventLoop,
        reader: Reader,
        endpoint: Endpoint,
        on_failure: Callable[[OSError], None],
        on_written: Callable[[], None],
    ) -> None:
        super().__init__(loop, endpoint, on_failure, on_written)
        self._reader = reader

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to write now; from any thread."""
        return not self._reader.peek(1)

    def peek(self) -> bytes:
        return self._reader.peek(CHUNK)

    def took(self, data: bytes, taken: int) -> None:
        self._reader.skip(taken)


class _Tee:
    """One copy, in a place of its own; the Host of its endpoint."""

    def __init__(
        self, tees: "Tees", loop: EventLoop, where: Place, cleanup: ExitStack
    ) -> None:
        self._tees = tees
        self.where = where
        endpoint = open_endpoint(loop, self, where, "tee", tees.socket_mode)
        cleanup.callback(endpoint.close)
        self.is_file = fills_a_disk(endpoint)
        self.copy = Copy(
            loop, tees.capture.copier(), endpoint, self._fail, tees.check_done
        )

    def _fail(self, error: OSError) -> None:
        self._tees.on_failure(f"tee {str(self.where)!r} can't be written: {error}")

    def endpoint_ready(self) -> None:
        self.copy.write()

    def endpoint_input(self, data: bytes) -> bool:
        """A tee only shows; what is typed there goes nowhere."""
        return True


class Tees:
    """All tees of one console. On the loop's thread, but for `finish`.

    A tee that can't be written any more fails the run, through `on_failure`.
    """

    def __init__(
        self,
        capture: CaptureEndpoint,
        loop: EventLoop,
        places: Sequence[Place],
        on_failure: Callable[[str], None],
        cleanup: ExitStack,
        socket_mode: int,
    ) -> None:
        """Raises ConfigError if one can't be opened; `cleanup` closes them."""
        self.capture = capture
        self.socket_mode = socket_mode
        self.on_failure = on_failure
        self._loop = loop
        self._done = threading.Event()
        self._tees: list[_Tee] = []
        for where in places:
            self._tees.append(_Tee(self, loop, where, cleanup))
        capture.on_data = self.write

    @property
    def has_file(self) -> bool:
        """Whether a guest that prints for ever fills a disk."""
        return any(tee.is_file for tee in self._tees)

    def write(self) -> None:
        """Write what has come."""
        for tee in self._tees:
            tee.copy.write()

    def check_done(self) -> None:
        """Tell `finish` when nothing is left to write."""
        if all(tee.copy.is_done for tee in self._tees):
            self._done.set()

    def finish(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until all is written; for when no more comes."""
        self._done.clear()
        self._loop.call_soon(self.write)
        return self._done.wait(timeout)

    def give_up(self, timeout: float) -> None:
        """Fail the run for those who haven't taken all within `timeout` seconds."""
        for tee in self._tees:
            if not tee.copy.is_done:
                self.on_failure(
                    f"tee {str(tee.where)!r}: its reader was too slow: some of the "
                    f"output was still to be written {timeout:g} s after the "
                    "guest's end"
                )
