"""Virtqueue against drivers that do anything: by the rules, and not."""

from hypothesis import given
from hypothesis import strategies as st
from support.any_driver import Hooligan, RuleAbider

_WHICH = st.integers(0, (1 << 16) - 1)
_HOW = st.integers(0, (1 << 64) - 1)


@given(_WHICH, st.lists(st.tuples(st.sampled_from(RuleAbider.STEPS), _HOW)))
def test_no_request_is_lost_and_none_changed(
    which: int, steps: list[tuple[str, int]]
) -> None:
    driver = RuleAbider(which)
    for name, how in steps:
        driver.step(name, how)


@given(_WHICH, st.lists(st.tuples(st.sampled_from(Hooligan.STEPS), _HOW)))
def test_no_driver_breaks_more_than_its_ring(
    which: int, steps: list[tuple[str, int]]
) -> None:
    driver = Hooligan(which)
    for name, how in steps:
        driver.step(name, how)
