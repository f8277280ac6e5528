"""A person at the console of a machine that a program has made."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from ..errors import VmmError
from ..event_loop import EventLoop
from ..expect.capture import CaptureEndpoint
from .endpoint import FdEndpoint
from .input import InputPump
from .output import HURRY_S
from .tee import Copy
from .terminal import HELP, EscapeFilter, raw_terminal
from .terminal_size import followed

LINES: Final = 24  # a screenful of what was printed before
HINT: Final = "Ctrl-A x leaves the guest's console, Ctrl-A h helps\n"
LEAVES: Final = "leave the console; the guest runs on"


Resize = Callable[[int, int], None]
"""Tells a guest how many columns and rows its terminal has."""


def interact(
    pump: InputPump, capture: CaptureEndpoint, resize: Resize | None = None
) -> None:
    """As Console.interact. Raises VmmError."""
    pump.check_connected()
    if not (os.isatty(0) and os.isatty(1)):
        raise VmmError(
            "interact: stdin and stdout are no terminal; pytest leaves it to us with "
            "--pdb or -s"
        )
    if threading.current_thread() is not threading.main_thread():
        raise VmmError("interact: only the main thread can have the terminal")
    if sys.stdout is not None:
        sys.stdout.flush()
    with raw_terminal(0):
        _Interaction(pump, capture, resize).run()


class _Interaction:
    """One stay; the Host of the terminal, which a loop of its own serves.

    So it needs nothing of the machine's, which may not have started, or be closed
    meanwhile; and when that loop has ended nobody reads our keys any more.
    """

    def __init__(
        self, pump: InputPump, capture: CaptureEndpoint, resize: Resize | None
    ) -> None:
        self._pump = pump
        self._capture = capture
        self._keys = EscapeFilter(
            on_quit=self._leave,
            on_help=lambda: self._show(HELP.format(x=LEAVES)),
            on_break=lambda before: pump.send(before, then_break=True),
        )
        self._left = False
        self._last_words = b""
        self._ended = threading.Event()  # they were shown
        self._error: Exception | None = None
        with ExitStack() as stack:
            self._loop = EventLoop(self._fail)
            stack.callback(self._loop.close)
            reader = capture.latest(LINES)
            stack.callback(reader.close)
            self._endpoint = FdEndpoint(self._loop, self, 1, 0, self._leave)
            stack.callback(self._endpoint.close)
            self._copy = Copy(
                self._loop, reader, self._endpoint, self._on_gone, self._tell
            )
            if resize is not None:
                stack.enter_context(followed(self._loop, resize))
            stack.callback(self._loop.stop)  # before what it uses is closed
            self._cleanup = stack.pop_all()

    def run(self) -> None:
        """Show what comes, until the person leaves or the run has ended."""
        with self._cleanup:
            self._show(HINT)
            self._loop.start()
            self._wait()
            result = self._capture.result
            end = f"the run has ended: {result.reason.value}\n" if result else ""
            self._loop.call_soon(lambda: self._end(f"\n{end}"))
            self._ended.wait(HURRY_S)
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        capture, copy = self._capture, self._copy
        with capture.changed:
            while not self._left and not (capture.result is not None and copy.is_done):
                if not copy.is_done:
                    self._loop.call_soon(copy.write)
                capture.changed.wait()

    # On the loop's thread

    def endpoint_ready(self) -> None:
        if self._last_words:
            self._say_them()
        else:
            self._copy.write()

    def endpoint_input(self, data: bytes) -> bool:
        """Type it as a test's `send` does: a person isn't too fast for us."""
        self._pump.send(self._keys(data))
        return not self._left

    def _show(self, text: str) -> None:
        """Words of ours, as far as there is room for them."""
        try:
            self._endpoint.write(text.encode())
        except OSError:
            self._leave()

    def _end(self, text: str) -> None:
        """Words that wait until there is room for them behind the guest's."""
        self._last_words = text.encode()
        self._say_them()

    def _say_them(self) -> None:
        try:
            taken = self._endpoint.write(self._last_words)
        except OSError:  # nobody is there
            taken = len(self._last_words)
        self._last_words = self._last_words[taken:]
        if not self._last_words:
            self._ended.set()

    def _on_gone(self, _: OSError) -> None:
        """The terminal can't be written any more: there is no person, either."""
        self._leave()

    def _leave(self) -> None:
        self._left = True
        self._tell()

    def _tell(self) -> None:
        with self._capture.changed:
            self._capture.changed.notify_all()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._leave()
