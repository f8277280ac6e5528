"""How long a regex may look at a text: whether that can be done in between, or not.

A search costs what the text is long, times the ways in which a match can be tried from
one place: one, where each repetition must end where it does, as in `\\[ *\\d+\\] `; one
for each byte of a line in `eth0.*up`; ever more in `(\\w+\\s?)+\\$ `. Each way costs
what it looks at: in `.*\\d+ ms` all the digits of a line, for each byte of it. The
bounds here are coarse and on the safe side.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from math import log2
from typing import Any, Final, NamedTuple

LINE: Final = 2048  # bytes that a repetition without an end is counted for
LINES: Final = 8
SHORT: Final = 256  # bytes of a match that may be looked at again at any time
CHEAP: Final = 64  # steps for a byte of the text
AFFORDABLE: Final = 16 * LINE  # for a byte of a text that is no longer than LINE
VISITS: Final = 5000  # of the regex's parts: twice as many with each nested repetition

_ALL: Final = frozenset(range(256))
_CATEGORIES: Final = {
    "CATEGORY_DIGIT": rb"\d",
    "CATEGORY_NOT_DIGIT": rb"\D",
    "CATEGORY_SPACE": rb"\s",
    "CATEGORY_NOT_SPACE": rb"\S",
    "CATEGORY_WORD": rb"\w",
    "CATEGORY_NOT_WORD": rb"\W",
}


class _Part(NamedTuple):
    """A part of a regex, from one place in the text."""

    ways: float
    """In how many it may match there."""
    work: float
    """Bytes that are looked at to try them all."""
    first: frozenset[int]
    """What it may begin with; where it is empty, what follows may."""


class Cost(NamedTuple):
    """What is known of a regex. `steps`: from one place, in a text of LINE bytes."""

    steps: float = float("inf")
    reach: int | None = None
    """Bytes of the longest match; None: it is longer than SHORT, or looks beyond."""
    newlines: int | None = None
    """How many a match has at most; None: more than LINES, or it looks beyond."""

    @property
    def is_cheap(self) -> bool:
        """Whether it may look at any text, at once."""
        return self.reach is not None and self.steps <= CHEAP

    @property
    def is_affordable(self) -> bool:
        """Whether it may look at a text of LINE bytes, at once."""
        return self.steps <= AFFORDABLE


@lru_cache(maxsize=256)
def cost_of(regex: re.Pattern[bytes]) -> Cost:
    """Costs without a bound for what we don't understand."""
    try:
        from re import _parser  # type: ignore[attr-defined]

        tree = _parser.parse(regex.pattern, regex.flags)
        _, most = tree.getwidth()
        survey = _Survey(regex.flags, tree.state.groupwidths)
        steps = survey.sequence(tree, frozenset()).work
    except (ImportError, AttributeError, LookupError, TypeError, ValueError, Warning):
        return Cost()  # another Python's
    except (RecursionError, _TooDeep):
        return Cost()
    if survey.is_odd:
        return Cost()
    if survey.looks_around:
        return Cost(steps)
    reach = most + 1 if most < SHORT else None  # it may end with \B
    newlines = survey.newlines if survey.newlines <= LINES else None
    return Cost(steps, reach, newlines)


class _TooDeep(Exception):
    """It would take long to find out how long a search takes."""


