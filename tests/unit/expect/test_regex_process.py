"""RegexProcess: a search that takes for ever can be ended, and stops nobody else."""

import fcntl
import marshal
import os
import re
import resource
import select
import signal
import subprocess
import sys
import termios
import threading
from array import array
from collections.abc import Iterator

import pytest
from support.children import children
from support.open_fds import open_fds

from vmm.errors import ExpectTimeout, GuestEnded, VmmError
from vmm.expect.capture import CaptureEndpoint
from vmm.expect.found import SearchAborted
from vmm.expect.reader import LAST_LINES
from vmm.expect.regex_process import RegexProcess, RegexProcesses
from vmm.expect.regex_worker import HEAD
from vmm.result import ExitReason, RunResult

ENDLESS = re.compile(rb"(\w+\s?)+\$ ")
TEXT = b"a" * 100
RESULT = RunResult(ExitReason.STOPPED, 130)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """With those who don't need it, so that these tests are short."""
    monkeypatch.setattr("vmm.expect.reader.PATIENCE_S", 0.0)
    monkeypatch.setattr("vmm.expect.regex_process.LEAST_S", 0.0)


@pytest.fixture
def capture() -> Iterator[CaptureEndpoint]:
    capture = CaptureEndpoint(on_room=lambda: None)
    yield capture
    capture.close()


def test_expect_times_out_whatever_the_pattern(capture: CaptureEndpoint) -> None:
    capture.write(TEXT)
    with pytest.raises(ExpectTimeout, match=r"its last 100 bytes were not looked at"):
        capture.reader().expect(ENDLESS, timeout=0)


def test_guests_end_ends_a_search_and_meanwhile_others_run(
    capture: CaptureEndpoint,
) -> None:
    capture.write(TEXT)
    later = threading.Timer(0.1, capture.end, [RESULT])
    later.start()
    with pytest.raises(GuestEnded, match="were not looked at"):
        capture.reader().expect(ENDLESS, timeout=3600)
    later.join()


def test_signal_ends_a_search(capture: CaptureEndpoint) -> None:
    capture.write(TEXT)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            capture.reader().expect(ENDLESS, timeout=3600)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not children()


@pytest.mark.parametrize("pattern", [rb"eth0.*up", rb"(eth0 *)+up", rb"(?s)e.*up"])
def test_flood_without_newline_does_not_hold_off_the_timeout(
    capture: CaptureEndpoint, pattern: bytes
) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.wait(0.001):
            capture.write(b"eth0 " * 200)

    flooder = threading.Thread(target=flood)
    flooder.start()
    with pytest.raises(ExpectTimeout) as caught:
        capture.reader().expect(re.compile(pattern), timeout=0.1)
    stop.set()
    flooder.join()
    assert len(str(caught.value).splitlines()) <= LAST_LINES + 1


def test_match_over_many_lines_and_one_on_a_long_line_are_found(
    capture: CaptureEndpoint,
) -> None:
    reader = capture.reader()
    line = b"x" * 20_000
    capture.write(b"BEGIN\n" + b"line\n" * 4000 + b"END {" + line + b"}")
    found = reader.expect(re.compile(rb"(?s)BEGIN\n(.*)END "), timeout=60)
    assert found[1] == b"line\n" * 4000
    assert found.match.span() == (0, len(found[0]))
    assert reader.expect(re.compile(rb"\{(.*)\}"), timeout=60)[1] == line


def test_processes_are_kept_for_the_next_search_and_end_with_the_console() -> None:
    processes = RegexProcesses()
    for _ in range(3):
        found = processes.first_match([(re.compile(b"b"), 0)], b"abc", lambda: False)
        assert found is not None
        assert (found[0].start(), found[1]) == (1, 0)
        assert len(children()) == 1
    with pytest.raises(SearchAborted):
        processes.first_match([(ENDLESS, 0)], TEXT, lambda: True)
    assert not children()
    processes.first_match([(re.compile(b"b"), 0)], b"abc", lambda: False)
    processes.close()
    processes.close()
    assert not children()
    processes.first_match([(re.compile(b"b"), 0)], b"abc", lambda: False)
    assert not children()  # a search that was late


def test_process_that_dies_is_an_error_and_the_next_search_has_another() -> None:
    processes = RegexProcesses()
    processes.first_match([(re.compile(b"b"), 0)], b"abc", lambda: False)
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    with pytest.raises(VmmError, match="process that looks for regexes has died"):
        processes.first_match([(re.compile(b"b"), 0)], b"abc" * 99_999, lambda: False)
    assert processes.first_match([(re.compile(b"x"), 0)], b"abc", lambda: False) is None
    processes.close()


def test_text_longer_than_a_pipe_is_sent_whole() -> None:
    process = RegexProcess()
    text = b"a" * 1_000_000 + b"b"
    found = process.first_match([(re.compile(b"b"), 0)], text, lambda: False)
    process.close()
    assert found is not None
    assert found[0].start() == 1_000_000


@pytest.mark.parametrize("free", range(6))
def test_without_descriptors_it_is_one_error_and_none_is_lost(free: int) -> None:
    before = open_fds()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.dup(0)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + free, limits[1]))
    try:
        with pytest.raises(VmmError, match="regexes can't be started: Too many open"):
            RegexProcess()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_fds() == before


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/true"])
def test_what_can_not_be_started_is_named(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(VmmError, match="process that looks for regexes"):
        RegexProcess()


def test_what_is_written_while_it_looks_does_not_end_it() -> None:
    """A signal for it might come late, after it was read, where a writer is slow."""
    process = RegexProcess()
    for regex, text in ((rb"(a|a)*b", b"a" * 18), (rb"a", b"a")):
        while array("i", fcntl.ioctl(process._ask, termios.FIONREAD, bytes(4)))[0]:
            os.sched_yield()  # until it has read the one before
        question = marshal.dumps(([(regex, 0, 0)], text))
        os.write(process._ask, HEAD.pack(len(question)) + question)
    for answer in (None, (0, [(0, 1)])):
        (size,) = HEAD.unpack(process._receive(HEAD.size, lambda: False))
        assert marshal.loads(process._receive(size, lambda: False)) == answer
    process.close()


DIES = """
import os, re, signal, threading
from vmm.expect.regex_process import RegexProcess

process = RegexProcess()
print(process._pid, flush=True)
threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGKILL]).start()
process.first_match([(re.compile(rb"(a*)*b"), 0)], b"a" * 100, lambda: False)
"""


def test_search_ends_when_its_asker_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DIES], stdout=subprocess.PIPE
    ) as asker:
        assert asker.stdout is not None
        pidfd = os.pidfd_open(int(asker.stdout.readline()))
        assert asker.wait() == -signal.SIGKILL
    try:
        assert select.select([pidfd], [], [], 60)[0]  # readable when it has ended
    finally:
        os.close(pidfd)
