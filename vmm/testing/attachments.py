"""The consoles of a test in JUnit XML and pytest-html reports.

They travel with the test's report, so that they come through pytest-xdist, too.
"""

from typing import Any, Final, TypedDict, cast
from xml.etree.ElementTree import Element

import pytest

from vmm.foreign_text import printable

_ATTRIBUTE: Final = "vmm_consoles"


class Attachment(TypedDict):
    """A console: its file, and the last of its text."""

    path: str
    text: str


def attach(
    config: pytest.Config, report: pytest.TestReport, consoles: list[Attachment]
) -> None:
    """Put them on a report, where a test is run."""
    if not consoles:
        return
    setattr(report, _ATTRIBUTE, consoles)
    paths = [("vmm_console", console["path"]) for console in consoles]
    report.user_properties.extend(paths)
    if config.pluginmanager.has_plugin("html"):
        from pytest_html import extras

        texts = [extras.text(console["text"], name="console") for console in consoles]
        before = getattr(report, "extras", [])
        report.extras = [*before, *texts]  # type: ignore[attr-defined]


class JunitWriter:
    """A plugin that adds them to the XML file, in the process that writes it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Before pytest is done with the test; `[[ATTACHMENT|path]]` is what Jenkins
        and GitLab take for an attached file: ours, and none that a guest names."""
        from _pytest.junitxml import xml_key

        log: Any = self._config.stash.get(xml_key, None)
        consoles = cast("list[Attachment]", getattr(report, _ATTRIBUTE, []))
        if log is None or not consoles:
            return
        element = Element("system-out")
        element.text = "".join(
            f"[[ATTACHMENT|{console['path']}]]\n{printable(console['text'])}\n"
            for console in consoles
        )
        log.node_reporter(report).append(element)
