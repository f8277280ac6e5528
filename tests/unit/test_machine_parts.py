"""MachineConfig's parts, and the flat keywords that mean the same."""

import dataclasses
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import vmm
import vmm.config as config_module
from vmm import CommandConfig, ConfigError, ConsoleConfig, MachineConfig
from vmm.config import KEYWORDS, merged
from vmm.console.settings import ConsoleSettings
from vmm.field_types import Checked
from vmm.guest.settings import CommandSettings
from vmm.place import Place
from vmm.pool import RunPool
from vmm.settings import MachineSettings
from vmm.testing.factory import VmFactory

CONSOLE = {
    "serial": "null",
    "tee": "file:log",
    "socket_mode": 0o660,
    "serial_buffer": "2K",
    "serial_policy": "drop",
    "serial_limit": "1M",
    "serial_rate": 9600,
}
COMMAND: dict[str, object] = {
    "command": "ls /",
    "files": ["a:/a"],
    "capture": "capture",
}


def test_flat_keywords_are_the_console() -> None:
    flat: Any = CONSOLE
    config = MachineConfig(**flat)
    assert config == MachineConfig(console=ConsoleConfig(**flat))
    assert config.console.serial == Place("null")
    assert config.console.serial_buffer == 2048
    assert CONSOLE.keys() == set(ConsoleConfig.field_names)


def test_flat_keywords_are_the_command() -> None:
    flat: Any = COMMAND
    config = MachineConfig(**flat)
    assert config == MachineConfig(command=CommandConfig(**flat))
    assert config.command is not None
    assert config.command.command == ("ls", "/")
    assert COMMAND.keys() | {"script"} == set(CommandConfig.field_names)


def test_nothing_of_a_command_is_none() -> None:
    assert MachineConfig(command=None, script=None, files=[], capture=None).command is (
        MachineConfig(command=CommandConfig()).command
    )


@pytest.mark.parametrize("name", CONSOLE)
def test_console_and_a_field_of_it_is_refused(name: str) -> None:
    both: Any = {"console": ConsoleConfig(), name: CONSOLE[name]}
    with pytest.raises(ConfigError, match=rf"^{name}: it is given beside console="):
        MachineConfig(**both)


@pytest.mark.parametrize("name", ["files", "capture", "script"])
def test_command_and_a_field_of_it_is_refused(name: str) -> None:
    both: Any = {"command": CommandConfig(command="a"), name: "null"}
    with pytest.raises(ConfigError, match=rf"^{name}: it is given beside command="):
        MachineConfig(**both)


@pytest.mark.parametrize("part", [5, None, {"serial": "null"}, CommandConfig()])
def test_what_is_no_console_is_refused(part: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=r"^console: .* is not a ConsoleConfig"):
        MachineConfig(console=part)


def test_what_is_no_command_is_refused() -> None:
    part: Any = ConsoleConfig()
    with pytest.raises(ConfigError, match=r"^command: .* is not text, a list, each te"):
        MachineConfig(command=part)


def test_replace_changes_a_part_by_its_flat_keyword() -> None:
    config = MachineConfig(cpus=2, serial="null", command="a", capture="capture")
    other = config.replace(tee="file:log", capture="stdout")
    assert other == MachineConfig(
        cpus=2, serial="null", tee="file:log", command="a", capture="stdout"
    )
    assert config.replace(command=CommandConfig(command="b")).command == (
        CommandConfig(command="b")
    )
    assert config.replace() == config
    with pytest.raises(ConfigError, match=r"^serial: it is given beside console="):
        config.replace(console=ConsoleConfig(), serial="null")


def test_replace_runs_another_command_or_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.touch(0o755)
    config = MachineConfig(command="a", capture="capture", files=["a:/a"])
    scripted = MachineConfig(script=script, capture="capture", files=["a:/a"])
    assert config.replace(script=script) == scripted
    assert scripted.replace(command="a") == config
    for one in (config.replace(command=None), scripted.replace(script=None)):
        assert one == MachineConfig(files=["a:/a"])
    assert config.replace(script=None) == config
    with pytest.raises(ConfigError, match=r"^script: it excludes command"):
        config.replace(command="b", script=script)
    with pytest.raises(ConfigError, match=r"^capture: there is no command"):
        config.replace(command=None, capture="null")


