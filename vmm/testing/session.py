"""What the plugin knows in a run of pytest, and of the test that runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from vmm import threads
from vmm.errors import KvmUnavailable
from vmm.installation import script
from vmm.kvm.kvm import Kvm

from .factory import Scope
from .settings import Settings
from .test_machine import TestMachine

FIXTURES: Final = (
    *("vm_session", "vm_class", "vm"),
    *("guest_session", "guest_class", "guest"),
)
OF_A_TEST: Final = ("vm", "guest")
# What a test has that uses them, and not a fixture of its own with such a name.
_OURS: Final = frozenset({"vm", "vm_class", "vm_session", "_vmm_templates"})
REMEDIES: Final = (
    "make /dev/kvm usable (on a hosted runner by the udev rule of minivmm's README, "
    f"'In your CI'), or run pytest by {script('with-kvm')}"
)


class Deadline:
    """Stops a test's machines when its time is up."""

    def __init__(self, seconds: float, item: pytest.Item) -> None:
        self.seconds = seconds
        self.passed = False
        self._item = item
        self._timer = self._new_timer()

    def _new_timer(self) -> threading.Timer:
        timer = threading.Timer(self.seconds, self._pass)
        timer.daemon = True
        return timer

    @property
    def message(self) -> str:
        """What becomes of the test."""
        return f"the test's deadline of {self.seconds:g} s has passed (--vmm-deadline)"

    def _pass(self) -> None:
        self.passed = True
        for scope in scopes_of(self._item):
            scope.stop(self.message)

    def __enter__(self) -> "Deadline":
        threads.start(self._timer)
        return self

    def suspend(self) -> None:
        """A person debugs the test: there is no hurry any more."""
        self._timer.cancel()

    @contextmanager
    def extended(self) -> Iterator[None]:
        """What is done here for many tests has a time of its own."""
        self._timer.cancel()
        self._timer.join()
        try:
            yield
        finally:
            self._timer = self._new_timer()
            threads.start(self._timer)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()  # no thread is left for the next test


class Session:
    """What the plugin knows in one run of pytest."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.scopes: dict[str, Scope] = {}  # by the fixture's name
        self.deadline: Deadline | None = None
        self._trouble: str | None = None

    def check_kvm(self) -> None:
        """Skip the test where no machine can run, or fail it if that was asked for."""
        if self._trouble is None:
            self._trouble = _kvm_trouble()
        if self._trouble:
            refuse = pytest.fail if self.settings.require else pytest.skip
            refuse(f"no machine can run here: {self._trouble}; {REMEDIES}")


def _kvm_trouble() -> str:
    try:
        with Kvm():
            return ""
    except KvmUnavailable as error:
        return str(error)


SESSION: Final = pytest.StashKey[Session]()
"""Where pytest's config has it."""


def uses_machines(item: pytest.Item) -> bool:
    """Whether it has one of our fixtures, be it by another one."""
    return not _OURS.isdisjoint(getattr(item, "fixturenames", ()))


def scopes_of(item: pytest.Item) -> list[Scope]:
    """Those of the fixtures that the test uses."""
    session = item.config.stash[SESSION]
    names = getattr(item, "fixturenames", ())
    return [session.scopes[n] for n in FIXTURES if n in names and n in session.scopes]


def machines_of(item: pytest.Item) -> list[TestMachine]:
    """All that they have made and not forgotten."""
    return [machine for scope in scopes_of(item) for machine in scope.machines]
