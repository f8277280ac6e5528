"""Requests on their way, by both transports: kicks, interrupts, resets, snapshots.

A case is one of the hostile drivers of issue 18, by its number.
"""

import pytest
from support.virtio_driver import EVENT_IDX, INDIRECT_DESC, PACKED
from support.virtio_echo import LOUD, Echo
from support.virtio_transports import (
    DRIVER_OK,
    DRIVERS,
    NEEDS_RESET,
    RAM_SIZE,
    VERSION_1,
    TransportDriver,
)

from vmm.devices.errors import InvalidState
from vmm.devices.state import State
from vmm.devices.virtio.queue import Virtqueue

pytest_plugins = ("support.virtio_fixtures",)

RING_RESET = 1 << 40


def answers(driver: TransportDriver, queue: int = 0) -> list[bytes]:
    return [request.data for request in driver.rings[queue].collect()]


@pytest.mark.parametrize("features", [0, EVENT_IDX, INDIRECT_DESC | EVENT_IDX])
def test_a_request_is_answered(driver: TransportDriver, features: int) -> None:
    driver.start(VERSION_1 | 1 << LOUD | features)
    driver.send(0, [b"he", b"llo"], [3, 8])
    assert driver.events() == {"used"}
    assert answers(driver) == [b"HELLO"]


