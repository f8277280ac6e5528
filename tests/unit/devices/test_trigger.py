"""InterruptLine: wired late, rewired, and as high as its device holds it."""

from typing import Any

from support.serial_rig import CountingTrigger

from vmm.devices.trigger import Interrupt, InterruptLine


def test_an_unwired_line_drops_edges() -> None:
    line, target = InterruptLine(), CountingTrigger()
    line.trigger()
    line.connect(target)
    assert target.edges == 0
    line.trigger()
    line.connect(None)
    line.trigger()
    assert target.edges == 1


def test_a_level_that_is_held_reaches_what_is_connected_later() -> None:
    line, target, next_one = InterruptLine(), CountingTrigger(), CountingTrigger()
    line.set_level(True)
    line.connect(target)
    assert target.is_high
    line.connect(next_one)
    line.set_level(False)
    assert (target.is_high, next_one.is_high) == (True, False)


_SLOT: Any = InterruptLine.__dict__["_target"]


class _LineThatIsCut(InterruptLine):
    """Disconnected by another thread right after a look at it."""

    __slots__ = ()

    def _look(self) -> Interrupt | None:
        target: Interrupt | None = _SLOT.__get__(self)
        self.connect(None)
        return target

    _target = property(_look, _SLOT.__set__)


def test_a_line_that_is_cut_meanwhile_has_passed_on_what_came_before() -> None:
    line, target = _LineThatIsCut(), CountingTrigger()
    line.connect(target)
    line.trigger()
    line.connect(target)
    line.set_level(True)
    assert (target.edges, target.is_high) == (1, True)
    line.trigger()
    assert target.edges == 1
