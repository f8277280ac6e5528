"""What a regex may cost: which may look at once, and which may not."""

import re

import pytest

from vmm.expect.regex_cost import Cost, cost_of


@pytest.mark.parametrize(
    "regex",
    [
        rb"login: $",
        rb"o[kx]",
        rb"^# $",
        rb"x{1,3}y",
        rb"(foo|bar)!",
        rb"(x)\1",
        rb"\bok\B",
    ],
)
def test_short_ones_are_cheap_however_much_there_is_to_look_at(regex: bytes) -> None:
    assert cost_of(re.compile(regex)).is_cheap


@pytest.mark.parametrize(
    ("regex", "newlines"),
    [
        (rb"\[ *\d+\.\d+\] Freeing", 0),
        (rb"eth0.*up", 0),
        (rb"(\d+) of (\d+) tests", 0),
        (rb"test (\S+) \.\.\. (ok|FAILED)", 0),
        (rb"pid (\d+)\r\n", 1),
        (rb"(?:\w+\n){2}", 4),
        (rb"(a|b)*c", 0),
        (rb"(?:[a-z]+ )+\$", 0),
        (rb"(?i)FOO.*bar", 0),
        (rb"(\d+)$", 0),
        (rb"Total:\s+(\d+)", None),
        (rb"(?s)BEGIN.*END", None),
        (rb"[^x]*x", None),
        (rb"(?<=\n)\w+", None),
    ],
)
def test_ordinary_ones_are_affordable_on_short_lines(
    regex: bytes, newlines: int | None
) -> None:
    cost = cost_of(re.compile(regex))
    assert cost.is_affordable
    assert not cost.is_cheap
    assert cost.newlines == newlines


@pytest.mark.parametrize(
    "regex",
    [
        rb"(\w+\s?)+\$ ",
        rb"(\w+\s?)+$",
        rb"(a*)*b",
        rb"(a|a)*b",
        rb"(a|aa)*b",
        rb"(x+x+)+y",
        rb"(?:a?){20}b",
        rb"a?" * 30 + b"a" * 30,
        rb".*.*x",
        rb"(?i)(a|bA?|B)*c",
        rb"(a{0,4000}){2}b",
        rb"((a{1,9}){1,9}){1,9}b",
        rb"(\w+\b)+!",
        rb".*\d+ ms",
        rb"\w*\w+!",
        rb"(.*)\1!",
        rb"(?:(?=\w*)\w)*!",
    ],
)
def test_what_backtracks_is_never_affordable(regex: bytes) -> None:
    assert not cost_of(re.compile(regex)).is_affordable


def test_what_is_not_understood_has_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cost_of(re.compile(rb"(a)?(?(1)b|c)")) == Cost()
    assert cost_of(re.compile(rb"a", re.LOCALE)) == Cost()
    assert cost_of(re.compile(rb"(?i:a)")) == Cost()
    regex = re.compile(rb"seen by nobody yet")
    monkeypatch.delattr("re._parser.parse")
    assert cost_of(regex) == Cost()


def test_what_takes_long_to_judge_has_no_bound() -> None:
    """Each repetition around another doubles the work."""
    depth = 20
    regex = re.compile(b"(" * depth + b"a" + b"+x)" * depth)
    assert cost_of(regex) == Cost()
