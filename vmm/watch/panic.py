"""PanicWatch: finds a kernel's last words in the stream of console output."""

import re
import threading
from collections.abc import Callable
from typing import Final

from ..devices.clock import Clock

PANIC: Final = b"Kernel panic - not syncing"  # kernel/panic.c
TOLD: Final = "told by pvpanic, and nothing on the console"
LINE_MAX: Final = 256  # of which the message keeps
LOG_HALF: Final = 32 << 10  # bytes kept of a log's beginning, and of its end
QUIET_NS: Final = 200_000_000  # a report is over after so long a silence,
PATIENCE_NS: Final = 2_000_000_000  # and after this in any case
LOOK_NS: Final = 20_000_000

# Patterns are compiled when the first output is looked at: a start need not wait.
# What an oops starts with. lib/bug.c, arch/x86/mm/fault.c (BUG, Oops),
# arch/x86/kernel/traps.c (general protection fault), dumpstack.c's die counter.
_OOPS: Final = (
    rb"(?<![A-Za-z])BUG: |kernel BUG at |Oops: |general protection fault[,:]"
    rb"|: [0-9a-f]{4} \[#\d+\]|" + PANIC
)
CUT: Final = b"\0"  # stands for the beginning of a line that we haven't kept
BEFORE_MAX: Final = 48  # bytes, of what printk puts in front of its lines
# What stands between a line's beginning, or whatever a program left there, and the
# words: kernel/printk/printk.c, info_print_prefix().
_OF_PRINTK: Final = rb"((^|\n)(<\d+>)?|\[ *\d+\.\d+\](\[ *[CT]\d+\])? )\Z"
_IN_ORDER: Final = rb"reboot: Restarting system|sysrq: (SysRq : )?Resetting"


