"""Search: patterns in a stream, wherever it is cut."""

import itertools
import math
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.expect.found import IsOver, SearchAborted
from vmm.expect.regex_cost import LINE
from vmm.expect.regex_process import RegexProcesses
from vmm.expect.search import NEAR, WINDOW, Pattern, Search

TEXT = b"aab aabab\nab#12#\n\n34"
LONG_LINE = b"x" * (LINE + 1)
CATASTROPHE = re.compile(rb"(\w+\s?)+\$ ")
PROCESSES = RegexProcesses()


@pytest.fixture(autouse=True, scope="module")
def _processes_end() -> Iterator[None]:
    yield
    PROCESSES.close()


def search_for(*patterns: Pattern) -> Search:
    return Search(patterns, PROCESSES.first_match)


@given(cuts=st.lists(st.integers(0, len(TEXT))))
@pytest.mark.parametrize(
    "pattern",
    [
        "abab",
        re.compile("b a"),
        re.compile(rb"b\Ba"),
        re.compile(rb"#\d+#"),
        re.compile(rb"#\d+#\n\n\d+4"),
        re.compile(rb"\s+34"),
        re.compile(rb"(?<=b\n)ab"),
        re.compile(rb"(a+b)+ab\n"),
        re.compile(rb"([ab]+ ?)+\n"),
    ],
)
def test_match_is_the_same_wherever_the_stream_is_cut(
    pattern: str | re.Pattern[bytes] | re.Pattern[str], cuts: list[int]
) -> None:
    whole = search_for(pattern)
    expected = whole.feed(TEXT)
    assert expected is not None
    search = search_for(pattern)
    places = [0, *sorted(cuts), len(TEXT)]
    found = None
    for start, end in itertools.pairwise(places):
        found = found or search.feed(TEXT[start:end])
    assert found is not None
    assert search.place(found[0].start()) == whole.place(expected[0].start())


def test_str_regex_finds_utf_8() -> None:
    search = search_for(re.compile("GR\u00dc(SSE|\u00df)", re.IGNORECASE))
    found = search.feed("grÜß".encode())
    assert found is not None
    assert found[0][1] == "ß".encode()


def test_places_count_from_the_streams_beginning() -> None:
    search = search_for("needle")
    search.restart(1000)
    for _ in range(5):
        assert search.feed(b"x" * WINDOW) is None
    assert search.next == 1000 + 5 * WINDOW
    found = search.feed(b"needle")
    assert found is not None
    assert search.place(found[0].start()) == 1000 + 5 * WINDOW


def test_what_is_remembered_is_bounded() -> None:
    search = search_for(re.compile(b"never"))
    for _ in range(20):
        search.feed(b"x" * (WINDOW // 2))
    assert len(search._window) <= 2 * WINDOW


def test_text_longer_than_the_window_is_found() -> None:
    text = b"x" * WINDOW + b"y"
    search = search_for(text)
    assert search.feed(b"x" * 3 * WINDOW) is None
    assert search.feed(b"y") is not None


def test_what_is_near_is_found_at_once_and_the_rest_by_a_look() -> None:
    search = search_for(re.compile(rb"(?s)BEGIN.*END"))
    search.due = math.inf
    assert search.feed(b"." + b"BEGIN" + b"x" * 5 * NEAR) is None
    assert search.feed(b"END") is None
    assert search.owes_look
    found = search.look()
    assert found is not None
    assert found[0].start() == 1
    assert not search.owes_look
    near = search.feed(b"BEGIN END")
    assert near is not None
    assert near[0].start() == 1  # of two the first, though it is far away


def test_look_that_takes_too_long_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_: object, __: object, is_over: IsOver) -> None:
        while not is_over():
            pass
        raise SearchAborted

    monkeypatch.setattr("vmm.expect.search.LOOK_S", 0.01)
    search = Search([CATASTROPHE], endless)
    began = time.monotonic()
    assert search.look() is None
    assert search.due > began + 2 * 0.01
    with pytest.raises(SearchAborted):
        search.look(lambda: True)
    with pytest.raises(SearchAborted):
        search.feed(b"x", lambda: True)
    assert search.owes_look


@pytest.mark.parametrize("where", [b"", LONG_LINE])
def test_match_of_another_process_is_as_one_of_ours(where: bytes) -> None:
    regex = re.compile(rb"(?P<name>e\w+?)\d(x)?:.*( u.)$")
    text = where + b" eth0: is up"
    found = search_for("never", regex).feed(text)
    expected = regex.search(text)
    assert found is not None
    assert expected is not None
    match, index = found
    assert index == 1
    assert (match.start(), match.end()) == expected.span()
    assert match.groups() == expected.groups() == (b"eth", None, b" up")
    assert (match["name"], match[0]) == (b"eth", b"eth0: is up")
    for unknown in (4, -1, "other"):
        with pytest.raises(IndexError, match="no such group"):
            match[unknown]
