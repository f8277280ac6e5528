"""BufferedSink: capacity, policies, limits, rate, and who is called when."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.devices.clock import VirtualClock
from vmm.devices.sink import BufferedSink, LossySink

SECOND = 1_000_000_000


class Calls:
    """Counts the calls of a callback."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def with_calls(sink: BufferedSink) -> Calls:
    sink.on_room = calls = Calls()
    return calls


def test_peek_leaves_and_consume_forgets() -> None:
    sink = BufferedSink()
    assert sink.write(b"hello") == 5
    assert sink.peek(3) == b"hel"
    assert sink.peek() == b"hello"
    sink.consume(2)
    assert sink.peek() == b"llo"
    assert len(sink) == 3


def test_on_data_is_called_once_when_it_stops_being_empty() -> None:
    calls = Calls()
    sink = BufferedSink(on_data=calls)
    sink.write(b"")
    assert calls.count == 0
    sink.write(b"a")
    sink.write(b"b")
    assert calls.count == 1
    sink.consume(2)
    sink.write(b"c")
    assert calls.count == 2


def test_block_refuses_what_does_not_fit() -> None:
    sink = BufferedSink(capacity=4)
    assert sink.write(b"abc") == 3
    assert sink.write(b"def") == 1
    assert sink.write(b"ef") == 0
    assert sink.peek() == b"abcd"
    assert (sink.accepted, sink.dropped) == (4, 0)


def test_block_calls_on_room_after_a_refusal_and_once() -> None:
    sink = BufferedSink(capacity=2)
    calls = with_calls(sink)
    sink.write(b"ab")
    sink.consume(1)
    assert calls.count == 0
    sink.write(b"cd")
    sink.consume(0)
    assert calls.count == 0
    sink.consume(1)
    sink.consume(1)
    assert calls.count == 1


def test_on_room_may_write_again() -> None:
    sink = BufferedSink(capacity=2)
    sink.write(b"abc")
    sink.on_room = lambda: None if sink.write(b"xyz") else pytest.fail("no room")
    sink.consume(1)
    assert sink.peek() == b"bx"
    sink.consume(2)
    assert sink.peek() == b"xy"


def test_refusal_without_a_listener_is_harmless() -> None:
    sink = BufferedSink(capacity=1)
    sink.write(b"ab")
    sink.consume(1)
    assert sink.write(b"b") == 1


def test_drop_takes_all_and_counts_what_did_not_fit() -> None:
    sink = BufferedSink(capacity=4, policy="drop")
    calls = with_calls(sink)
    assert sink.write(b"abcdef") == 6
    assert sink.write(b"g") == 1
    assert sink.peek() == b"abcd"
    assert (sink.accepted, sink.dropped) == (4, 3)
    sink.consume(4)
    assert calls.count == 0
    assert sink.write(b"h") == 1
    assert sink.peek() == b"h"


@pytest.mark.parametrize("policy", ["block", "drop"])
def test_total_limit_drops_for_ever_whatever_the_policy(
    policy: Literal["block", "drop"],
) -> None:
    sink = BufferedSink(capacity=4, policy=policy, total_limit=5)
    sink.write(b"abcd")
    sink.consume(4)
    assert sink.write(b"efg") == 3
    sink.consume(1)
    assert sink.write(b"hij") == 3
    assert (sink.accepted, sink.dropped, len(sink)) == (5, 5, 0)


def test_total_limit_of_0_takes_and_keeps_nothing() -> None:
    sink = BufferedSink(total_limit=0)
    assert sink.write(b"abc") == 3
    assert len(sink) == 0


def test_full_buffer_is_refused_before_the_total_limit_is_reached() -> None:
    sink = BufferedSink(capacity=2, total_limit=3)
    assert sink.write(b"abcd") == 2
    assert sink.dropped == 0


def test_rate_lets_a_burst_through_and_then_blocks() -> None:
    sink = BufferedSink(rate=100, burst=10, clock=VirtualClock())
    assert sink.write(bytes(25)) == 10
    assert sink.write(b"x") == 0


