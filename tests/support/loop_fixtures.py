"""An event loop for tests, and a way to look at what runs on it."""

import threading
from collections.abc import Callable, Iterator

import pytest

from vmm.event_loop import EventLoop

DEADLINE = 10.0  # seconds; for what takes a millisecond when all is well

OnLoop = Callable[[Callable[[], object]], None]


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    """An event loop that has not started; no callback may raise."""
    errors: list[Exception] = []
    loop = EventLoop(errors.append)
    yield loop
    loop.close()
    assert errors == []


@pytest.fixture
def on_loop(loop: EventLoop) -> OnLoop:
    """Runs a callable on the loop's thread, and waits until it has."""

    def run(callback: Callable[[], object]) -> None:
        done = threading.Event()

        def call() -> None:
            callback()
            done.set()

        loop.call_soon(call)
        assert done.wait(DEADLINE)

    return run
