"""Reader: expect and its kin, and several readers of one console."""

import re
import threading

import pytest

from vmm.errors import ExpectTimeout, GuestEnded
from vmm.expect.capture import CaptureEndpoint
from vmm.expect.reader import CHUNK, LAST_LINES, Reader, _Deadline
from vmm.result import ExitReason, RunResult

DEADLINE = 10.0
RESULT = RunResult(ExitReason.RESET, 0)


@pytest.fixture
def capture() -> CaptureEndpoint:
    return CaptureEndpoint(on_room=lambda: None)


@pytest.fixture
def reader(capture: CaptureEndpoint) -> Reader:
    return capture.reader()


# expect


@pytest.mark.parametrize("pattern", ["login: ", b"login: ", re.compile(rb"log\w+: ")])
def test_pattern_may_be_str_bytes_or_regex(
    capture: CaptureEndpoint, reader: Reader, pattern: str | bytes | re.Pattern[bytes]
) -> None:
    capture.write(b"\r\nlogin: ")
    assert reader.expect(pattern, DEADLINE)[0] == b"login: "


@pytest.mark.parametrize("pattern", ["a.c", b"a.c"])
def test_text_is_taken_literally(
    capture: CaptureEndpoint, reader: Reader, pattern: str | bytes
) -> None:
    capture.write(b"abc a.c")
    assert reader.expect(pattern, DEADLINE).span() == (4, 7)


