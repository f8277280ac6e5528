"""Search: patterns in a stream, wherever it is cut."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.search import WINDOW, Search

TEXT = b"aab aabab ab#12#"


@given(cuts=st.lists(st.integers(0, len(TEXT))))
@pytest.mark.parametrize("pattern", ["abab", re.compile(rb"#\d+#"), re.compile("b a")])
def test_match_is_the_same_wherever_the_stream_is_cut(
    pattern: str | re.Pattern[bytes] | re.Pattern[str], cuts: list[int]
) -> None:
    whole = Search([pattern])
    expected = whole.feed(TEXT)
    assert expected is not None
    search = Search([pattern])
    places = [0, *sorted(cuts), len(TEXT)]
    found = None
    for start, end in itertools.pairwise(places):
        found = found or search.feed(TEXT[start:end])
    assert found is not None
    assert search.place(found[0].start()) == whole.place(expected[0].start())


def test_str_regex_finds_utf_8() -> None:
    search = Search([re.compile("GR\u00dc(SSE|\u00df)", re.IGNORECASE)])
    found = search.feed("grÜß".encode())
    assert found is not None
    assert found[0][1] == "ß".encode()


def test_places_count_from_the_streams_beginning() -> None:
    search = Search(["needle"])
    search.restart(1000)
    for _ in range(5):
        assert search.feed(b"x" * WINDOW) is None
    assert search.next == 1000 + 5 * WINDOW
    found = search.feed(b"needle")
    assert found is not None
    assert search.place(found[0].start()) == 1000 + 5 * WINDOW


def test_what_is_remembered_is_bounded() -> None:
    search = Search([re.compile(b"never")])
    for _ in range(20):
        search.feed(b"x" * (WINDOW // 2))
    assert len(search._window) <= 2 * WINDOW
