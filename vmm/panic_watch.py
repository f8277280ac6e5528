"""PanicWatch: finds the kernel's panic line in the stream of console output."""

from typing import Final

PANIC: Final = b"Kernel panic - not syncing"  # kernel/panic.c
LINE_MAX: Final = 256  # of which the message keeps


class PanicWatch:
    """`line` is None until a panic was printed, then its line as far as it has come."""

    def __init__(self) -> None:
        self.line: str | None = None
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Look at the next bytes, wherever they were cut."""
        if self.line is not None and b"\n" in self._tail:
            return
        text = self._tail + data
        at = text.find(PANIC)
        if at < 0:
            self._tail = text[1 - len(PANIC) :]
            return
        self._tail = text[at : at + LINE_MAX]
        self.line = self._tail.split(b"\n")[0].strip().decode(errors="replace")

    def look_ahead(self, data: bytes) -> str | None:
        """What `line` would be after `feed(data)`."""
        ahead = PanicWatch()
        ahead.line, ahead._tail = self.line, self._tail
        ahead.feed(data)
        return ahead.line
