"""CaptureEndpoint, PanicWatch and EscapeFilter: bytes, wherever they are cut."""

import itertools
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.capture import LAST_LINES, CaptureEndpoint, ExpectTimeout, GuestEnded
from vmm.panic_watch import LINE_MAX, PanicWatch
from vmm.result import ExitReason, RunResult
from vmm.terminal import EscapeFilter

DEADLINE = 10.0
RESULT = RunResult(ExitReason.RESET, 0)


@pytest.fixture
def capture() -> CaptureEndpoint:
    return CaptureEndpoint(on_room=lambda: None)


# expect


@pytest.mark.parametrize("pattern", ["login: ", b"login: ", re.compile(rb"log\w+: ")])
def test_pattern_may_be_str_bytes_or_regex(
    capture: CaptureEndpoint, pattern: str | bytes | re.Pattern[bytes]
) -> None:
    capture.write(b"\r\nlogin: ")
    assert capture.expect(pattern, DEADLINE)[0] == b"login: "


@pytest.mark.parametrize("pattern", ["a.c", b"a.c"])
def test_text_is_taken_literally(
    capture: CaptureEndpoint, pattern: str | bytes
) -> None:
    capture.write(b"abc a.c")
    assert capture.expect(pattern, DEADLINE).span() == (4, 7)


def test_text_that_is_not_ascii_is_utf_8(capture: CaptureEndpoint) -> None:
    capture.write("é".encode())
    assert capture.expect("é", DEADLINE)[0] == b"\xc3\xa9"


def test_match_has_its_groups_and_what_came_before(capture: CaptureEndpoint) -> None:
    capture.write(b"pid 42 done")
    match = capture.expect(re.compile(rb"pid (\d+)"), DEADLINE)
    assert match[1] == b"42"
    assert match.string == b"pid 42 done"


def test_all_up_to_the_match_is_consumed(capture: CaptureEndpoint) -> None:
    capture.write(b"one two three")
    capture.expect("two", DEADLINE)
    assert capture.read() == b" three"


def test_read_consumes(capture: CaptureEndpoint) -> None:
    capture.write(b"x")
    assert (capture.read(), capture.read()) == (b"x", b"")


@pytest.mark.parametrize("cut", range(7))
def test_pattern_may_come_in_pieces(capture: CaptureEndpoint, cut: int) -> None:
    capture.write(b"login:"[:cut])
    later = threading.Timer(0, capture.write, [b"login:"[cut:]])
    later.start()
    assert capture.expect("login:", DEADLINE)
    later.join()


def test_timeout_shows_the_pattern_and_the_last_lines(capture: CaptureEndpoint) -> None:
    lines = [f"line {number}" for number in range(LAST_LINES + 5)]
    capture.write("\r\n".join(lines).encode())
    with pytest.raises(ExpectTimeout) as caught:
        capture.expect("login: ", timeout=0)
    first, *shown = str(caught.value).splitlines()
    assert first == "no 'login: ' on the console within 0 s; it ends:"
    assert shown == [f"  | {line}" for line in lines[-LAST_LINES:]]


def test_timeout_without_any_output_says_so(capture: CaptureEndpoint) -> None:
    with pytest.raises(ExpectTimeout, match=r"it ends:\n  \(empty\)$"):
        capture.expect("x", timeout=0)


def test_timeout_is_a_timeout_error_that_consumes_nothing(
    capture: CaptureEndpoint,
) -> None:
    capture.write(b"abc\xff")
    with pytest.raises(TimeoutError, match=r"abc\\xff"):
        capture.expect("x", timeout=0)
    assert capture.read() == b"abc\xff"


def test_end_of_the_guest_ends_the_wait_at_once(capture: CaptureEndpoint) -> None:
    capture.write(b"bye")
    later = threading.Timer(0, capture.end, [RESULT])
    later.start()
    with pytest.raises(GuestEnded, match=r"before the guest ended \(reset\)") as caught:
        capture.expect("login", timeout=3600)
    later.join()
    assert caught.value.result is RESULT
    assert "  | bye" in str(caught.value)


def test_what_the_guest_printed_can_be_expected_after_its_end(
    capture: CaptureEndpoint,
) -> None:
    capture.write(b"bye")
    capture.end(RESULT)
    assert capture.expect("bye", timeout=0)


def test_at_its_limit_it_takes_no_more() -> None:
    capture = CaptureEndpoint(on_room=lambda: None, limit=4)
    assert (capture.write(b"abc"), capture.write(b"def")) == (3, 1)
    assert capture.write(b"ef") == 0


