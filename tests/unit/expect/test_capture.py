"""CaptureEndpoint and EscapeFilter: bytes, wherever they are cut."""

import pytest

from vmm.console.terminal import EscapeFilter
from vmm.expect.capture import LATEST, CaptureEndpoint

DEADLINE = 10.0


# CaptureEndpoint


def test_at_its_limit_it_takes_no_more() -> None:
    capture = CaptureEndpoint(on_room=lambda: None, limit=4)
    assert (capture.write(b"abc"), capture.write(b"def")) == (3, 1)
    assert capture.write(b"ef") == 0


def test_what_comes_before_the_first_reader_is_kept() -> None:
    capture = CaptureEndpoint(on_room=lambda: None, limit=4)
    capture.write(b"abcdef")
    assert capture.reader().read() == b"abcd"


def test_nobody_to_read_holds_nothing_where_nobody_is_awaited() -> None:
    capture = CaptureEndpoint(on_room=lambda: None, limit=4, awaits_reader=False)
    assert (capture.write(b"abc"), capture.write(b"def")) == (3, 3)
    assert capture.transcript() == b"cdef"


def test_room_is_told_once_somebody_has_waited_for_it() -> None:
    told: list[str] = []
    capture = CaptureEndpoint(on_room=lambda: told.append("room"), limit=4)
    capture.write(b"abcdef")
    reader = capture.reader()
    reader.expect("b", DEADLINE)
    assert told == ["room"]
    assert capture.write(b"ef") == 2
    assert reader.read() == b"cdef"


def test_room_is_not_told_while_nobody_waits_for_it() -> None:
    told: list[str] = []
    capture = CaptureEndpoint(on_room=lambda: told.append("room"))
    capture.write(b"abc")
    reader = capture.reader()
    reader.expect("b", DEADLINE)
    reader.read()
    assert told == []


def test_slowest_reader_holds_the_guest_until_it_reads_or_closes() -> None:
    told: list[str] = []
    capture = CaptureEndpoint(on_room=lambda: told.append("room"), limit=4)
    slow, fast = capture.reader(), capture.reader()
    capture.write(b"abcd")
    assert fast.read() == b"abcd"
    assert (capture.write(b"e"), told) == (0, [])
    slow.close()
    slow.close()
    assert told == ["room"]
    assert capture.write(b"efgh") == 4
    assert fast.read() == b"efgh"


@pytest.mark.parametrize(
    ("printed", "lines", "shown"),
    [
        (b"", 2, b""),
        (b"one", 2, b"one"),
        (b"one\ntwo\n$ ", 2, b"two\n$ "),
        (b"one\ntwo\n", 2, b"two\n"),
        (b"\n\n\n", 2, b"\n"),
        (b"one\ntwo", 9, b"one\ntwo"),
        (b"x" * (LATEST + 1), 2, b"x" * LATEST),
    ],
)
def test_latest_lines_are_read_and_then_what_comes(
    printed: bytes, lines: int, shown: bytes
) -> None:
    capture = CaptureEndpoint(on_room=lambda: None)
    capture.write(printed)
    latest = capture.latest(lines)
    capture.write(b" more")
    assert latest.read() == shown + b" more"
    assert capture.reader().read() == printed + b" more"


# EscapeFilter


class Escaper:
    """An EscapeFilter, and which commands it obeyed."""

    def __init__(self) -> None:
        self.obeyed: list[str] = []
        self.filter = EscapeFilter(
            on_quit=lambda: self.obeyed.append("quit"),
            on_help=lambda: self.obeyed.append("help"),
            on_break=lambda typed: self.obeyed.append(f"{typed.decode()}, break"),
            on_save=lambda: self.obeyed.append("save"),
        )


@pytest.fixture
def escaper() -> Escaper:
    return Escaper()


@pytest.mark.parametrize(
    ("typed", "rest", "obeyed"),
    [
        (b"ls\r", b"ls\r", []),
        (b"a\x01xb", b"a", ["quit"]),
        (b"a\x01hb", b"ab", ["help"]),
        (b"a\x01s\x01sb", b"ab", ["save", "save"]),
        (b"\x01\x01", b"\x01", []),
        (b"\x01\x01x", b"\x01x", []),
        (b"\x01\x01\x01x", b"\x01", ["quit"]),
        (b"a\x01bb\x01bc", b"c", ["a, break", "b, break"]),
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
    assert escaper.filter(b"a\x01") + escaper.filter(b"hb") == b"ab"
    assert escaper.obeyed == ["help"]


def test_ctrl_a_may_be_sent_in_two_reads(escaper: Escaper) -> None:
    assert escaper.filter(b"\x01") + escaper.filter(b"\x01") == b"\x01"