def test_packed_rings_are_offered_by_those_who_can(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.negotiate(VERSION_1 | PACKED)
    assert not driver.status & 8
    echo.packed = True
    driver.start(VERSION_1 | PACKED)
    driver.send(1, [b"packed"], [8])
    assert answers(driver, 1) == [b"packed"]


def test_queues_interrupt_for_themselves(driver: TransportDriver) -> None:
    driver.start()
    driver.rings[1].disable_interrupts()
    driver.send(1, [b"quiet"], [8])
    assert driver.events() == set()
    assert answers(driver, 1) == [b"quiet"]
    driver.send(0, [b"loud"], [8])
    assert driver.events() == {"used"}


def test_what_is_answered_later_interrupts_then(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    echo.holds = True
    driver.send(0, [b"later"], [8])
    assert driver.events() == set()
    echo.answer_all()
    assert driver.events() == {"used"}
    assert answers(driver) == [b"later"]


# Case 20: kicks without end


def test_case_20_kicks_without_chains_cost_a_look_each(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    for _ in range(100):
        driver.kick(0)
    assert echo.calls.count("handle 0") == 100
    assert driver.events() == set()


@pytest.mark.parametrize("name", DRIVERS)
def test_case_20_a_driver_that_never_stops_does_not_keep_the_thread(name: str) -> None:
    class Fed(Echo):
        answered = 0

        def handle(self, queue: Virtqueue) -> None:
            for chain in queue:
                self.answered += 1
                queue.push(chain)
                driver.rings[0].collect()
                driver.rings[0].send([b"more"])

    fed = Fed()
    driver = DRIVERS[name](fed)
    driver.start()
    driver.send(0, [b"first"])
    assert fed.answered == echo_size(driver)
    driver.clock.advance(1)  # the others have had their turn
    assert fed.answered == 2 * echo_size(driver)


def test_case_20_a_queue_is_served_again_once_however_often_that_is_due(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    for _ in range(100):
        echo.transport.serve_again(echo.queues[0])
    driver.clock.advance(1)
    assert echo.calls.count("handle 0") == 1


def echo_size(driver: TransportDriver) -> int:
    return driver.device.queues[0].size


# A broken ring


def break_ring(driver: TransportDriver, queue: int) -> None:
    """Make more available than a ring can have."""
    ring = driver.rings[queue]
    ring.put_word(ring.areas[1] + 2, 0x8000)
    driver.kick(queue)


def test_a_broken_ring_stops_its_queue_alone(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    for _ in range(3):
        break_ring(driver, 0)
    assert driver.status & NEEDS_RESET
    assert driver.events() == {"config"}
    (why,) = driver.told
    assert why.startswith("queue 0: ")
    driver.send(1, [b"alive"], [8])
    assert answers(driver, 1) == [b"alive"]
    driver.start()
    driver.send(0, [b"again"], [8])
    assert answers(driver) == [b"again"]
    assert not driver.status & NEEDS_RESET


def test_a_ring_that_is_found_broken_later_is_told_likewise(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    ring = driver.rings[1]
    ring.put_word(ring.areas[1] + 2, 0x8000)
    with echo.working():
        echo.queues[1].pop()
    assert driver.status & NEEDS_RESET
    assert driver.events() == {"config"}


def test_a_bug_of_the_device_is_no_broken_ring(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()

    def fail() -> None:
        raise ZeroDivisionError

    echo.answer_all = fail  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        driver.send(0, [b"x"], [8])
    assert not driver.status & NEEDS_RESET


# Case 23: a reset with requests in flight


@pytest.mark.parametrize("how", ["status", "machine", "unplug"])
def test_case_23_nothing_comes_after_a_reset(
    driver: TransportDriver, echo: Echo, how: str
) -> None:
    driver.start()
    echo.holds = True
    driver.send(0, [b"hello"], [8])
    ((queue, chain),) = echo.held
    if how == "status":
        driver.status = 0
    elif how == "machine":
        driver.transport.reset()
    else:
        driver.unplug()
    before = driver.ram.read(0, RAM_SIZE)
    with echo.working():
        assert chain.write(b"too late") == 0
        queue.push(chain)
    echo.notify(queue)
    echo.config_changed()
    assert driver.ram.read(0, RAM_SIZE) == before
    assert driver.events() == set()


def test_case_23_a_used_buffer_that_nobody_was_told_of_is_not_told_after_a_reset(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    echo.holds = True
    driver.send(0, [b"hello"], [8])
    ((queue, chain),) = echo.held
    with echo.lock:
        queue.push(chain)
        driver.status = 0
        echo.notify(queue)
    assert driver.events() == set()


def test_case_24_reset_new_rings_go_on(driver: TransportDriver, echo: Echo) -> None:
    driver.start()
    for _ in range(3):
        driver.send(0, [b"one"], [8])
        driver.rings[0].collect()
    driver.start()
    assert echo.queues[0].pop() is None
    driver.send(0, [b"two"], [8])
    assert answers(driver) == [b"two"]
    assert driver.events() == {"used"}


# Case 25: one queue is reset


def test_case_25_queue_is_reset_with_what_the_device_has(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start(VERSION_1 | RING_RESET)
    echo.holds = True
    driver.send(0, [b"lost"], [8])
    driver.send(1, [b"kept"], [8])
    ((_, lost), _) = echo.held
    driver.set("queue_select", 0)
    driver.set("queue_reset", 1)
    assert driver.get("queue_reset") == 0
    assert driver.get("queue_enable") == 0
    assert echo.calls[-1] == "reset queue 0"
    before = driver.ram.read(0, RAM_SIZE)
    with echo.working():
        lost.write(b"lost")
        echo.queues[0].push(lost)
    assert driver.ram.read(0, RAM_SIZE) == before
    echo.answer_all()
    assert answers(driver) == []
    assert answers(driver, 1) == [b"kept"]


def test_case_25_queue_is_set_up_again_with_another_size(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start(VERSION_1 | RING_RESET)
    driver.send(0, [b"before"], [8])
    driver.set("queue_select", 0)
    driver.set("queue_reset", 1)
    driver.set_up(0, 8)
    driver.send(0, [b"after"], [8])
    assert answers(driver) == [b"after"]
    assert echo.queues[0].size == 8
    driver.set_up(0, 4)  # case 17: that is over
    assert echo.queues[0].size == 8


def test_case_25_queue_reset_needs_to_be_negotiated(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    driver.set("queue_select", 0)
    driver.set("queue_reset", 1)
    assert driver.get("queue_enable") == 1
    assert "reset queue 0" not in echo.calls


# Case 67: a state is saved with requests in flight, and kicks


def copy_of(driver: TransportDriver) -> tuple[TransportDriver, Echo]:
    """Another device, restored from JSON, with its RAM and, as it were, its driver."""
    echo = Echo()
    other = type(driver)(echo)
    other.rings, other.features = driver.rings, driver.features
    other.ram.write(0, driver.ram.read(0, RAM_SIZE))
    for ring in other.rings.values():
        ring.ram = other.ram
    state = driver.transport.state()
    assert isinstance(state, State)
    other.transport.restore(type(state).from_json(state.to_json()))
    assert other.transport.state() == state
    return other, echo


def test_case_67_goes_on_elsewhere(driver: TransportDriver) -> None:
    driver.start(VERSION_1 | 1 << LOUD | EVENT_IDX)
    driver.send(0, [b"one"], [8])
    driver.events()
    other, echo = copy_of(driver)
    assert answers(other) == [b"ONE"]
    assert other.status == driver.status
    assert echo.has(LOUD)
    assert echo.is_active
    other.send(1, [b"two"], [8])
    assert answers(other, 1) == [b"TWO"]
    assert "used" in other.events()


def test_case_67_a_kick_that_nobody_has_seen_is_not_lost(
    driver: TransportDriver,
) -> None:
    driver.start()
    driver.rings[0].send([b"kicked"], [8])  # the doorbell has rung, and is gone
    other, _ = copy_of(driver)
    assert answers(other) == []
    other.clock.advance(1)
    assert answers(other) == [b"kicked"]
    assert other.events() == {"used"}


def test_case_67_what_was_in_flight_is_taken_again(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    echo.holds = True
    driver.send(0, [b"in flight"], [16])
    other, _ = copy_of(driver)
    other.clock.advance(1)
    assert answers(other) == [b"in flight"]


def test_case_67_an_interrupt_that_was_not_taken_comes_again(
    driver: TransportDriver,
) -> None:
    driver.start()
    driver.send(0, [b"one"], [8])
    other, _ = copy_of(driver)
    if "mmio" in type(driver).__name__.lower() or "Intx" in type(driver).__name__:
        assert other.events() == {"used"}
    assert answers(other) == [b"one"]


def test_a_device_that_needs_a_reset_still_does_elsewhere(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    echo.fail("its disk is gone")
    other, copy = copy_of(driver)
    assert other.status & NEEDS_RESET
    assert copy.trouble == "its disk is gone"


def test_a_driver_is_told_of_a_configuration_that_is_another_one(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    driver.read_config(0, 8)
    before = driver.get("config_generation")
    state = driver.transport.state()
    driver.events()
    echo.restore = lambda _, /: setattr(echo, "capacity", 3)  # type: ignore[method-assign, assignment]
    driver.transport.restore(state)
    assert "config" in driver.events()
    assert driver.get("config_generation") != before


def test_state_of_another_device_changes_nothing(
    driver: TransportDriver, echo: Echo
) -> None:
    class Larger(Echo):
        queue_sizes = 16, 16

    larger = type(driver)(Larger())
    larger.start()
    larger.negotiate()
    larger.set_up(1, 16)
    driver.start()
    before = driver.transport.state()
    with pytest.raises(InvalidState):
        driver.transport.restore(larger.transport.state())
    assert driver.transport.state() == before
    driver.send(0, [b"still"], [8])
    assert answers(driver) == [b"still"]


def test_state_with_features_that_are_not_offered_changes_nothing(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start(VERSION_1 | 1 << LOUD)
    state = driver.transport.state()
    driver.start(VERSION_1)
    echo.features = 0
    before = driver.transport.state()
    with pytest.raises(InvalidState, match="doesn't offer"):
        driver.transport.restore(state)
    assert driver.transport.state() == before


def test_state_of_a_device_that_refuses_it_changes_nothing(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    echo.capacity = 7
    state = driver.transport.state()
    driver.start(VERSION_1 | 1 << LOUD)
    echo.capacity = 8
    echo.holds = True
    driver.send(0, [b"in flight"], [16])
    before = driver.transport.state()
    restore = echo.restore

    def refuse(own: State | None, /) -> None:
        if getattr(own, "capacity", None) == 7:
            raise InvalidState("it isn't my disk")
        restore(own)

    echo.restore = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(InvalidState, match="isn't my disk"):
        driver.transport.restore(state)
    assert driver.transport.state() == before
    assert echo.is_active
    assert driver.status & DRIVER_OK
    driver.clock.advance(1)
    echo.answer_all()
    assert answers(driver) == [b"IN FLIGHT"]


@pytest.mark.parametrize("name", DRIVERS)
def test_a_device_without_state_of_its_own_has_its_transports(name: str) -> None:
    class Plain(Echo):
        def state(self) -> None:  # type: ignore[override]
            return None

        def restore(self, state: State | None) -> None:
            assert state is None

    driver = DRIVERS[name](Plain())
    driver.start()
    state = driver.transport.state()
    driver.status = 0
    driver.transport.restore(state)
    assert driver.status & DRIVER_OK
