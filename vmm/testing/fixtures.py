"""The fixtures of the pytest plugin."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from vmm.config import merged
from vmm.errors import VmmError

from .artifacts import folder_for
from .description import FileHashes, described
from .factory import Scope, VmFactory
from .guest import GuestScope, TestGuest
from .session import OF_A_TEST, SESSION, Session
from .settings import check_names
from .store import Store
from .templates import NOT_KEPT, Surroundings, Templates

if TYPE_CHECKING:
    from vmm.net.network import Network

Some = TypeVar("Some", bound=Scope)


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


@pytest.fixture
def vm_network() -> "Network":
    """A Network for the machines of one test: vm(nets=[vm_network])."""
    from vmm.net.network import Network

    return Network()


def _serve(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[VmFactory]:
    session = request.config.stash[SESSION]
    session.check_kvm()
    marked = _marked(request.node)
    marked.pop("ready", None)  # a guest's
    devices = marked.pop("devices", ())
    defaults = merged(session.settings.machine, marked)
    folder = _folder(name, request, tmp_path_factory)
    with _scoped(session, VmFactory(name, defaults, folder, devices)) as factory:
        yield factory


@contextmanager
def _scoped(session: Session, scope: Some) -> Iterator[Some]:
    """It is known as the fixture's, and closed when that ends."""
    session.scopes[scope.name] = scope
    try:
        yield scope
    finally:
        scope.close()
        if session.scopes.get(scope.name) is scope and scope.name not in OF_A_TEST:
            del session.scopes[scope.name]


def _folder(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Where the files of a fixture's machines go."""
    chosen = request.config.stash[SESSION].settings.artifacts
    root = chosen or tmp_path_factory.getbasetemp() / "vmm"
    return folder_for(root, request.node.nodeid or name)


@pytest.fixture
def guest(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _vmm_templates: Templates,
) -> Iterator[TestGuest]:
    """A guest that runs, for one test: guest.run(["uname", "-r"]), guest.console."""
    yield from _serve_guest("guest", request, tmp_path_factory, _vmm_templates)


@pytest.fixture(scope="class")
def guest_class(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _vmm_templates: Templates,
) -> Iterator[TestGuest]:
    """A guest that runs until the end of the class."""
    yield from _serve_guest("guest_class", request, tmp_path_factory, _vmm_templates)


@pytest.fixture(scope="session")
def guest_session(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _vmm_templates: Templates,
) -> Iterator[TestGuest]:
    """A guest that runs until the end of the session."""
    yield from _serve_guest("guest_session", request, tmp_path_factory, _vmm_templates)


@pytest.fixture(scope="session")
def _vmm_templates(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Templates]:
    config = request.config
    settings = config.stash[SESSION].settings
    run_folder = tmp_path_factory.getbasetemp()
    if hasattr(config, "workerinput"):  # pytest-xdist's workers have one each, there
        run_folder = run_folder.parent
    store = hashes = None
    if getattr(config, "cache", None) is not None:  # -p no:cacheprovider
        try:
            folder = config.cache.mkdir("minivmm")
        except OSError as error:
            _warn(f"{NOT_KEPT}: {error}")
        else:
            store, hashes = Store(folder, settings.cache_size), folder / "hashes.json"
    around = Surroundings(
        store=store,
        files=FileHashes(hashes),
        run_folder=run_folder,
        is_fresh=settings.fresh,
        deadline_s=settings.deadline_s,
        show=partial(_show, config),
        warn=_warn,
    )
    templates = Templates(around)
    try:
        yield templates
    finally:
        templates.close()


def _serve_guest(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    templates: Templates,
) -> Iterator[TestGuest]:
    session = request.config.stash[SESSION]
    session.check_kvm()
    settings = session.settings
    folder = _folder(name, request, tmp_path_factory)
    deadline = session.deadline
    try:
        wanted = described(
            _marked(request.node), settings.machine | {"ready": settings.ready}
        )
        with nullcontext() if deadline is None else deadline.extended():
            snapshot = templates.get(wanted, folder.with_name(f"{folder.name}-boot"))
    except (VmmError, OSError) as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    made = GuestScope(name, folder, snapshot, wanted, is_kept=settings.keep)
    with _scoped(session, made) as scope:
        yield scope.clone()


def _show(config: pytest.Config, line: str) -> None:
    """On the terminal, whatever is captured; xdist's workers have none but stderr."""
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    with nullcontext() if capture is None else capture.global_and_fixture_disabled():
        print(f"\n{line}", file=sys.stderr, flush=True)


def _warn(text: str) -> None:
    """In pytest's summary; no error, whatever warnings are there."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(pytest.PytestWarning(f"vmm: {text}"), stacklevel=2)


def _marked(node: pytest.Collector | pytest.Item) -> dict[str, Any]:
    """What `vmm` markers say; the closest one wins."""
    settings: dict[str, Any] = {}
    for mark in reversed([*node.iter_markers("vmm")]):  # the closest is the first
        settings = merged(settings, mark.kwargs)
    settings.pop("deadline", None)
    check_names(settings.keys() - {"ready", "devices"}, "pytest.mark.vmm")
    return settings
