"""Sorts the tests by where they can run, and reports what became of them.

scripts/test runs pytest here and, for what this host's KVM cannot do, in the
software machine. It says so by VMM_TEST_SIDE (host or machine), VMM_TEST_KIND
(the kind of the host's KVM) and VMM_TEST_REPORT (the file for the counts).
Without these, what cannot run is skipped, or fails if VMM_REQUIRE_KVM is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import foreign
import hypothesis
import pytest

# A busy host is no bug; a test that hangs meets pytest's own deadline.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

collect_ignore = ["stranger"]  # a project of its own
KVM_TESTS = Path(__file__).parent / "kvm"
MARKERS = (
    "linux: boots a kernel: on a PVM host it runs there and in the software machine",
    "hardware: needs hardware-style KVM: on a PVM host in the software machine only",
    "foreign(name): boots what is fetched from Debian's archive: tests/foreign.py",
    "software_machine: starts a software machine: not inside one",
)
LINUX_TIMEOUT_S = 1200  # where KVM emulates kernels
_elsewhere = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; let our children be stopped, under nohup, too.

    They would inherit that a signal is ignored, but not that it has a handler.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    for line in MARKERS:
        config.addinivalue_line("markers", line)


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
    return {"host", "machine"} if marked("linux") else {"host"}


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keep the tests of this side; count those of the other."""
    side, kind = os.environ.get("VMM_TEST_SIDE"), os.environ.get("VMM_TEST_KIND", "")
    if side is None:
        return
    inside = [item for item in items if "machine" in sides(item, kind)]
    config.stash[_elsewhere] = len(inside) if side == "host" else 0
    dropped = [item for item in items if side not in sides(item, kind)]
    items[:] = [item for item in items if side in sides(item, kind)]
    for item in items:
        if item.get_closest_marker("linux") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LINUX_TIMEOUT_S))
    if side == "host" and not config.option.collectonly:
        _fetch_for_the_machine(dropped)
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def _fetch_for_the_machine(items: list[pytest.Item]) -> None:
    """Get what tests want there, where there is no network."""
    for item in items:
        if marker := item.get_closest_marker("foreign"):
            # The test itself will say that it isn't there, and why.
            with contextlib.suppress(foreign.FetchError):
                foreign.fetch(marker.args[0])


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
        "elsewhere": session.config.stash.get(_elsewhere, 0),
    }
    Path(report).write_text(json.dumps(counts))
