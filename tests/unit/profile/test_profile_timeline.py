"""ConsoleTimeline: lines as they were printed, and never more than fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.profile import timeline
from vmm.profile.timeline import ConsoleTimeline, Mark


class Clock:
    """Goes on by one with every look at it."""

    def __init__(self) -> None:
        self.now = 0

    def now_ns(self) -> int:
        self.now += 1
        return self.now

    def mark(self) -> Mark:
        return Mark(self.now_ns(), exits=self.now, device_ns=0)


@pytest.fixture
def console() -> ConsoleTimeline:
    clock = Clock()
    return ConsoleTimeline(clock.now_ns, clock.mark)


def texts(console: ConsoleTimeline) -> list[str]:
    return [line.text for line in console.lines]


def test_a_line_begins_at_its_first_byte_and_ends_at_its_last(
    console: ConsoleTimeline,
) -> None:
    for byte in (b"a", b"b", b"\n", b"c", b"\n"):
        console.feed(byte)
    assert [(line.start.ns, line.end.ns) for line in console.lines] == [(1, 4), (5, 7)]


def test_several_lines_may_come_at_once(console: ConsoleTimeline) -> None:
    console.feed(b"one\ntwo\n\nthr")
    console.feed(b"ee\n")
    assert texts(console) == ["one", "two", "", "three"]


def test_a_line_that_a_reader_would_obey_is_broken(console: ConsoleTimeline) -> None:
    """Though it is whole only once its colours are gone."""
    console.feed(b"[\x1b[0m[ATTACHMENT|/etc/shadow]]\n::error::\x9b\n")
    assert texts(console) == [
        r"\x5b[ATTACHMENT|/etc/shadow]]",
        r"\x3a:error::\x9b",
    ]


def test_carriage_returns_at_the_end_are_not_shown(console: ConsoleTimeline) -> None:
    console.feed(b"one\r\ntwo\r\r\n")
    assert texts(console) == ["one", "two"]


def test_a_prompt_is_a_line_once_the_guest_has_ended(console: ConsoleTimeline) -> None:
    for byte in (b"$", b" "):
        console.feed(byte)
    assert console.lines == []
    console.break_line()
    console.break_line()
    assert texts(console) == ["$ "]
    assert console.lines[0].end.ns == 3


def test_terminal_control_sequences_are_not_shown(console: ConsoleTimeline) -> None:
    console.feed(b"[\x1b[0;32m  OK  \x1b[0m] Started\x1b[K.\n")
    assert texts(console) == ["[  OK  ] Started."]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x07bell", "\\x07bell"),
        (b"over\rwritten", "over\\rwritten"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("right\u202eleft".encode(), "right\\u202eleft"),
        ("käse".encode(), "käse"),
    ],
)
def test_what_is_shown_is_printable(
    console: ConsoleTimeline, data: bytes, shown: str
) -> None:
    console.feed(data + b"\n")
    assert texts(console) == [shown]


@given(st.binary(max_size=400))
def test_any_bytes_are_shown_as_one_printable_line(data: bytes) -> None:
    clock = Clock()
    console = ConsoleTimeline(clock.now_ns, clock.mark)
    console.feed(data.replace(b"\n", b"") + b"\n")
    assert texts(console)[0].isprintable()


def test_a_line_without_end_is_cut(console: ConsoleTimeline) -> None:
    for _ in range(1000):
        console.feed(b"x")
    console.feed(b"y" * 1000 + b"\n")
    (line,) = console.lines
    assert line.data == b"x" * timeline.MAX_LINE
    assert line.cut == 2000 - timeline.MAX_LINE
    assert line.text.endswith(f"x … and {line.cut} bytes")


def test_lines_without_end_are_counted_and_no_longer_kept(
    console: ConsoleTimeline,
) -> None:
    console.feed(b"\n" * (timeline.MAX_LINES + 5))
    assert len(console.lines) == timeline.MAX_LINES
    assert console.count == timeline.MAX_LINES + 5
