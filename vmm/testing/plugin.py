"""pytest plugin: fixtures that build machines, with deadlines, reports and artifacts.

Installed with the package (entry point `minivmm`); `pytest --help` lists the options.
"""

import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from vmm import threads
from vmm.config import merged
from vmm.errors import KvmUnavailable
from vmm.foreign_text import one_line
from vmm.installation import script
from vmm.kvm.kvm import Kvm
from vmm.machine.registry import Closable, open_machines

from .artifacts import folder_for
from .attachments import Attachment, JunitWriter, attach
from .factory import TestMachine, VmFactory
from .settings import (
    Settings,
    add_options,
    check_marker,
    check_names,
    read_settings,
    refuse_unknown_options,
)

FIXTURES: Final = ("vm", "vm_class", "vm_session")
GRACE_S: Final = 15.0  # between our deadline and pytest-timeout's
MARKER: Final = (
    "vmm(**settings): defaults of the test's machines, as vm() takes them; "
    "deadline=S is the test's own"
)
REMEDIES: Final = (
    "make /dev/kvm usable (on a hosted runner by the udev rule of minivmm's README, "
    f"'In your CI'), or run pytest by {script('with-kvm')}"
)
_session = pytest.StashKey["_Session"]()
_made = pytest.StashKey[set[Closable]]()


class _Deadline:
    """Stops a test's machines when its time is up."""

    def __init__(self, seconds: float, item: pytest.Item) -> None:
        self.seconds = seconds
        self.passed = False
        self._item = item
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    @property
    def message(self) -> str:
        return f"the test's deadline of {self.seconds:g} s has passed (--vmm-deadline)"

    def _pass(self) -> None:
        self.passed = True
        for factory in _factories(self._item):
            factory.stop(self.message)

    def __enter__(self) -> "_Deadline":
        threads.start(self._timer)
        return self

    def suspend(self) -> None:
        """A person debugs the test: there is no hurry any more."""
        self._timer.cancel()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()  # no thread is left for the next test


class _Session:
    """What the plugin knows in one run of pytest."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.factories: dict[str, VmFactory] = {}  # by the fixture's name
        self.deadline: _Deadline | None = None
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


# Set-up


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, on the command line and in the ini file."""
    add_options(parser)


def pytest_load_initial_conftests(args: Sequence[str]) -> None:
    """Name an option that isn't there before pytest does, which doesn't know better."""
    refuse_unknown_options(args)


def pytest_configure(config: pytest.Config) -> None:
    """Check what was chosen, once, before any test."""
    config.addinivalue_line("markers", MARKER)
    config.stash[_session] = _Session(read_settings(config))
    if config.getoption("xmlpath", None):
        config.pluginmanager.register(JunitWriter(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> None:
    """Check markers; let pytest-timeout, where it is, end what isn't a machine's."""
    for item in items:
        for mark in item.iter_markers("vmm"):
            check_marker(mark)
    if not config.pluginmanager.has_plugin("timeout"):
        return
    if config.getoption("timeout") is not None or config.getini("timeout"):
        return  # the user's own
    for item in items:
        if _uses_machines(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_deadline_of(item) + GRACE_S))


# Fixtures


@pytest.fixture
def vm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VmFactory]:
    """Builds machines for one test: vm(kernel=..., initrd=..., append=..., ...)."""
    yield from _serve("vm", request, tmp_path_factory)


@pytest.fixture(scope="class")
def vm_class(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VmFactory]:
    """Builds machines that live until the end of the class."""
    yield from _serve("vm_class", request, tmp_path_factory)


@pytest.fixture(scope="session")
def vm_session(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VmFactory]:
    """Builds machines that live until the end of the session."""
    yield from _serve("vm_session", request, tmp_path_factory)


def _serve(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[VmFactory]:
    session = request.config.stash[_session]
    session.check_kvm()
    node = request.node
    defaults = merged(session.settings.machine, _marked(node))
    root = session.settings.artifacts or tmp_path_factory.getbasetemp() / "vmm"
    factory = VmFactory(name, defaults, folder_for(root, node.nodeid or name))
    session.factories[name] = factory
    try:
        yield factory
    finally:
        factory.close()
        if session.factories.get(name) is factory and name != "vm":
            del session.factories[name]


def _marked(node: pytest.Collector | pytest.Item) -> dict[str, Any]:
    """What `vmm` markers say; the closest one wins."""
    settings: dict[str, Any] = {}
    for mark in reversed([*node.iter_markers("vmm")]):  # the closest is the first
        settings = merged(settings, mark.kwargs)
    settings.pop("deadline", None)
    check_names(settings, "pytest.mark.vmm")
    return settings


# One test


def _uses_machines(item: pytest.Item) -> bool:
    return any(name in FIXTURES for name in getattr(item, "fixturenames", ()))


def _factories(item: pytest.Item) -> list[VmFactory]:
    """Those that the test uses."""
    session = item.config.stash[_session]
    names = getattr(item, "fixturenames", ())
    return [
        session.factories[n] for n in FIXTURES if n in names and n in session.factories
    ]


def _machines(item: pytest.Item) -> list[TestMachine]:
    return [machine for factory in _factories(item) for machine in factory.machines]


def _deadline_of(item: pytest.Item) -> float:
    for mark in item.iter_markers("vmm"):
        if "deadline" in mark.kwargs:
            return float(mark.kwargs["deadline"])
    return item.config.stash[_session].settings.deadline_s


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Time the whole of a test, its fixtures too; forget its machines at its end."""
    if not _uses_machines(item):
        return (yield)
    session = item.config.stash[_session]
    with _Deadline(_deadline_of(item), item) as session.deadline:
        try:
            return (yield)
        finally:
            session.deadline = None
            session.factories.pop("vm", None)


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Give who debugs a test the time that he takes, as pytest-timeout does."""
    deadline = config.stash[_session].deadline
    if deadline is not None:
        deadline.suspend()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose deadline has passed; note the machines that it made."""
    before = set(open_machines())
    deadline = item.config.stash[_session].deadline
    try:
        outcome = yield
    except BaseException as error:
        if deadline is not None and deadline.passed:
            error.add_note(deadline.message)
        raise
    finally:
        item.stash[_made] = set(open_machines()) - before - set(_machines(item))
    if deadline is not None and deadline.passed:
        pytest.fail(deadline.message, pytrace=False)
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that leaves a machine of its own behind, and close it."""
    __tracebackhide__ = True  # a user's fixture has failed, not we
    outcome = yield
    leaked = item.stash.get(_made, set()) & set(open_machines())
    for machine in leaked:
        machine.close()
    if leaked:
        kernels = ", ".join(sorted({repr(str(m.config.images()[0])) for m in leaked}))
        pytest.fail(
            f"the test has left {len(leaked)} of its machines open (kernel {kernels}): "
            "use the fixture vm, or 'with Machine(...)'",
            pytrace=False,
        )
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a failed test's machines; attach their consoles to XML and HTML reports."""
    report = yield
    machines = _machines(item)
    if report.failed:
        for number, machine in enumerate(machines, 1):
            machine.keep()
            kernel = Path(machine.config.images()[0]).name
            title = one_line(f"vmm: machine {number}, {kernel}")
            report.sections.append((title, machine.describe()))
    if call.when == "teardown":
        attach(item.config, report, _consoles(machines))
    return report


def _consoles(machines: Sequence[TestMachine]) -> list[Attachment]:
    consoles: list[Attachment] = []
    for machine in machines:
        if machine.console.is_captured:
            machine.keep()
            consoles.append(
                Attachment(path=str(machine.transcript_path), text=machine.tail)
            )
    return consoles
