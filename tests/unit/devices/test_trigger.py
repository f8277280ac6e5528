"""InterruptLine: wired late, rewired, and as high as its device holds it."""

from support.serial_rig import CountingTrigger

from vmm.devices.trigger import InterruptLine


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
