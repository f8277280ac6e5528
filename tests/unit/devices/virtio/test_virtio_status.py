"""Status, features and queues' registers, by both transports.

A case is one of the hostile drivers of issue 18, by its number.
"""

import pytest
from support.virtio_echo import LOUD, LOUDER, Echo
from support.virtio_transports import (
    ACKNOWLEDGE,
    AREAS,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    NEEDS_RESET,
    VERSION_1,
    TransportDriver,
)

SET_UP = ACKNOWLEDGE | DRIVER | FEATURES_OK
RUNNING = SET_UP | DRIVER_OK


pytest_plugins = ("support.virtio_fixtures",)


def test_a_driver_finds_the_device_reset(driver: TransportDriver) -> None:
    assert driver.status == 0
    assert driver.get("queue_enable") == 0
    assert driver.get("queue_size_max") == 16
    assert driver.get("config_generation") == 0


def test_device_offers_its_own_bits_and_those_of_the_rings(
    driver: TransportDriver,
) -> None:
    rings = 1 << 28 | 1 << 29 | 1 << 32 | 1 << 40
    assert driver.offered() == 1 << LOUD | 1 << LOUDER | rings


def test_feature_words_beyond_the_second_read_0_and_take_nothing(
    driver: TransportDriver,
) -> None:
    driver.status = ACKNOWLEDGE
    driver.status |= DRIVER
    driver.accept(VERSION_1)
    for select in (2, 3, 0xFFFF_FFFF):
        driver.set("device_feature_select", select)
        assert driver.get("device_feature") == 0
        driver.set("driver_feature_select", select)
        driver.set("driver_feature", 0xFFFF_FFFF)
    driver.status |= FEATURES_OK
    assert driver.status == SET_UP


def test_driver_and_device_come_to_terms(driver: TransportDriver, echo: Echo) -> None:
    driver.start(VERSION_1 | 1 << LOUD)
    assert driver.status == RUNNING
    assert echo.has(LOUD)
    assert not echo.has(LOUDER)
    assert echo.calls.count("activate") == 1
    assert echo.is_active


def test_bits_may_come_together(driver: TransportDriver) -> None:
    driver.status = ACKNOWLEDGE | DRIVER
    assert driver.status == ACKNOWLEDGE | DRIVER


# Case 21: status bits cleared singly, out of order, features too late or wrong


def test_case_21_status_bits_are_not_cleared_singly(driver: TransportDriver) -> None:
    driver.start()
    for status in (RUNNING & ~DRIVER_OK, RUNNING & ~FEATURES_OK, DRIVER_OK, FAILED):
        driver.status = status
        assert driver.status == RUNNING


def test_case_21_each_bit_waits_for_the_one_before(driver: TransportDriver) -> None:
    driver.status = DRIVER
    assert driver.status == 0
    driver.status = ACKNOWLEDGE
    driver.status = ACKNOWLEDGE | FEATURES_OK
    assert driver.status == ACKNOWLEDGE


