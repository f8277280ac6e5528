"""Channel: one command of the guest's, as far as the session has heard of it."""

import os
import struct
import threading
from typing import Final, Protocol

from ..errors import VmmError
from . import frames

OUTPUT_WINDOW: Final = 256 << 10  # of each stream, before the first CREDIT; the agent's
INPUT_WINDOW: Final = 8192  # likewise, of what is for it to read
GRANT: Final = 64 << 10  # that was read, before the guest is told
CAPTURE_LIMIT: Final = 64 << 20  # bytes that a command may print, both streams
STDOUT: Final = 0
STDERR: Final = 1

_NONSENSE: Final = "guest: its agent sent what makes no sense"

# What CHANGED tells, as bits
_OUT_ENDED: Final = 1
_ERR_ENDED: Final = 2
_EXITED: Final = 4
_IN_BROKEN: Final = 8

_CHANGED: Final = struct.Struct("<BH")
_CREDIT: Final = struct.Struct("<BI")
_NUMBER: Final = struct.Struct("<I")


class Outlet(Protocol):
    """What takes a channel's frames."""

    def send(self, kind: int, channel: int, payload: bytes) -> None:
        """Send one, as soon as that may be. With the session's lock."""

    def room(self) -> int:
        """Bytes that it takes before they had to wait in our memory."""


class Channel:
    """What has come, and what may go. All of it wants the session's lock held.

    `changed` is that lock, and told of all that happens. A guest that sends more than
    it was allowed to, or what makes no sense, loses the channel by `fail`.
    """

    def __init__(
        self, number: int, changed: threading.Condition, outlet: Outlet
    ) -> None:
        self.number = number
        self.order_frames = 0
        """By how many it is started."""
        self.changed = changed
        self.pid: int | None = None
        self.status: int | None = None
        """As wait(2) has it, once it has exited."""
        self.failure: tuple[int, int] | None = None
        """Why it didn't start: errno, and the stage."""
        self.error: Exception | None = None
        """Why nothing more comes."""
        self.output = bytearray(), bytearray()
        self.ended = [False, False]
        self.input_room = INPUT_WINDOW
        self.input_is_broken = False
        self._outlet = outlet
        self._limit: int | None = None  # of what is kept; None: what is read is granted
        self._kept = 0
        self._window = [OUTPUT_WINDOW, OUTPUT_WINDOW]
        self._read = [0, 0]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        if self.error is not None or self.failure is not None:
            return True
        return self.status is not None and all(self.ended)

    def fail(self, error: Exception) -> None:
        """It is over, for this reason."""
        if not self.is_over:
            self.error = error

    def take(self, kind: int, payload: bytes) -> None:
        """A frame of it has come."""
        if kind in (frames.OUTPUT, frames.ERRORS):
            self._take_output(kind - frames.OUTPUT, payload)
        elif kind == frames.CHANGED and len(payload) == _CHANGED.size:
            self._take_change(*_CHANGED.unpack(payload))
        elif kind == frames.STARTED and len(payload) == _NUMBER.size:
            (self.pid,) = _NUMBER.unpack(payload)
        elif kind == frames.FAILED and len(payload) == 2:
            self.failure = payload[0], payload[1]
        elif kind == frames.INPUT_CREDIT and len(payload) == _NUMBER.size:
            room = self.input_room + _NUMBER.unpack(payload)[0]
            self.input_room = min(room, INPUT_WINDOW)
        else:
            self.fail(VmmError(_NONSENSE))

    def _take_output(self, stream: int, data: bytes) -> None:
        self._window[stream] -= len(data)
        if self._window[stream] < 0 or self.ended[stream]:
            self.fail(VmmError("guest: its agent sent more output than it was to"))
            return
        self.output[stream].extend(data)
        if self._limit is not None:
            self._keep(stream, len(data), self._limit)

    def _keep(self, stream: int, count: int, limit: int) -> None:
        self._kept += count
        if self._kept > limit:
            self.output[stream].clear()
            self.close()
            self.fail(
                VmmError(
                    f"guest: the command printed more than {limit >> 20} MiB, "
                    "which run() won't keep: read it by popen(), or let it print to "
                    "a file and get() that"
                )
            )
        else:
            self._grant(stream, count)

    def _take_change(self, state: int, status: int) -> None:
        self.ended = [bool(state & _OUT_ENDED), bool(state & _ERR_ENDED)]
        self.input_is_broken = bool(state & _IN_BROKEN)
        if state & _EXITED:
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self.status = status
            else:  # it is stopped, or goes on
                self.fail(VmmError(_NONSENSE))

    def _grant(self, stream: int, count: int) -> None:
        self._read[stream] += count
        # One that takes nothing of ours is given no more to send.
        if (
            self._read[stream] >= GRANT
            and not self.ended[stream]
            and self._outlet.room() > 0
        ):
            count, self._read[stream] = self._read[stream], 0
            self._window[stream] += count
            self._outlet.send(frames.CREDIT, self.number, _CREDIT.pack(stream, count))

    # For a user, with the lock

    def keep_all(self, limit: int) -> None:
        """Keep all output, up to `limit` bytes of it, though nobody may read."""
        if self._limit is None:
            self._limit = limit
            for stream, output in enumerate(self.output):
                self._keep(stream, len(output), limit)

    def read(self, stream: int, most: int) -> bytes:
        """Take output that has come; the guest may send as much again."""
        data = bytes(self.output[stream][:most])
        if data:
            del self.output[stream][:most]
            if self._limit is None:
                self._grant(stream, len(data))
        return data

    def write(self, data: bytes | memoryview) -> int:
        """Send input, as much as the command has room for; how much that was."""
        taken = min(len(data), self.input_room, max(0, self._outlet.room()))
        for at in range(0, taken, frames.PAYLOAD_MAX):
            piece = bytes(data[at : min(at + frames.PAYLOAD_MAX, taken)])
            self._outlet.send(frames.INPUT, self.number, piece)
        self.input_room -= taken
        return taken

    def end_input(self) -> None:
        """The command reads to its end."""
        self._outlet.send(frames.INPUT_END, self.number, b"")

    def signal(self, number: int, *, group: bool) -> None:
        """Send the command a signal, or all that it has started."""
        self._outlet.send(frames.SIGNAL, self.number, bytes((number, group)))

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal of its size."""
        size = struct.pack("<HH", rows, columns)
        self._outlet.send(frames.WINDOW, self.number, size)

    def close(self) -> None:
        """Kill what runs, and hear no more of it."""
        if not self.is_over:
            self.signal(9, group=True)  # which outlives the command, if that has ended
            self._outlet.send(frames.CLOSE, self.number, b"")