def test_room_is_told_once_somebody_has_waited_for_it() -> None:
    told: list[str] = []
    capture = CaptureEndpoint(on_room=lambda: told.append("room"), limit=4)
    capture.write(b"abcdef")
    capture.expect("b", DEADLINE)
    assert told == ["room"]
    assert capture.write(b"ef") == 2
    assert capture.read() == b"cdef"


def test_room_is_not_told_while_nobody_waits_for_it() -> None:
    told: list[str] = []
    capture = CaptureEndpoint(on_room=lambda: told.append("room"))
    capture.write(b"abc")
    capture.expect("b", DEADLINE)
    capture.read()
    assert told == []


# PanicWatch

PANIC_LINE = "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs"
LOG = b"[    0.9] ok\r\n" + PANIC_LINE.encode() + b"\r\n[    1.1] CPU: 0\r\n"
MESSAGE = "Kernel panic - not syncing: VFS: Unable to mount root fs"


@pytest.mark.parametrize("cut", range(len(LOG) + 1))
def test_panic_is_found_wherever_the_output_is_cut(cut: int) -> None:
    watch = PanicWatch()
    watch.feed(LOG[:cut])
    watch.feed(LOG[cut:])
    assert watch.line == MESSAGE


@settings(deadline=None)  # the machine may be busy
@given(cuts=st.lists(st.integers(0, len(LOG))))
def test_panic_is_found_in_any_pieces(cuts: list[int]) -> None:
    watch = PanicWatch()
    places = [0, *sorted(cuts), len(LOG)]
    for start, end in itertools.pairwise(places):
        watch.feed(LOG[start:end])
    assert watch.line == MESSAGE


def test_output_without_a_panic_has_none() -> None:
    watch = PanicWatch()
    watch.feed(b"Kernel panic? - no, not syncing\n" * 100)
    assert watch.line is None


def test_first_panic_is_kept() -> None:
    watch = PanicWatch()
    watch.feed(LOG)
    watch.feed(b"Kernel panic - not syncing: another\n")
    assert watch.line == MESSAGE


def test_endless_panic_line_is_bounded() -> None:
    watch = PanicWatch()
    watch.feed(b"Kernel panic - not syncing: ")
    for _ in range(100):
        watch.feed(b"x" * 100)
    assert watch.line is not None
    assert len(watch.line) == LINE_MAX


def test_looking_ahead_changes_nothing() -> None:
    watch = PanicWatch()
    watch.feed(LOG[:40])
    assert watch.look_ahead(LOG[40:]) == MESSAGE
    assert watch.line != MESSAGE


def test_bytes_that_are_no_text_are_replaced() -> None:
    watch = PanicWatch()
    watch.feed(b"Kernel panic - not syncing: \xff\n")
    assert watch.line == "Kernel panic - not syncing: \N{REPLACEMENT CHARACTER}"


# EscapeFilter


class Escaper:
    """An EscapeFilter, and which commands it obeyed."""

    def __init__(self) -> None:
        self.obeyed: list[str] = []
        self.filter = EscapeFilter(
            on_quit=lambda: self.obeyed.append("quit"),
            on_help=lambda: self.obeyed.append("help"),
        )


@pytest.fixture
def escaper() -> Escaper:
    return Escaper()


@pytest.mark.parametrize(
    ("typed", "rest", "obeyed"),
    [
        (b"ls\r", b"ls\r", []),
        (b"a\x01xb", b"ab", ["quit"]),
        (b"a\x01hb", b"ab", ["help"]),
        (b"\x01\x01", b"\x01", []),
        (b"\x01\x01x", b"\x01x", []),
        (b"\x01\x01\x01x", b"\x01", ["quit"]),
        (b"a\x01?b", b"ab", []),
        (b"\x01", b"", []),
        (bytes(range(2, 256)), bytes(range(2, 256)), []),
    ],
)
def test_ctrl_a_starts_a_command(
    escaper: Escaper, typed: bytes, rest: bytes, obeyed: list[str]
) -> None:
    assert escaper.filter(typed) == rest
    assert escaper.obeyed == obeyed


def test_command_may_come_in_two_reads(escaper: Escaper) -> None:
    assert escaper.filter(b"a\x01") + escaper.filter(b"xb") == b"ab"
    assert escaper.obeyed == ["quit"]


def test_ctrl_a_may_be_sent_in_two_reads(escaper: Escaper) -> None:
    assert escaper.filter(b"\x01") + escaper.filter(b"\x01") == b"\x01"
