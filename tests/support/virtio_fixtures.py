"""A virtio device and its driver, by each transport."""

import pytest

from support.virtio_echo import Echo
from support.virtio_transports import DRIVERS, TransportDriver


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, echo: Echo) -> TransportDriver:
    """Of `echo`."""
    return DRIVERS[request.param](echo)