class _Log:
    """The first and the last bytes of what is added."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        self._size += len(data)
        room = LOG_HALF - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[max(room, 0) :])[-LOG_HALF:]

    def text(self) -> str:
        left_out = self._size - len(self._head) - len(self._tail)
        gap = f"\n[{left_out} bytes left out]\n".encode() if left_out else b""
        whole = self._head + gap + self._tail
        return whole.decode(errors="replace").replace("\r\n", "\n")


class PanicWatch:
    """Reads one boot's output; `on_panic` is called at the words of a panic.

    They are a panic's once `prove` has said so; until then, or until `dismiss`, nobody
    knows. A guest may tell of one by pvpanic, too, which needs no words. Thread-safe:
    bytes carry their position in the stream, so that those that wait in a buffer may be
    shown ahead of their turn and again when it comes.
    """

    def __init__(self, on_panic: Callable[[], None]) -> None:
        self._on_panic = on_panic
        self._lock = threading.Lock()
        self._seen = 0  # the position of the next byte that we haven't
        self._oops = ""  # the last boot's that had one
        self._begin()

    def _begin(self) -> None:
        self._line: str | None = None
        self._open_line: bytes | None = None  # of which more may come
        self._by_printk = False
        self._signs: list[str] = []
        self._in_order = False
        self._told = False
        self._has_crash_kernel = False
        self._log: _Log | None = None
        self._log_is_of_words = False
        self._tail = b""  # the last line, as far as it has come

    def restart(self, position: int) -> None:
        """The guest boots again; its output begins at `position`."""
        with self._lock:
            self._oops = self._text()
            self._begin()
            self._seen = position

    def panic_told(self) -> None:
        """The guest says by pvpanic that it has panicked: maybe its console is mute."""
        with self._lock:
            is_news = self._line is None and not self._told
            self._told = True
        if is_news:
            self._on_panic()

    def crash_kernel_told(self) -> None:
        """As `panic_told`, but its crash kernel takes over: leave it be."""
        with self._lock:
            self._told = self._has_crash_kernel = True

    @property
    def has_crash_kernel(self) -> bool:
        """Whether a panic isn't the end of this boot."""
        return self._has_crash_kernel

    def feed(self, position: int, data: bytes) -> None:
        """Look at bytes of the stream, wherever they were cut."""
        with self._lock:
            fresh = data[max(0, self._seen - position) :]
            self._seen = max(self._seen, position + len(data))
            had_line = self._line is not None
            self._look(fresh)
            is_news = self._line is not None and not had_line and not self._told
        if is_news:
            self._on_panic()

    @property
    def line(self) -> str | None:
        """None until the words of a panic came, then their line as far as it has come.

        Or what we know of one that was told by pvpanic alone.
        """
        with self._lock:
            if self._line is None and self._told:
                return TOLD
            return self._line

    @property
    def by_printk(self) -> bool:
        """Whether the words stand where the kernel's do: behind a time, or in front."""
        return self._by_printk

    @property
    def restarts_in_order(self) -> bool:
        """Whether the kernel has said since that it restarts because it was told to.

        It doesn't after a panic. kernel/reboot.c, drivers/tty/sysrq.c.
        """
        return self._in_order

    def prove(self, sign: str) -> None:
        """The words were a panic's: `sign` shows it."""
        with self._lock:
            self._signs.append(sign)

    @property
    def is_proven(self) -> bool:
        """Whether there is more than words."""
        return self._told or bool(self._signs)

    @property
    def detail(self) -> str:
        """The panic's line, and what else shows that it is one; "" if there is none."""
        with self._lock:
            if self._line is None:
                return TOLD if self._told else ""
            signs = [*(["pvpanic tells of it"] if self._told else []), *self._signs]
            return f"{self._line} ({', '.join(signs)})" if signs else self._line

    def dismiss(self) -> None:
        """The words were none of a panic's: forget them. The next may be."""
        with self._lock:
            if self.is_proven:
                return
            self._line = self._open_line = None
            self._in_order = False
            self._tail = CUT
            if self._log_is_of_words:
                self._log = None

    @property
    def oops(self) -> str:
        """The log from the first line on that tells of an oops, a BUG or a panic.

        "" if there was none; what is long lacks its middle.
        """
        with self._lock:
            return self._text()

    # With the lock held

    def _text(self) -> str:
        return self._oops if self._log is None else self._log.text()

    def _look(self, data: bytes) -> None:
        text = self._tail + data
        self._look_for_oops(text, data)
        start = 0
        if self._open_line is not None:
            self._add_to_line(data)
        elif self._line is None:
            start = self._look_for_panic(text)
        if self._line is not None:
            self._in_order |= re.search(_IN_ORDER, text[start:]) is not None
        self._tail = text[text.rfind(b"\n") + 1 :]
        if len(self._tail) > LINE_MAX:
            self._tail = CUT + self._tail[-LINE_MAX:]

    def _look_for_oops(self, text: bytes, data: bytes) -> None:
        if self._log is not None:
            self._log.add(data)
            return
        found = re.search(_OOPS, text)
        if found is not None:
            start = text.rfind(b"\n", 0, found.start()) + 1
            self._log = _Log()
            self._log.add(text[start:].removeprefix(CUT))
            self._log_is_of_words = found[0] == PANIC

    def _look_for_panic(self, text: bytes) -> int:
        """Where the words are; -1 if they aren't."""
        at = text.find(PANIC)
        if at < 0:
            return at
        before = text[max(0, at - BEFORE_MAX) : at]
        if at > BEFORE_MAX:  # no line begins where we have cut
            before = CUT + before
        self._by_printk = re.search(_OF_PRINTK, before) is not None
        self._open_line = b""
        self._add_to_line(text[at:])
        return at

    def _add_to_line(self, data: bytes) -> None:
        assert self._open_line is not None
        text = self._open_line + data
        line, newline, _ = text[:LINE_MAX].partition(b"\n")
        self._line = line.strip().decode(errors="replace")
        is_whole = newline or len(text) >= LINE_MAX
        self._open_line = None if is_whole else text


def when_silent(
    clock: Clock, count: Callable[[], int], callback: Callable[[], None]
) -> None:
    """Call `callback` once `count`, of bytes printed, has stood still for QUIET_NS.

    After PATIENCE_NS in any case.
    """
    from .looks import Looks  # most runs never panic

    passed = silent = 0
    seen = count()

    def look(passed_ns: int) -> bool:
        nonlocal passed, silent, seen
        passed += passed_ns
        silent += passed_ns
        printed = count()
        if printed != seen:
            silent, seen = 0, printed
        if silent < QUIET_NS and passed < PATIENCE_NS:
            return True
        callback()
        return False

    Looks(clock, LOOK_NS, look)