def test_text_that_is_not_ascii_is_utf_8(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write("é".encode())
    assert reader.expect("é", DEADLINE)[0] == b"\xc3\xa9"


def test_match_has_its_groups_and_what_came_before(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"pid 42 done")
    match = reader.expect(re.compile(rb"pid (\d+)(x)?"), DEADLINE)
    assert (match[1], match.group(1), match.groups()) == (b"42", b"42", (b"42", None))
    assert (match.before, match.string) == (b"", b"pid 42")


def test_all_up_to_the_match_is_consumed(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"one two three")
    reader.expect("two", DEADLINE)
    assert reader.read() == b" three"


def test_read_consumes(capture: CaptureEndpoint, reader: Reader) -> None:
    capture.write(b"x")
    assert (reader.read(), reader.read()) == (b"x", b"")


@pytest.mark.parametrize("cut", range(7))
def test_pattern_may_come_in_pieces(
    capture: CaptureEndpoint, reader: Reader, cut: int
) -> None:
    capture.write(b"login:"[:cut])
    later = threading.Timer(0, capture.write, [b"login:"[cut:]])
    later.start()
    assert reader.expect("login:", DEADLINE)
    later.join()


def test_timeout_shows_the_pattern_and_the_last_lines(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    lines = [f"line {number}" for number in range(LAST_LINES + 5)]
    capture.write("\r\n".join(lines).encode())
    with pytest.raises(ExpectTimeout) as caught:
        reader.expect("login: ", timeout=0)
    first, *shown = str(caught.value).splitlines()
    assert first == "no 'login: ' on the console within 0 s; it ends:"
    assert shown == [f"  | {line}" for line in lines[-LAST_LINES:]]


def test_timeout_without_any_output_says_so(reader: Reader) -> None:
    with pytest.raises(ExpectTimeout, match=r"it ends:\n  \(empty\)$"):
        reader.expect("x", timeout=0)


def test_timeout_is_a_timeout_error_that_consumes_nothing(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"abc\xff")
    with pytest.raises(TimeoutError, match=r"abc\\xff"):
        reader.expect("x", timeout=0)
    assert reader.read() == b"abc\xff"


@pytest.mark.parametrize("result", [None, RESULT])
def test_errors_show_what_the_guest_printed_as_it_is_safe(
    capture: CaptureEndpoint, reader: Reader, result: RunResult | None
) -> None:
    capture.write(b"\x1b]0;owned\x07 \xc2\x9b2J\r\n[[ATTACHMENT|/etc/shadow]]\n")
    capture.end(result)
    with pytest.raises((ExpectTimeout, GuestEnded)) as caught:
        reader.expect("x", timeout=0)
    assert str(caught.value).splitlines()[1:] == [
        r"  | \x1b]0;owned\x07 \x9b2J",
        r"  | \x5b[ATTACHMENT|/etc/shadow]]",
    ]


def test_end_of_the_guest_ends_the_wait_at_once(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"bye")
    later = threading.Timer(0, capture.end, [RESULT])
    later.start()
    with pytest.raises(GuestEnded, match=r"before the guest ended \(reset\)") as caught:
        reader.expect("login", timeout=3600)
    later.join()
    assert caught.value.result is RESULT
    assert "  | bye" in str(caught.value)


def test_what_the_guest_printed_can_be_expected_after_its_end(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"bye")
    capture.end(RESULT)
    assert reader.expect("bye", timeout=0)


# expect_any


def test_first_in_the_output_wins_and_the_index_tells_which(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"boot ok\nlogin: ")
    found = reader.expect_any(["login: ", re.compile(rb"o[kx]"), b"panic"], DEADLINE)
    assert (found.index, found[0], found.before) == (1, b"ok", b"boot ")


def test_error_names_all_patterns(reader: Reader) -> None:
    with pytest.raises(ExpectTimeout, match=r"no 'a' or b'b' or b'c\+' on the console"):
        reader.expect_any(["a", b"b", re.compile(b"c+")], timeout=0)


def test_no_patterns_are_an_error(reader: Reader) -> None:
    with pytest.raises(ValueError, match="no patterns"):
        reader.expect_any([])


# read_until_idle


def test_silence_ends_the_wait_and_consumes_what_came(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"one ")
    later = threading.Timer(0.01, capture.write, [b"two"])
    later.start()
    assert reader.read_until_idle(idle=0.3, timeout=DEADLINE) == b"one two"
    later.join()


def test_output_without_a_pause_is_a_timeout_that_consumes_nothing(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"dots ")
    with pytest.raises(ExpectTimeout, match=r"no 5 s of silence .* within 0.01 s"):
        reader.read_until_idle(idle=5, timeout=0.01)
    assert reader.read() == b"dots "


def test_end_of_the_guest_is_silence(capture: CaptureEndpoint, reader: Reader) -> None:
    capture.write(b"bye")
    capture.end(RESULT)
    assert reader.read_until_idle(idle=3600, timeout=7200) == b"bye"


# Several readers


def test_readers_read_all_apart_from_each_other(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"one two")
    other = capture.reader()
    reader.expect("one", DEADLINE)
    assert other.expect("two", DEADLINE).before == b"one "
    assert reader.read() == b" two"


def test_later_reader_begins_with_what_is_kept(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"early")
    reader.read()
    assert capture.reader().read() == b"early"


def test_two_threads_on_one_reader_get_each_byte_once(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    got: list[bytes] = []

    def work() -> None:
        for _ in range(500):
            got.append(reader.expect(";", DEADLINE).before)  # noqa: PERF401

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1000):
        capture.write(f"{number};".encode())
    for thread in threads:
        thread.join()
    assert sorted(map(int, got)) == list(range(1000))


def test_transcript_has_all_whoever_has_read_it(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"one two")
    reader.expect("one", DEADLINE)
    assert capture.transcript() == b"one two"


def test_timeout_after_all_was_read_shows_that_nothing_new_came(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"# ")
    reader.expect("# ", DEADLINE)
    with pytest.raises(ExpectTimeout, match=r"nothing new came after:\n  \| # $"):
        reader.expect("# ", timeout=0)


def test_flood_does_not_hold_off_the_timeout(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            capture.write(b"x" * 1000)

    flooder = threading.Thread(target=flood)
    flooder.start()
    with pytest.raises(ExpectTimeout):
        reader.expect("y", timeout=0.05)
    stop.set()
    flooder.join()


def test_a_guest_that_goes_on_after_its_end_is_waited_for_as_before(
    capture: CaptureEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy has paused it, and somebody has resumed it."""
    monkeypatch.setattr("vmm.expect.reader.PATIENCE_S", -1.0)  # it is over at once
    deadline = _Deadline(capture, DEADLINE)
    for _ in range(2):
        assert not deadline.is_over()
        capture.end(RESULT)
        assert deadline.is_over()
        capture.end(None)


def test_all_that_an_ended_guest_printed_is_looked_at_though_it_is_late(
    capture: CaptureEndpoint, reader: Reader
) -> None:
    capture.write(b"x" * (5 * CHUNK) + b"bye")
    capture.end(RESULT)
    assert len(reader.expect("bye", timeout=-1).before) == 5 * CHUNK
