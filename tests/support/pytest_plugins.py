"""The plugins of a pytest that a test starts: those that it names, and no more.

All that are installed take more time than most of these tests, Hypothesis above all.
"""

from typing import Final

import pytest

XDIST: Final = ("-p", "xdist")
HTML: Final = ("-p", "metadata", "-p", "html", "-p", "html_fixtures")


def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, by its entry point, and pytest-timeout's; more by `-p`."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p minivmm -p timeout")


def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As people have it."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.delenv("PYTEST_ADDOPTS")
