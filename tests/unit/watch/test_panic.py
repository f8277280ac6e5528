"""PanicWatch: the kernel's last words, wherever the output is cut."""

import itertools
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stopped_clock import StoppedClock

from vmm.devices.clock import VirtualClock
from vmm.watch.panic import (
    LINE_MAX,
    LOG_HALF,
    PATIENCE_NS,
    QUIET_NS,
    TOLD,
    PanicWatch,
    when_silent,
)

PANIC_LINE = "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs"
LOG = b"[    0.9] ok\r\n" + PANIC_LINE.encode() + b"\r\n[    1.1] CPU: 0\r\n"
MESSAGE = "Kernel panic - not syncing: VFS: Unable to mount root fs"
KEPT = f"{PANIC_LINE}\n[    1.1] CPU: 0\n"


class Fed(PanicWatch):
    """A watch that is fed one piece after the other."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__(self._count)
        self.news = 0
        self._position = 0
        for piece in pieces:
            self.add(piece)

    def _count(self) -> None:
        self.news += 1

    def add(self, data: bytes) -> None:
        self.feed(self._position, data)
        self._position += len(data)


@pytest.mark.parametrize("cut", range(len(LOG) + 1))
def test_panic_is_found_wherever_the_output_is_cut(cut: int) -> None:
    watch = Fed(LOG[:cut], LOG[cut:])
    assert (watch.line, watch.oops, watch.news) == (MESSAGE, KEPT, 1)


@settings(deadline=None)  # the machine may be busy
@given(cuts=st.lists(st.integers(0, len(LOG))))
def test_panic_is_found_in_any_pieces(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(LOG)]
    watch = Fed(*(LOG[start:end] for start, end in itertools.pairwise(places)))
    assert (watch.line, watch.oops, watch.news) == (MESSAGE, KEPT, 1)


def test_output_without_a_panic_has_none() -> None:
    watch = Fed(b"Kernel panic? - no, not syncing; DEBUG: [#1]\n" * 100)
    assert (watch.line, watch.oops, watch.news) == (None, "", 0)


def test_first_panic_is_kept() -> None:
    watch = Fed(LOG, b"Kernel panic - not syncing: another\n")
    assert (watch.line, watch.news) == (MESSAGE, 1)


def test_endless_panic_line_is_bounded() -> None:
    watch = Fed(b"Kernel panic - not syncing: ", *[b"x" * 100] * 100)
    assert watch.line is not None
    assert len(watch.line) == LINE_MAX


def test_bytes_that_are_no_text_are_replaced() -> None:
    watch = Fed(b"Kernel panic - not syncing: \xff\n")
    assert watch.line == "Kernel panic - not syncing: \N{REPLACEMENT CHARACTER}"


def test_bytes_shown_ahead_count_once_when_their_turn_comes() -> None:
    watch = Fed(LOG[:40])
    watch.feed(40, LOG[40:])
    watch.feed(40, LOG[40:60])
    watch.feed(60, LOG[60:])
    assert (watch.line, watch.oops) == (MESSAGE, KEPT)


# The log


@pytest.mark.parametrize(
    "line",
    [
        "[ 1.0] BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "[ 1.0] kernel BUG at lib/list_debug.c:29!",
        "[ 1.0] Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "[ 1.0] divide error: 0000 [#1]",
        "[ 1.0] general protection fault, probably for non-canonical address",
        "BUG: soft lockup - CPU#0 stuck for 22s!",
        "Kernel panic - not syncing: without a time stamp",
    ],
)
def test_log_starts_with_the_line_that_tells_of_an_oops(line: str) -> None:
    watch = Fed(b"before\n", line.encode(), b"\nafter\n")
    assert watch.oops == f"{line}\nafter\n"


def test_a_programs_fault_is_no_oops() -> None:
    watch = Fed(b"traps: a.out[7] general protection fault ip:401000 sp:7ffc0 error:0")
    assert watch.oops == ""


def test_panic_that_follows_an_oops_is_found_and_logged() -> None:
    watch = Fed(b"Oops: 0000 [#1]\n", b"trace\n" * 10, LOG)
    assert watch.line == MESSAGE
    assert watch.oops.startswith("Oops: 0000 [#1]\ntrace\n")
    assert watch.oops.endswith("CPU: 0\n")


def test_log_keeps_its_beginning_and_its_end() -> None:
    watch = Fed(b"Oops: first\n", *[b"." * 1000] * 200, b"last")
    assert watch.oops.startswith("Oops: first\n...")
    assert watch.oops.endswith("...last")
    assert f"[{200_016 - 2 * LOG_HALF} bytes left out]" in watch.oops
    assert len(watch.oops) < 2 * LOG_HALF + 100


# The next boot


def test_a_new_boot_has_not_panicked_and_keeps_the_log() -> None:
    watch = Fed(LOG)
    watch.restart(len(LOG))
    assert (watch.line, watch.oops) == (None, KEPT)


def test_what_the_old_boot_printed_counts_not_for_the_new() -> None:
    watch = Fed()
    watch.restart(len(LOG) + 3)
    watch.feed(0, LOG + b"old" + b"new")
    assert (watch.line, watch.news) == (None, 0)
    watch.feed(len(LOG) + 6, b" BUG: here\n")
    assert watch.oops == "new BUG: here\n"


def test_callback_may_look_at_the_watch() -> None:
    lines: list[str | None] = []
    watch = PanicWatch(lambda: lines.append(watch.line))
    thread = threading.Thread(target=watch.feed, args=(0, LOG), daemon=True)
    thread.start()
    thread.join(10)
    assert lines == [MESSAGE]


# The silence after it


class Printer:
    """A guest that prints a byte every `period_ns`, `count` times."""

    def __init__(self, clock: VirtualClock, period_ns: int, count: int) -> None:
        self.printed = 0
        self.done_ns: list[int] = []
        for number in range(1, count + 1):
            clock.call_at(number * period_ns, self._print)
        when_silent(
            clock, lambda: self.printed, lambda: self.done_ns.append(clock.now_ns())
        )

    def _print(self) -> None:
        self.printed += 1


def test_silence_is_waited_for() -> None:
    clock = VirtualClock()
    printer = Printer(clock, QUIET_NS // 2, 5)
    clock.advance(PATIENCE_NS * 2)
    last = 5 * QUIET_NS // 2
    assert [
        last + QUIET_NS <= at <= last + 1.3 * QUIET_NS for at in printer.done_ns
    ] == [True]


def test_patience_ends_though_the_guest_prints_on() -> None:
    clock = VirtualClock()
    printer = Printer(clock, QUIET_NS // 2, 1000)
    clock.advance(PATIENCE_NS * 2)
    assert printer.done_ns == [PATIENCE_NS]


def test_a_report_is_not_over_because_we_were_stopped() -> None:
    clock = StoppedClock()
    printer = Printer(clock, QUIET_NS // 2, 4)
    clock.advance(QUIET_NS // 2)
    clock.stand_still(0)
    clock._now_ns += 10 * PATIENCE_NS  # all that was due runs now, in its order
    clock.advance(0)
    assert (printer.printed, printer.done_ns) == (4, [])


# Words, and what else there is


def test_words_alone_prove_nothing() -> None:
    watch = Fed(LOG)
    assert (watch.line, watch.detail, watch.is_proven) == (MESSAGE, MESSAGE, False)


def test_the_detail_has_every_sign() -> None:
    watch = Fed(LOG)
    watch.panic_told()
    watch.prove("a reset follows")
    assert watch.is_proven
    assert watch.detail == f"{MESSAGE} (pvpanic tells of it, a reset follows)"


def test_words_that_are_dismissed_were_none_and_the_next_are_news() -> None:
    watch = Fed(b"# echo Kernel panic - not syncing: quoted")
    watch.dismiss()
    assert (watch.line, watch.detail, watch.oops, watch.news) == (None, "", "", 1)
    watch.add(b" still the same\r\nand more\r\n")
    assert (watch.line, watch.news) == (None, 1)
    watch.add(LOG)
    assert (watch.line, watch.oops, watch.news) == (MESSAGE, KEPT, 2)


def test_a_log_that_an_oops_began_outlives_words_that_are_dismissed() -> None:
    watch = Fed(b"BUG: real\nKernel panic - not syncing: quoted\n")
    watch.dismiss()
    assert watch.line is None
    assert watch.oops.startswith("BUG: real\n")


def test_a_panic_that_is_proven_is_not_dismissed() -> None:
    watch = Fed(LOG)
    watch.prove("its interrupts stay off")
    watch.dismiss()
    assert watch.line == MESSAGE


@pytest.mark.parametrize(
    ("before", "by_printk"),
    [
        (b"", True),
        (b"a line\r\n", True),
        (b"<0>", True),
        (b"[    1.234567] ", True),
        (b"# a prompt[    1.234567] ", True),
        (b"[    1.234567][   T12] ", True),
        (b"user text: ", False),
        (b"grep '", False),
        (b"x" * 1000, False),
    ],
)
def test_the_kernels_lines_are_told_from_others(before: bytes, by_printk: bool) -> None:
    line = b"Kernel panic - not syncing: gone\n"
    for cut in range(len(before + line) + 1):
        data = before + line
        assert Fed(data[:cut], data[cut:]).by_printk == by_printk


@pytest.mark.parametrize(
    "line", [b"[    2.0] reboot: Restarting system\n", b"sysrq: Resetting\n"]
)
def test_a_restart_in_order_is_what_follows_the_words(line: bytes) -> None:
    assert not Fed(line, LOG).restarts_in_order
    assert not Fed(line + LOG).restarts_in_order
    for cut in range(len(line)):
        assert Fed(LOG + line[:cut], line[cut:]).restarts_in_order


# Told by pvpanic


def test_a_panic_that_is_told_is_news_once_and_has_a_line_of_ours() -> None:
    watch = Fed()
    watch.panic_told()
    watch.panic_told()
    assert (watch.line, watch.news) == (TOLD, 1)


def test_a_panic_told_before_its_line_is_news_once_and_has_the_line() -> None:
    watch = Fed()
    watch.panic_told()
    watch.add(LOG)
    assert (watch.line, watch.news) == (MESSAGE, 1)


def test_a_panic_told_after_its_line_is_no_news() -> None:
    watch = Fed(LOG)
    watch.panic_told()
    assert (watch.line, watch.news) == (MESSAGE, 1)


def test_a_crash_kernel_is_told_and_is_no_end() -> None:
    watch = Fed()
    assert not watch.has_crash_kernel
    watch.crash_kernel_told()
    assert watch.has_crash_kernel
    assert (watch.line, watch.news) == (TOLD, 0)


def test_what_was_told_is_forgotten_when_the_guest_boots_again() -> None:
    watch = Fed()
    watch.crash_kernel_told()
    watch.restart(0)
    assert (watch.line, watch.has_crash_kernel) == (None, False)


def test_a_panic_that_is_told_without_words_has_a_line_of_ours() -> None:
    watch = Fed()
    watch.panic_told()
    assert (watch.line, watch.news) == (TOLD, 1)
