"""Which way into the guest is taken, and what becomes of one that can't be."""

import sys

import pytest

from vmm.errors import ConfigError
from vmm.vcpu.entry import entry_kind


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vmm.vcpu._run_loop", None)


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMM_RUN_LOOP", raising=False)


def test_compiled_one_is_taken_where_it_was_built() -> None:
    assert entry_kind() == "compiled"


@pytest.mark.usefixtures("not_built")
def test_pythons_serves_where_it_was_not() -> None:
    assert entry_kind() == "python"


@pytest.mark.parametrize("kind", ["python", "compiled"])
def test_variable_forces_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMM_RUN_LOOP", kind)
    assert entry_kind() == kind


@pytest.mark.usefixtures("not_built")
def test_forcing_what_was_not_built_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VMM_RUN_LOOP", "compiled")
    with pytest.raises(ConfigError, match=r"VMM_RUN_LOOP: .* not built .* C compiler"):
        entry_kind()


def test_other_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMM_RUN_LOOP", "rust")
    with pytest.raises(ConfigError, match="'rust' is not python or compiled"):
        entry_kind()
