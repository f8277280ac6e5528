"""Sorts the tests by where they can run, and reports what became of them.

scripts/test runs pytest here and, for what this host's KVM cannot do, in the
software machine. It says so by VMM_TEST_SIDE (host or machine), VMM_TEST_KIND
(the kind of the host's KVM) and VMM_TEST_REPORT (the file for the counts), and
asks before the latter whether there are any, with --collect-only. Without these
what cannot run is skipped, or fails if VMM_REQUIRE_KVM is set; so is what isn't
built (support/guests.py). VMM_LONG is scripts/test's --long.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from support import foreign
from support.debian import FetchError
from support.lengths import LONG

collect_ignore = ["stranger"]  # a project of its own
KVM_TESTS = Path(__file__).parent / "kvm"
MARKERS = (
    "linux: boots a kernel: on a PVM host one that runs in ring 3, by default",
    "stock: boots an emulated kernel on a PVM host, as nobody has changed it",
    "both: shows something of KVM: on a PVM host in the software machine, too",
    "hardware: needs hardware-style KVM: on a PVM host in the software machine only",
    "foreign(name): boots what is fetched from Debian's archive",
    "software_machine: starts a software machine: not inside one",
    "long: only by scripts/test --long",
)
LINUX_TIMEOUT_S = 1200  # where KVM emulates kernels


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; let our children be stopped, under nohup, too.

    They would inherit that a signal is ignored, but not that it has a handler.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    if os.environ.get("VMM_TEST_SIDE") != "machine":  # where its import takes seconds
        _make_hypothesis_patient()


def _make_hypothesis_patient() -> None:
    """A busy host is no bug; a test that hangs meets pytest's own deadline."""
    import hypothesis

    hypothesis.settings.register_profile("patient", deadline=None)
    hypothesis.settings.load_profile("patient")


def sides(item: pytest.Item, kind: str) -> set[str]:
    """Where a test runs if the host's KVM is of this kind."""

    def marked(name: str) -> bool:
        return item.get_closest_marker(name) is not None

    if kind == "hardware":
        return set() if marked("software_machine") else {"host"}
    if KVM_TESTS not in item.path.parents:
        return {"host"}
    if kind == "none" or marked("hardware"):
        return {"machine"}
    return {"host", "machine"} if marked("both") else {"host"}


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keep the tests of this side, and the long ones where they are wanted."""
    side, kind = os.environ.get("VMM_TEST_SIDE"), os.environ.get("VMM_TEST_KIND", "")

    def runs(item: pytest.Item) -> bool:
        if item.get_closest_marker("long") and not LONG:
            return False
        return side is None or side in sides(item, kind)

    dropped = [item for item in items if not runs(item)]
    items[:] = [item for item in items if runs(item)]
    # First, so that pytest-xdist, which gives away what comes last, won't part those
    # that share a software machine.
    items.sort(key=lambda item: item.get_closest_marker("software_machine") is None)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    if side is None:
        return
    for item in items:
        if item.get_closest_marker("linux") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LINUX_TIMEOUT_S))
    if side == "machine" and config.option.collectonly:
        _fetch_for_the_machine(items)


def _fetch_for_the_machine(items: list[pytest.Item]) -> None:
    """Get what tests want there, where there is no network."""
    for item in items:
        if marker := item.get_closest_marker("foreign"):
            # The test itself will say that it isn't there, and why.
            with contextlib.suppress(FetchError):
                foreign.unpack(foreign.fetch(marker.args[0]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the counts for scripts/test."""
    report = os.environ.get("VMM_TEST_REPORT")
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if not report or terminal is None:
        return

    def count(*outcomes: str) -> int:
        return sum(len(terminal.stats.get(outcome, ())) for outcome in outcomes)

    counts = {
        "passed": count("passed", "xfailed"),
        "failed": count("failed", "error"),
        "skipped": count("skipped"),
    }
    Path(report).write_text(json.dumps(counts))
