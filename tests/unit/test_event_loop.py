"""EventLoop: timers, descriptors, threads and how it ends; EventFd."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.open_fds import open_fds

from vmm.devices.errors import TriggerError
from vmm.errors import VmmError
from vmm.event_loop import PURGE_MIN, READ, WRITE, EventLoop, GuestClock
from vmm.eventfd import EventFd, EventFdTrigger

pytest_plugins = ("support.loop_fixtures",)

DEADLINE = 10.0
OnLoop = Callable[[Callable[[], object]], None]


# Timers


def test_timers_run_in_the_order_they_are_due(loop: EventLoop) -> None:
    ran: list[str] = []
    done = threading.Event()
    now = loop.now_ns()
    loop.call_at(now + 3, done.set)
    loop.call_at(now + 2, lambda: ran.append("second"))
    loop.call_at(now + 1, lambda: ran.append("first"))
    loop.start()
    assert done.wait(DEADLINE)
    assert ran == ["first", "second"]


def test_timers_due_at_once_run_in_the_order_they_were_set(loop: EventLoop) -> None:
    ran: list[int] = []
    for number in range(5):
        loop.call_at(0, lambda number=number: ran.append(number))  # type: ignore[misc]
    loop.start()
    loop.stop()
    assert ran == [0, 1, 2, 3, 4]


def test_timer_is_not_early(loop: EventLoop) -> None:
    ran_at: list[int] = []
    done = threading.Event()
    due = loop.now_ns() + 2_000_000

    def note() -> None:
        ran_at.append(loop.now_ns())
        done.set()

    loop.start()
    loop.call_at(due, note)
    assert done.wait(DEADLINE)
    assert ran_at[0] >= due


def test_timer_set_while_the_loop_waits_for_a_later_one_is_not_held_up(
    loop: EventLoop, on_loop: OnLoop
) -> None:
    loop.call_at(loop.now_ns() + 3600 * 10**9, lambda: None)
    loop.start()
    on_loop(lambda: None)


def test_cancelled_timer_does_not_run(loop: EventLoop) -> None:
    ran: list[str] = []
    loop.call_at(0, lambda: ran.append("cancelled")).cancel()
    loop.call_at(0, lambda: ran.append("kept"))
    loop.start()
    loop.stop()
    assert ran == ["kept"]


def test_cancelling_after_it_ran_does_nothing(loop: EventLoop, on_loop: OnLoop) -> None:
    loop.start()
    timer = loop.call_at(0, lambda: None)
    on_loop(lambda: None)
    timer.cancel()


def test_timer_may_cancel_one_that_is_due_with_it(loop: EventLoop) -> None:
    ran: list[str] = []
    victim = loop.call_at(1, lambda: ran.append("victim"))
    loop.call_at(0, victim.cancel)
    loop.start()
    loop.stop()
    assert ran == []


def test_timer_set_by_a_timer_waits_for_its_turn(loop: EventLoop) -> None:
    ran: list[str] = []
    done = threading.Event()

    def first() -> None:
        loop.call_soon(third)
        ran.append("first")

    def third() -> None:
        ran.append("third")
        done.set()

    loop.call_at(0, first)
    loop.call_at(0, lambda: ran.append("second"))
    loop.start()
    assert done.wait(DEADLINE)
    assert ran == ["first", "second", "third"]


def test_cancelled_timers_do_not_pile_up(loop: EventLoop) -> None:
    far = loop.now_ns() + 3600 * 10**9
    kept = [loop.call_at(far, lambda: None) for _ in range(10)]
    for _ in range(10 * PURGE_MIN):
        loop.call_at(far, lambda: None).cancel()
    assert len(loop._timers) <= PURGE_MIN
    assert set(kept) <= {timer for _, _, timer in loop._timers}


def test_live_timers_survive_a_purge(loop: EventLoop) -> None:
    ran: list[int] = []
    for number in range(3 * PURGE_MIN):
        loop.call_at(number, lambda number=number: ran.append(number))  # type: ignore[misc]
    loop.start()
    loop.stop()
    assert ran == list(range(3 * PURGE_MIN))


# Threads


def test_call_soon_runs_on_the_loops_thread(loop: EventLoop, on_loop: OnLoop) -> None:
    names: list[str] = []
    loop.start()
    on_loop(lambda: names.append(threading.current_thread().name))
    assert names == ["vmm-events"]


def test_no_call_from_many_threads_is_lost(loop: EventLoop) -> None:
    ran: list[None] = []
    loop.start()

    def call() -> None:
        for _ in range(200):
            loop.call_soon(lambda: ran.append(None))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loop.stop()
    assert len(ran) == 800


# Descriptors


def test_readable_descriptor_is_told(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        got: list[bytes] = []
        done = threading.Event()

        def read() -> None:
            got.append(ours.recv(10))
            done.set()

        loop.watch(ours.fileno(), READ, read)
        loop.start()
        theirs.send(b"key")
        assert done.wait(DEADLINE)
        loop.stop()
    assert got == [b"key"]


def test_watching_again_replaces_the_callback(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ran: list[str] = []
        done = threading.Event()

        def write() -> None:
            ran.append("new")
            loop.unwatch(ours.fileno())
            done.set()

        loop.watch(ours.fileno(), WRITE, lambda: ran.append("old"))
        loop.watch(ours.fileno(), WRITE, write)
        loop.start()
        assert done.wait(DEADLINE)
        loop.stop()
    assert ran == ["new"]


def test_regular_file_is_always_ready(loop: EventLoop, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    got: list[bytes] = []
    done = threading.Event()
    with open(tmp_path / "file", "rb", buffering=0) as file:

        def read() -> None:
            got.append(file.read(1))
            if got[-1] == b"":
                loop.unwatch(file.fileno())
                done.set()

        loop.watch(file.fileno(), READ, read)
        loop.start()
        assert done.wait(DEADLINE)
        loop.stop()
    assert got == [b"a", b"b", b"c", b""]


def test_unwatched_within_a_callback_is_not_told_any_more(loop: EventLoop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    ran: list[int] = []
    done = threading.Event()

    def read(number: int) -> None:
        ran.append(number)
        for ours, _ in pairs:
            loop.unwatch(ours.fileno())
        done.set()

    for number, (ours, theirs) in enumerate(pairs):
        theirs.send(b"x")
        loop.watch(
            ours.fileno(),
            READ,
            lambda number=number: read(number),  # type: ignore[misc]
        )
    loop.start()
    assert done.wait(DEADLINE)
    loop.stop()
    for ours, theirs in pairs:
        ours.close()
        theirs.close()
    assert len(ran) == 1


def test_number_in_use_again_gets_no_call_of_its_predecessor(loop: EventLoop) -> None:
    """A descriptor is closed, and its number watched anew, within one turn."""
    first, second, successor = (EventFd() for _ in range(3))
    ran: list[str] = []
    done = threading.Event()

    def replace(mine: EventFd, other: EventFd) -> None:
        ran.append("predecessor")
        loop.unwatch(mine.fd)
        loop.unwatch(other.fd)
        os.dup2(successor.fd, other.fd)
        loop.watch(other.fd, READ, lambda: ran.append("successor"))
        done.set()

    for mine, other in ((first, second), (second, first)):
        mine.signal()
        loop.watch(
            mine.fd,
            READ,
            lambda mine=mine, other=other: replace(mine, other),  # type: ignore[misc]
        )
    loop.start()
    assert done.wait(DEADLINE)
    loop.stop()
    for fd in (first, second, successor):
        fd.close()
    assert ran == ["predecessor"]


def test_unwatching_what_is_not_watched_does_nothing(loop: EventLoop) -> None:
    with closing(socket.socket()) as never:
        loop.unwatch(never.fileno())


# Its end


def test_stop_runs_what_is_due(loop: EventLoop) -> None:
    ran: list[str] = []
    loop.start()
    loop.call_soon(lambda: ran.append("due"))
    loop.stop()
    assert ran == ["due"]


def test_stop_is_idempotent(loop: EventLoop) -> None:
    loop.start()
    loop.stop()
    loop.stop()


def test_loop_that_never_started_can_be_closed_twice() -> None:
    loop = EventLoop(lambda error: None)
    loop.close()
    loop.close()


def test_closing_leaves_no_descriptor_and_no_thread() -> None:
    before = open_fds(), threading.active_count()
    loop = EventLoop(lambda error: None)
    loop.start()
    loop.close()
    assert (open_fds(), threading.active_count()) == before


def test_callback_that_raises_ends_the_loop_and_is_told() -> None:
    errors: list[Exception] = []
    told = threading.Event()

    def on_error(error: Exception) -> None:
        errors.append(error)
        told.set()

    def fail() -> None:
        raise ValueError("broken")

    with closing(EventLoop(on_error)) as loop:
        loop.start()
        loop.call_soon(fail)
        assert told.wait(DEADLINE)
    assert [str(error) for error in errors] == ["broken"]


def test_what_call_was_given_is_called_though_the_loop_fails() -> None:
    errors: list[str] = []
    called: list[str] = []
    is_inside, may_fail = threading.Event(), threading.Event()

    def fail() -> None:
        is_inside.set()
        assert may_fail.wait(DEADLINE)
        raise ValueError("broken")

    def fail_too() -> None:
        called.append("first")
        raise ValueError("this one too")

    with closing(EventLoop(lambda error: errors.append(str(error)))) as loop:
        loop.start()
        loop.call_soon(fail)
        assert is_inside.wait(DEADLINE)
        loop.call(fail_too)
        loop.call(lambda: called.append("second"))
        assert called == []
        may_fail.set()
        loop.stop()
        assert called == ["first", "second"]
        loop.call(lambda: called.append("later"))
        assert called == ["first", "second", "later"]
    assert errors == ["broken", "this one too"]


def test_what_call_was_given_comes_after_what_was_due_before_it(
    loop: EventLoop, on_loop: OnLoop
) -> None:
    ran: list[str] = []
    loop.start()

    def ask() -> None:
        loop.call_soon(lambda: ran.append("soon"))
        loop.call(lambda: ran.append("call"))

    on_loop(ask)
    loop.stop()
    assert ran == ["soon", "call"]


def test_a_timer_may_be_further_ahead_than_epoll_can_wait(
    loop: EventLoop, on_loop: OnLoop
) -> None:
    loop.call_at(loop.now_ns() + 2**31 * 1_000_000, lambda: None)
    loop.start()
    on_loop(lambda: None)
    on_loop(lambda: None)  # it has waited for the timer in between


def test_a_loop_that_was_stopped_may_be_started_again(
    loop: EventLoop, on_loop: OnLoop
) -> None:
    loop.start()
    loop.stop()
    loop.start()
    on_loop(lambda: None)


def test_a_loop_that_gets_no_thread_may_be_started_again(
    loop: EventLoop, on_loop: OnLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        loop.call(lambda: called.append("meanwhile"))
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(VmmError, match="vmm-events: can't start new thread"):
            loop.start()
    assert called == ["meanwhile"]
    loop.call(lambda: called.append("later"))
    assert called == ["meanwhile", "later"]
    loop.start()
    on_loop(lambda: None)


# EventFd


@pytest.fixture
def eventfd() -> EventFd:
    return EventFd()


def test_signals_add_up(eventfd: EventFd) -> None:
    with closing(eventfd):
        eventfd.signal()
        eventfd.signal()
        assert os.eventfd_read(eventfd.fd) == 2


def test_drain_sets_the_counter_to_zero(eventfd: EventFd) -> None:
    with closing(eventfd):
        eventfd.signal()
        eventfd.drain()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(eventfd.fd)


def test_draining_an_empty_counter_does_not_block(eventfd: EventFd) -> None:
    with closing(eventfd):
        eventfd.drain()


def test_signalling_a_full_counter_does_not_block(eventfd: EventFd) -> None:
    with closing(eventfd):
        os.eventfd_write(eventfd.fd, 2**64 - 2)
        eventfd.signal()


def test_eventfd_is_not_inherited(eventfd: EventFd) -> None:
    with closing(eventfd):
        assert not os.get_inheritable(eventfd.fd)


def test_eventfd_may_be_closed_twice(eventfd: EventFd) -> None:
    eventfd.close()
    eventfd.close()


def test_trigger_signals_its_eventfd() -> None:
    with closing(EventFdTrigger()) as trigger:
        trigger.trigger()
        assert os.eventfd_read(trigger.eventfd.fd) == 1


def test_closed_trigger_is_a_cut_wire() -> None:
    trigger = EventFdTrigger()
    trigger.close()
    trigger.trigger()


def test_kernels_refusal_is_a_trigger_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, value: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "eventfd_write", refuse)
    with (
        closing(EventFdTrigger()) as trigger,
        pytest.raises(TriggerError, match="interrupt eventfd: Bad file descriptor"),
    ):
        trigger.trigger()


# The guest's clock


@pytest.fixture
def guest_clock(loop: EventLoop) -> GuestClock:
    loop.start()
    return GuestClock(loop)


def test_guest_time_stands_still_while_stopped(guest_clock: GuestClock) -> None:
    guest_clock.stop()
    before = guest_clock.now_ns()
    time.sleep(0.01)
    assert guest_clock.now_ns() == before
    guest_clock.start()
    assert before <= guest_clock.now_ns() < before + 5_000_000_000
    guest_clock.stop()
    assert guest_clock.now_ns() > before


def test_a_timer_in_guest_time_is_late_by_the_pause(
    loop: EventLoop, guest_clock: GuestClock
) -> None:
    ran = threading.Event()
    set_at, due_ns = loop.now_ns(), guest_clock.now_ns() + 30_000_000
    guest_clock.call_at(due_ns, ran.set)
    loop.settle(guest_clock.stop)
    time.sleep(0.1)
    assert not ran.is_set()
    guest_clock.start()
    assert ran.wait(DEADLINE)
    assert guest_clock.now_ns() >= due_ns
    assert loop.now_ns() - set_at >= 130_000_000


def test_timers_of_a_stopped_clock_run_in_their_order(
    loop: EventLoop, guest_clock: GuestClock
) -> None:
    ran: list[int] = []
    done = threading.Event()
    loop.settle(guest_clock.stop)
    now_ns = guest_clock.now_ns()
    guest_clock.call_at(now_ns + 3, done.set)
    for number in (2, 1, 0):
        guest_clock.call_at(now_ns + number, lambda number=number: ran.append(number))  # type: ignore[misc]
    guest_clock.call_at(now_ns, lambda: ran.append(-1)).cancel()
    loop.settle(lambda: None)
    assert ran == []
    guest_clock.start()
    assert done.wait(DEADLINE)
    assert ran == [0, 1, 2]


def test_a_cancelled_timer_in_guest_time_never_runs(
    loop: EventLoop, guest_clock: GuestClock
) -> None:
    ran: list[str] = []
    timer = guest_clock.call_at(
        guest_clock.now_ns() + 5_000_000, lambda: ran.append("x")
    )
    loop.settle(guest_clock.stop)
    time.sleep(0.02)  # it came due, and is kept
    timer.cancel()
    guest_clock.start()
    loop.settle(lambda: None)
    assert ran == []


def test_settled_nothing_runs_and_all_descriptors_are_served(loop: EventLoop) -> None:
    served: list[str] = []
    event = EventFd()

    def ring() -> None:
        event.drain()
        served.append("bell")

    loop.watch(event.fd, READ, ring)
    loop.start()
    for _ in range(100):
        served.clear()
        event.signal()
        loop.settle(lambda: served.append("first"))
        assert sorted(served) == ["bell", "first"]
    loop.forget(event.fd, event.close)


def test_a_loop_that_has_ended_is_settled() -> None:
    errors: list[Exception] = []
    loop = EventLoop(errors.append)
    loop.start()

    def fail() -> None:
        raise ValueError("out of order")

    loop.settle(fail)
    assert len(errors) == 1
    loop.close()
