"""Starts consoles for tests; its loop is that of loop_fixtures."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.console_rig import Rig, Start
from vmm.event_loop import EventLoop


@pytest.fixture
def stack(loop: EventLoop) -> Iterator[ExitStack]:
    """For what is closed after the loop has stopped."""
    with ExitStack() as stack:
        yield stack
        loop.stop()


@pytest.fixture
def start(loop: EventLoop, stack: ExitStack) -> Start:
    """Makes a console and starts its loop."""

    def make(serial: str, *tee: str) -> Rig:
        rig = Rig(loop, serial, *tee)
        stack.callback(rig.console.close)
        rig.console.power_on()
        loop.start()
        return rig

    return make