class _Survey:
    """Goes through a parsed regex, from its end to its beginning.

    Source: Lib/re/_parser.py.
    """

    def __init__(self, flags: int, group_widths: list[Any]) -> None:
        self._flags = flags
        self._group_widths = group_widths
        self.is_odd = bool(flags & re.LOCALE)
        self.newlines = 0
        self._times = 1  # that what we are at may be repeated
        self._visits = 0
        self.looks_around = False

    def sequence(
        self, items: Iterable[tuple[Any, Any]], follow: frozenset[int]
    ) -> _Part:
        """Each item is tried as often as what is before it matches."""
        self._visits += 1
        if self._visits > VISITS:
            raise _TooDeep
        whole = _Part(1, 0, follow)
        for op, argument in reversed(list(items)):
            part = self._item(str(op), argument, whole.first)
            work = part.work + part.ways * whole.work
            whole = _Part(part.ways * whole.ways, work, part.first)
        return whole

    def _item(
        self,
        op: str,
        argument: Any,  # noqa: ANN401, re's own
        follow: frozenset[int],
    ) -> _Part:
        if (some := self._bytes(op, argument)) is not None:
            self.newlines += self._times * (ord("\n") in some)
            return _Part(1, 1, some)
        if op == "AT":  # ^, $, \b: they take nothing, but may fail anywhere
            return _Part(1, 1, _ALL)
        if op == "SUBPATTERN":
            _, added, removed, items = argument
            self.is_odd |= bool(added or removed)
            return self.sequence(items, follow)
        if op == "BRANCH":
            return self._branch(argument[1], follow)
        if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, body = argument
            return self._repeat(least, most, body, follow)
        if op == "ATOMIC_GROUP":
            return self.sequence(argument, follow)
        if op in ("ASSERT", "ASSERT_NOT"):
            self.looks_around = True
            return _Part(1, self.sequence(argument[1], _ALL).work, _ALL)
        if op == "GROUPREF":
            _, most = self._group_widths[argument]
            return _Part(1, min(most, LINE), _ALL)
        self.is_odd = True
        return _Part(1, 1, _ALL)

    def _branch(self, branches: list[Any], follow: frozenset[int]) -> _Part:
        """All that may be tried, or the longest if the first byte decides."""
        each = [self.sequence(items, follow) for items in branches]
        first = frozenset[int]().union(*(part.first for part in each))
        decides = sum(len(part.first) for part in each) == len(first)
        ways = (max if decides else sum)(part.ways for part in each)
        return _Part(ways, sum(part.work for part in each), first)

    def _repeat(
        self,
        least: int,
        most: int,
        body: Any,  # noqa: ANN401, re's own
        follow: frozenset[int],
    ) -> _Part:
        least, most = min(least, LINE), min(most, LINE)
        before = self._times
        self._times *= most
        first = self.sequence(body, follow).first
        ways, work, _ = self.sequence(body, follow | first)
        self._times = before
        shortest = body.getwidth()[0]
        if most > 1 and shortest == 0:  # ever another way to do nothing
            return _Part(float("inf"), float("inf"), first | follow)
        starts = first if least else first | follow
        ends = first.isdisjoint(follow)  # the next byte tells whether it goes on
        if ways == 1:
            tries = min(most, LINE // max(1, shortest) + 1)
            if self.looks_around:
                work *= tries
            else:  # what one try takes, the next ones don't look at
                work = min(work * tries, work + 2 * LINE)
            return _Part(1 if ends else most - least + 1, work, starts)
        if most > 1 and most * log2(ways) > log2(AFFORDABLE):
            return _Part(float("inf"), float("inf"), starts)
        tries = sum(ways**count for count in range(most + 1))
        return _Part(
            sum(ways**count for count in range(least, most + 1)), tries * work, starts
        )

    def _bytes(self, op: str, argument: Any) -> frozenset[int] | None:  # noqa: ANN401
        """Those that one of these takes, if it takes one byte."""
        if op == "ANY":
            return _ALL if self._flags & re.DOTALL else _ALL - {ord("\n")}
        if op == "LITERAL":
            return self._cased({argument})
        if op == "NOT_LITERAL":
            return _ALL - self._cased({argument})
        if op != "IN":
            return None
        found: set[int] = set()
        for kind, value in argument:
            if str(kind) == "LITERAL":
                found.add(value)
            elif str(kind) == "RANGE":
                found.update(range(value[0], value[1] + 1))
            elif str(kind) == "CATEGORY":
                found.update(*re.findall(_CATEGORIES[str(value)], bytes(_ALL)))
        negated = str(argument[0][0]) == "NEGATE"
        return _ALL - self._cased(found) if negated else self._cased(found)

    def _cased(self, some: set[int]) -> frozenset[int]:
        if self._flags & re.IGNORECASE:
            both = bytes(some) + bytes(some).swapcase()
            return frozenset(both)
        return frozenset(some)
