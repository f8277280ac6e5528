"""pytest plugin: fixtures that build machines, with deadlines, reports and artifacts.

Installed with the package (entry point `minivmm`); `pytest --help` lists the options.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

import pytest

from vmm.foreign_text import one_line
from vmm.machine.registry import Closable, open_machines

from .attachments import Attachment, JunitWriter, attach
from .fixtures import (
    _vmm_templates,
    guest,
    guest_class,
    guest_session,
    vm,
    vm_class,
    vm_network,
    vm_session,
)
from .session import (
    OF_A_TEST,
    SESSION,
    Deadline,
    Session,
    machines_of,
    scopes_of,
    uses_machines,
)
from .settings import (
    add_options,
    check_marker,
    read_settings,
    refuse_unknown_options,
)
from .test_machine import TestMachine

GRACE_S: Final = 15.0  # between our deadline and pytest-timeout's
MARKER: Final = (
    "vmm(**settings): defaults of the test's machines, as vm() takes them; "
    "deadline=S is the test's own; devices=[...] are classes, or functions, which make "
    "one for each machine; ready=TEXT, or a regex, is what a guest prints when it is up"
)
_made = pytest.StashKey[set[Closable]]()

__all__ = [  # fixtures, which pytest finds here
    "_vmm_templates",
    "guest",
    "guest_class",
    "guest_session",
    "vm",
    "vm_class",
    "vm_network",
    "vm_session",
]


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
    config.stash[SESSION] = Session(read_settings(config))
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
        if uses_machines(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_limit_of(item) + GRACE_S))


# One test


def _deadline_of(item: pytest.Item) -> float:
    for mark in item.iter_markers("vmm"):
        if "deadline" in mark.kwargs:
            return float(mark.kwargs["deadline"])
    return item.config.stash[SESSION].settings.deadline_s


def _limit_of(item: pytest.Item) -> float:
    """What it may take with the boot of a guest, which has a deadline of its own."""
    boots = "_vmm_templates" in getattr(item, "fixturenames", ())
    boot_s = item.config.stash[SESSION].settings.deadline_s if boots else 0
    return _deadline_of(item) + boot_s


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Time the whole of a test, its fixtures too; forget its machines at its end."""
    if not uses_machines(item):
        return (yield)
    session = item.config.stash[SESSION]
    with Deadline(_deadline_of(item), item) as session.deadline:
        try:
            return (yield)
        finally:
            session.deadline = None
            for name in OF_A_TEST:
                session.scopes.pop(name, None)
            for scope in session.scopes.values():
                scope.look_again()


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Give who debugs a test the time that he takes, as pytest-timeout does."""
    deadline = config.stash[SESSION].deadline
    if deadline is not None:
        deadline.suspend()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose deadline has passed; note the machines that it made."""
    before = set(open_machines())
    deadline = item.config.stash[SESSION].deadline
    try:
        outcome = yield
    except BaseException as error:
        if deadline is not None and deadline.passed:
            error.add_note(deadline.message)
        raise
    finally:
        scopes = item.config.stash[SESSION].scopes.values()
        ours = {machine for scope in scopes for machine in scope.machines}
        item.stash[_made] = set(open_machines()) - before - ours
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
    machines = machines_of(item)
    if report.failed:
        for scope in scopes_of(item):
            for number, machine in enumerate(scope.machines, 1):
                machine.keep()
                kernel = Path(machine.config.images()[0]).name
                for title, text in (
                    (kernel, machine.describe()),
                    *scope.look(machine),
                ):
                    title = one_line(f"vmm: {scope.noun} {number}, {title}")
                    report.sections.append((title, text))
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