def test_rate_calls_on_room_when_tokens_are_there_again() -> None:
    clock = VirtualClock()
    sink = BufferedSink(rate=100, burst=10, clock=clock)
    calls = with_calls(sink)
    sink.write(bytes(11))
    clock.advance(SECOND // 100 - 1)
    assert calls.count == 0
    clock.advance(1)
    assert calls.count == 1
    assert sink.write(b"ab") == 1


def test_rate_holds_in_the_long_run() -> None:
    clock = VirtualClock()
    sink = BufferedSink(rate=1000, burst=50, clock=clock)

    def flood() -> None:
        sink.write(bytes(500))

    sink.on_room = flood
    flood()
    clock.advance(10 * SECOND)
    assert sink.accepted == 50 + 10 * 1000


def test_rate_wakes_at_most_a_hundred_times_a_second() -> None:
    clock = VirtualClock()
    sink = BufferedSink(rate=1_000_000, burst=100_000, clock=clock)
    wakeups = Calls()

    def flood() -> None:
        wakeups()
        sink.consume(len(sink))
        sink.write(bytes(1 << 20))

    sink.on_room = flood
    sink.write(bytes(1 << 20))
    clock.advance(SECOND)
    assert wakeups.count == 100


def test_rate_allows_a_second_by_default_and_saves_no_more() -> None:
    clock = VirtualClock()
    sink = BufferedSink(rate=100, clock=clock)
    clock.advance(60 * SECOND)
    assert sink.write(bytes(1000)) == 100


def test_rate_with_drop_drops() -> None:
    sink = BufferedSink(policy="drop", rate=100, burst=10, clock=VirtualClock())
    assert sink.write(bytes(25)) == 25
    assert (sink.accepted, sink.dropped) == (10, 15)


def test_rate_and_full_buffer_wait_for_the_host() -> None:
    clock = VirtualClock()
    sink = BufferedSink(capacity=5, rate=100, burst=10, clock=clock)
    calls = with_calls(sink)
    assert sink.write(bytes(8)) == 5
    clock.advance(SECOND)
    assert calls.count == 0
    sink.consume(5)
    assert calls.count == 1


def test_rate_and_full_buffer_wait_for_both() -> None:
    clock = VirtualClock()
    sink = BufferedSink(capacity=10, rate=100, burst=10, clock=clock)
    calls = with_calls(sink)
    assert sink.write(bytes(11)) == 10
    sink.consume(10)
    assert calls.count == 0
    clock.advance(SECOND)
    assert calls.count == 1


def test_rate_timer_leaves_a_full_buffer_to_consume() -> None:
    clock = VirtualClock()
    sink = BufferedSink(capacity=10, rate=100, burst=10, clock=clock)
    calls = with_calls(sink)
    sink.write(bytes(11))
    sink.write(b"x")
    clock.advance(SECOND)
    assert calls.count == 0
    sink.consume(1)
    assert calls.count == 1


@pytest.mark.parametrize("count", [-1, 4])
def test_consume_refuses_what_is_not_there(count: int) -> None:
    sink = BufferedSink()
    sink.write(b"abc")
    with pytest.raises(ValueError, match=f"consume\\({count}\\) of 3"):
        sink.consume(count)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 0}, "capacity is 0"),
        ({"total_limit": -1}, "total_limit is -1"),
        ({"rate": 0, "clock": VirtualClock()}, "rate is 0"),
        ({"rate": 5, "burst": 0, "clock": VirtualClock()}, "burst is 0"),
        ({"policy": "wait"}, "policy is 'wait'"),
        ({"rate": 5}, "rate is 5, which needs a clock"),
        ({"burst": 5}, "burst is 5, which needs a rate"),
    ],
)
def test_argument_out_of_range_is_named(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BufferedSink(**arguments)


def test_it_is_a_lossy_sink() -> None:
    assert isinstance(BufferedSink(), LossySink)


@given(st.lists(st.one_of(st.binary(max_size=12), st.integers(0, 12))))
def test_block_gives_out_what_it_took_in_order(steps: list[bytes | int]) -> None:
    sink = BufferedSink(capacity=16)
    taken, given_out = bytearray(), bytearray()
    for step in steps:
        if isinstance(step, bytes):
            taken += step[: sink.write(step)]
        else:
            data = sink.peek(step)
            sink.consume(len(data))
            given_out += data
        assert len(sink) <= 16
    assert given_out + sink.peek() == taken
    assert sink.accepted == len(taken)