@pytest.mark.parametrize(
    ("settings", "changes", "both"),
    [
        (
            {"serial": "null"},
            {"console": ConsoleConfig(tee="file:a")},
            {"tee": "file:a"},
        ),
        (
            {"console": ConsoleConfig(tee="file:a")},
            {"serial": "null"},
            {"serial": "null", "tee": "file:a"},
        ),
        (
            {"files": ["a:/a"]},
            {"command": CommandConfig(command="b")},
            {"command": "b"},
        ),
        (
            {"command": CommandConfig(command="b", capture="null")},
            {"files": ["a:/a"]},
            {"command": "b", "capture": "null", "files": ["a:/a"]},
        ),
        ({"capture": "null"}, {"command": "b"}, {"command": "b", "capture": "null"}),
    ],
)
def test_a_part_takes_the_place_of_its_fields_and_a_field_its_own_in_a_part(
    settings: dict[str, Any], changes: dict[str, Any], both: dict[str, Any]
) -> None:
    once = merged({"cpus": 2, **settings}, changes)
    assert MachineConfig(**once) == MachineConfig(cpus=2, **both)
    later = merged(merged({}, settings | {"cpus": 2}), changes | {"cpus": 1})
    assert MachineConfig(**later) == MachineConfig(**both)


def test_what_a_run_has_without_a_command_is_that_of_a_command_config() -> None:
    """Most runs don't import it, and have its defaults written down once more."""
    told = {n: how[1] for n, how in CommandConfig.parameters().items()}
    assert told == config_module._COMMAND


def test_a_configuration_goes_to_another_process_as_it_is() -> None:
    flat: Any = CONSOLE | COMMAND
    config = MachineConfig(**flat)
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(pickle.loads(pickle.dumps(config))) == hash(config)


@pytest.mark.parametrize(
    ("one", "other", "later"),
    [
        ({"serial": "file:{}/x"}, {"debugcon": "unix:{}/x"}, "debugcon"),
        ({"tee": "file:{}/x"}, {"debugcon": "file:{}/./x"}, "debugcon"),
        ({"capture": "file:{}/x", "command": "a"}, {"debugcon": "file:{}/x"}, "debugc"),
    ],
)
def test_two_outputs_to_one_file_are_refused(
    one: dict[str, str], other: dict[str, str], later: str, tmp_path: Path
) -> None:
    chosen: Any = {n: text.format(tmp_path) for n, text in (one | other).items()}
    with pytest.raises(ConfigError, match=rf"^{later}.* is where .* goes, too"):
        MachineConfig(**chosen)


def test_debugcon_has_no_input() -> None:
    assert MachineConfig(debugcon="stdio").debugcon == Place("stdout")


# What others see of it: type checkers, help, dataclasses


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (ConsoleConfig, ConsoleSettings),
        (CommandConfig, CommandSettings),
        (MachineConfig, MachineSettings),
    ],
)
def test_type_checkers_know_what_is_taken(kind: type[Checked], settings: type) -> None:
    taken = {name: how[0] for name, how in kind.parameters().items()}
    assert get_type_hints(settings) == taken


def test_signature_has_parts_and_flat_keywords() -> None:
    parameters = inspect.signature(MachineConfig).parameters
    assert parameters.keys() == KEYWORDS
    assert all(
        parameter.default is not inspect.Parameter.empty
        for parameter in parameters.values()
    )


@pytest.mark.parametrize("kind", [MachineConfig, ConsoleConfig, CommandConfig])
def test_help_tells_of_every_field(kind: type[Checked]) -> None:
    told = kind.__doc__
    assert told is not None
    for name in kind.field_names:
        assert f"\n{name}:\n    " in told


def test_dataclasses_copies_it() -> None:
    config = MachineConfig(serial="null")
    assert dataclasses.replace(config, cpus=2) == MachineConfig(serial="null", cpus=2)


# mypy refuses each of these lines: it would tell of an "ignore" that it doesn't need.


def _run() -> object:
    return vmm.run(memroy="1G")  # type: ignore[call-arg]


def _run_by_a_wrong_type() -> object:
    return vmm.run(cpus="2")  # type: ignore[arg-type]


def _run_in_a_process() -> object:
    with RunPool(1) as pool:
        return pool.submit(vmm.run, memroy="1G").result()  # type: ignore[call-arg]


def _configure() -> object:
    return MachineConfig(memroy="1G")  # type: ignore[call-arg]


def _configure_a_console() -> object:
    return ConsoleConfig(seiral="null")  # type: ignore[call-arg]


def _configure_a_command() -> object:
    return CommandConfig(argv="ls")  # type: ignore[call-arg]


def _make_by_fixture() -> object:
    return VmFactory("vm", {}, Path())(memroy="1G")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "call",
    [
        _run,
        _run_by_a_wrong_type,
        _run_in_a_process,
        _configure,
        _configure_a_console,
        _configure_a_command,
        _make_by_fixture,
    ],
)
def test_a_slip_is_an_error(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ConfigError), match=r"memroy|cpus|seiral|argv"):
        call()
