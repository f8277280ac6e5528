"""vmm.run: what it makes of its settings; tests/kvm has whole runs."""

from typing import Any, ClassVar, Self

import pytest

import vmm.machine.run as run_module
from vmm import (
    CommandConfig,
    ConsoleConfig,
    ExitReason,
    MachineConfig,
    RunResult,
    run,
)
from vmm.place import Place

NULL = Place("null")


class _Recorder:
    """A Machine that runs nothing."""

    configs: ClassVar[list[MachineConfig]] = []

    def __init__(self, config: MachineConfig) -> None:
        self.configs.append(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self) -> RunResult:
        return RunResult(ExitReason.RESET, 0)


def config_of(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> MachineConfig:  # noqa: ANN401
    monkeypatch.setattr(run_module, "Machine", _Recorder)
    run("kernel", **settings)
    return _Recorder.configs.pop()


@pytest.mark.parametrize(
    ("settings", "serial", "tees"),
    [
        ({}, "null", 0),
        ({"serial": "stdio"}, "stdio", 0),
        ({"serial": "capture"}, "null", 0),
        ({"tee": "file:log"}, "null", 1),
        ({"console": ConsoleConfig(tee="file:log")}, "null", 1),
        ({"console": ConsoleConfig(serial="stdout", tee="file:log")}, "stdout", 1),
    ],
)
def test_nobody_is_waited_for_to_read_the_console(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], serial: str, tees: int
) -> None:
    """He could not: one that is captured would hold the guest after 64 MiB."""
    console = config_of(monkeypatch, **settings).console
    assert console.serial == Place(serial)
    assert len(console.tee) == tees


@pytest.mark.parametrize(
    ("settings", "capture"),
    [
        ({"command": "ls"}, Place("capture")),
        ({"command": "ls", "capture": None}, None),
        ({"command": "ls", "capture": "null"}, NULL),
        ({"command": CommandConfig(command="ls")}, Place("capture")),
        ({"command": CommandConfig(command="ls", capture="null")}, NULL),
        ({"command": CommandConfig(files=["a:/a"])}, None),
    ],
)
def test_a_commands_output_is_kept_unless_it_says_where(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], capture: Place | None
) -> None:
    command = config_of(monkeypatch, **settings).command
    assert command is not None
    assert command.capture == capture
