"""A place for an endpoint; its loop is that of loop_fixtures."""

from collections.abc import Iterator

import pytest

from support.endpoint_rig import OnLoop, Rig
from vmm.event_loop import EventLoop


@pytest.fixture
def rig(loop: EventLoop, on_loop: OnLoop) -> Iterator[Rig]:
    """Whose things are closed after the loop has stopped."""
    rig = Rig(loop, on_loop)
    yield rig
    loop.stop()
    rig.stack.close()