def test_case_21_driver_ok_waits_for_features_ok(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.status = ACKNOWLEDGE
    driver.status |= DRIVER
    driver.accept(VERSION_1)
    driver.status |= DRIVER_OK
    assert driver.status == ACKNOWLEDGE | DRIVER
    driver.status |= DRIVER_OK | FEATURES_OK
    assert driver.status == SET_UP
    assert "activate" not in echo.calls


def test_case_21_unknown_bits_of_status_do_not_stay(driver: TransportDriver) -> None:
    driver.status = ACKNOWLEDGE
    driver.status |= 16 | 32 | NEEDS_RESET
    assert driver.status == ACKNOWLEDGE


@pytest.mark.parametrize(
    "features",
    [0, VERSION_1 | 1 << 5, VERSION_1 | 1 << 33, VERSION_1 | 1 << LOUDER, 1 << LOUD],
    ids=["no VERSION_1", "never offered", "reserved", "inconsistent", "legacy"],
)
def test_case_21_features_ok_does_not_stick(
    driver: TransportDriver, echo: Echo, features: int
) -> None:
    driver.negotiate(features)
    assert driver.status == ACKNOWLEDGE | DRIVER
    assert echo.negotiated == 0
    driver.status |= DRIVER_OK
    assert "activate" not in echo.calls


def test_a_driver_may_think_again(driver: TransportDriver) -> None:
    driver.negotiate(0)
    driver.accept(VERSION_1)
    driver.status |= FEATURES_OK
    assert driver.status == SET_UP


@pytest.mark.parametrize("status", [0, ACKNOWLEDGE])
def test_case_21_features_are_taken_under_driver_alone(
    driver: TransportDriver, status: int
) -> None:
    driver.status = status
    driver.accept(VERSION_1)
    driver.status = ACKNOWLEDGE
    driver.status |= DRIVER
    driver.status |= FEATURES_OK
    assert driver.status == ACKNOWLEDGE | DRIVER


def test_case_21_features_stay_after_features_ok(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.negotiate(VERSION_1)
    driver.accept(VERSION_1 | 1 << LOUD)
    driver.status |= FEATURES_OK
    driver.status |= DRIVER_OK
    driver.accept(VERSION_1 | 1 << LOUD)
    assert echo.negotiated == VERSION_1


def test_a_driver_that_has_failed_gets_nowhere_before_a_reset(
    driver: TransportDriver,
) -> None:
    driver.negotiate()
    driver.status |= FAILED
    driver.status |= DRIVER_OK
    assert driver.status == SET_UP | FAILED
    driver.set_up(0)
    assert driver.get("queue_enable") == 0
    driver.start()
    assert driver.status == RUNNING


# Case 22: activation fails on the host's side


def test_case_22_activation_fails(driver: TransportDriver, echo: Echo) -> None:
    echo.refuses_to_start = True
    driver.start()
    assert driver.status == RUNNING | NEEDS_RESET
    assert driver.told == ["nobody is there"]
    assert driver.events() == {"config"}
    driver.kick(0)
    assert "handle 0" not in echo.calls
    echo.refuses_to_start = False
    driver.start()
    assert driver.status == RUNNING


# Case 30: DRIVER_OK alone interrupts nobody


def test_case_30_driver_ok_interrupts_nobody(driver: TransportDriver) -> None:
    driver.start()
    assert driver.events() == set()


# Reset


def test_reset_leaves_nothing(driver: TransportDriver, echo: Echo) -> None:
    driver.start(VERSION_1 | 1 << LOUD)
    driver.status = 0
    assert driver.status == 0
    assert echo.calls[-1] == "reset"
    assert (echo.is_active, echo.negotiated) == (False, 0)
    for queue, size in enumerate(echo.queue_sizes):
        driver.set("queue_select", queue)
        assert driver.get("queue_enable") == 0
        assert driver.get("queue_size_max") == size
    driver.status = ACKNOWLEDGE
    driver.status |= DRIVER
    driver.status |= FEATURES_OK  # the features have gone, too
    assert driver.status == ACKNOWLEDGE | DRIVER


def test_machine_reset_is_one(driver: TransportDriver, echo: Echo) -> None:
    driver.start()
    driver.reset_machine()
    assert driver.status == 0
    assert not echo.is_active


# Queues. Case 14 and 16: what can't be is refused when it is enabled


def test_queue_is_set_up(driver: TransportDriver, echo: Echo) -> None:
    driver.negotiate()
    driver.set_up(1, 8)
    queue = echo.queues[1]
    assert queue.is_enabled
    assert queue.size == 8
    assert (queue.desc, queue.driver, queue.device) == driver.rings[1].areas
    assert driver.get("queue_enable") == 1


def test_addresses_have_64_bits(driver: TransportDriver, echo: Echo) -> None:
    driver.negotiate()
    for area in AREAS:
        driver.set(f"queue_{area}_hi", 0x1234_5678)
        driver.set(f"queue_{area}_lo", 0x9ABC_DEF0)
    queue = echo.queues[0]
    assert {queue.desc, queue.driver, queue.device} == {0x1234_5678_9ABC_DEF0}
    driver.set("queue_enable", 1)  # where there is no RAM
    assert driver.get("queue_enable") == 0


@pytest.mark.parametrize("size", [0, 3, 32, 0x8000])
def test_case_16_size_that_cannot_be(driver: TransportDriver, size: int) -> None:
    driver.negotiate()
    driver.set_up(0, size)
    assert driver.get("queue_enable") == 0
    assert len(driver.told) == 1
    driver.set_up(0, 16)
    assert driver.get("queue_enable") == 1


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("address", [0x3F_FFF0, 0x1001], ids=["no RAM", "odd"])
def test_case_14_ring_that_cannot_be(
    driver: TransportDriver, area: str, address: int
) -> None:
    driver.negotiate()
    driver.set_up(0)
    driver.negotiate()
    for name, usual in zip(AREAS, driver.rings[0].areas, strict=True):
        driver.set(f"queue_{name}_lo", address if name == area else usual)
    driver.set("queue_size", 4)
    driver.set("queue_enable", 1)
    assert driver.get("queue_enable") == 0
    assert "queue 0" in driver.told[0]
    assert driver.status == SET_UP


# Case 17: queues' registers after enable or DRIVER_OK


def _try_to_change(driver: TransportDriver, queue: int) -> None:
    driver.set("queue_select", queue)
    driver.set("queue_size", 2)
    for area in AREAS:
        driver.set(f"queue_{area}_lo", 0x8000)
        driver.set(f"queue_{area}_hi", 1)


@pytest.mark.parametrize("status", [SET_UP, RUNNING])
def test_case_17_enabled_queue_stays_what_it_is(
    driver: TransportDriver, echo: Echo, status: int
) -> None:
    driver.negotiate()
    driver.set_up(0)
    driver.status = status
    before = echo.queues[0].state()
    _try_to_change(driver, 0)
    assert echo.queues[0].state() == before


def test_case_17_after_driver_ok_no_queue_is_set_up(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.negotiate()
    driver.set_up(0)
    driver.status |= DRIVER_OK
    before = echo.queues[1].state()
    _try_to_change(driver, 1)
    driver.set_up(1)
    assert echo.queues[1].state() == before


@pytest.mark.parametrize("status", [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER])
def test_case_17_before_features_ok_no_queue_is_set_up(
    driver: TransportDriver, echo: Echo, status: int
) -> None:
    driver.status = status
    before = echo.queues[0].state()
    driver.set_up(0)
    assert echo.queues[0].state() == before


# Case 18: queues that there aren't


@pytest.mark.parametrize("queue", [2, 3, 0x8000, 0xFFFF])
def test_case_18_absent_queue_reads_0_and_takes_nothing(
    driver: TransportDriver, echo: Echo, queue: int
) -> None:
    driver.negotiate()
    before = [each.state() for each in echo.queues]
    driver.set_up(queue)
    driver.set("queue_reset", 1)
    for name in ("queue_size_max", "queue_enable", "queue_reset"):
        assert driver.get(name) == 0
    assert [each.state() for each in echo.queues] == before


def test_case_18_kick_of_an_absent_queue_is_counted(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    driver.kick(2)
    driver.kick(0xFF)
    assert driver.stray_kicks == 2
    assert not [call for call in echo.calls if call.startswith("handle")]


# Case 19: kicks that come too early or too late


def test_case_19_kick_before_driver_ok(driver: TransportDriver, echo: Echo) -> None:
    driver.kick(0)
    driver.negotiate()
    driver.set_up(0)
    driver.kick(0)
    assert "handle 0" not in echo.calls


def test_case_19_kick_of_a_disabled_queue(driver: TransportDriver, echo: Echo) -> None:
    driver.negotiate()
    driver.set_up(0)
    driver.status |= DRIVER_OK
    driver.kick(1)
    assert "handle 1" not in echo.calls
    driver.kick(0)
    assert echo.calls[-1] == "handle 0"


def test_case_19_kick_after_a_reset(driver: TransportDriver, echo: Echo) -> None:
    driver.start()
    driver.status = 0
    driver.kick(0)
    assert "handle 0" not in echo.calls


# The configuration space: cases 26 and 29


def test_config_is_read_by_any_size_at_any_status(driver: TransportDriver) -> None:
    assert driver.read_config(0, 4) == b"\2\0\0\0"
    assert driver.read_config(0, 8) == b"\2\0\0\0\1\0\0\0"
    assert driver.read_config(9, 1) == b"c"
    assert driver.read_config(9, 2) == b"ch"


def test_config_is_written(driver: TransportDriver, echo: Echo) -> None:
    driver.write_config(8, b"name")
    assert echo.tag == b"name"
    driver.write_config(8, b"x")
    assert echo.tag == b"name"


def test_case_26_past_the_end_of_config(driver: TransportDriver, echo: Echo) -> None:
    assert driver.read_config(8, 8) == b"echo\0\0\0\0"
    assert driver.read_config(12, 4) == b"\0\0\0\0"
    driver.write_config(10, b"name")
    driver.write_config(12, b"name")
    driver.write_config(0x80, b"name")
    assert echo.tag == b"echo"


def test_case_29_generation_shows_a_change_between_two_reads(
    driver: TransportDriver, echo: Echo
) -> None:
    before = driver.get("config_generation")
    low = driver.read_config(0, 4)
    echo.capacity = 0x3_0000_0004
    high = driver.read_config(4, 4)
    assert low + high == b"\2\0\0\0\3\0\0\0"  # torn
    assert driver.get("config_generation") != before


def test_case_29_generation_stays_while_nothing_changes(
    driver: TransportDriver,
) -> None:
    before = driver.get("config_generation")
    driver.read_config(0, 8)
    assert driver.get("config_generation") == before


def test_case_29_a_fast_changer_does_not_come_back_to_the_same_number(
    driver: TransportDriver, echo: Echo
) -> None:
    before = driver.get("config_generation")
    driver.read_config(0, 4)
    for _ in range(256):
        echo.capacity += 1
        echo.config_changed()
    assert driver.get("config_generation") != before


def test_config_change_interrupts_an_active_driver(
    driver: TransportDriver, echo: Echo
) -> None:
    echo.config_changed()
    assert driver.events() == set()
    driver.start()
    echo.capacity += 1
    echo.config_changed()
    assert driver.events() == {"config"}


# NEEDS_RESET


def test_a_device_that_fails_says_so_once(driver: TransportDriver, echo: Echo) -> None:
    driver.start()
    echo.fail("its disk is gone")
    echo.fail("its disk is gone")
    assert driver.status == RUNNING | NEEDS_RESET
    assert driver.told == ["its disk is gone"]
    assert driver.events() == {"config"}
    assert driver.transport.get_report() == "Echo needs a reset: its disk is gone"
    driver.start()
    assert driver.status == RUNNING
    assert driver.transport.get_report() == ""


def test_a_driver_does_not_set_needs_reset_nor_clear_it(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.start()
    driver.status = RUNNING | NEEDS_RESET
    assert driver.status == RUNNING
    echo.fail("why not")
    driver.status = RUNNING
    assert driver.status == RUNNING | NEEDS_RESET


def test_a_device_that_fails_before_driver_ok_interrupts_nobody(
    driver: TransportDriver, echo: Echo
) -> None:
    driver.negotiate()
    echo.fail("too early")
    assert driver.status == SET_UP | NEEDS_RESET
    assert driver.events() == set()
