"""The plugin's options: `--vmm-NAME` for a run, `vmm_NAME` in the ini file."""

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from vmm.config import KEYWORDS, QUIRKS, parse_memory
from vmm.errors import ConfigError

DEADLINE_S: Final = 120.0
CI_ARTIFACTS: Final = "vmm-artifacts"


def closest(word: str, words: Iterable[str]) -> str:
    """A hint that begins with a semicolon; nothing if no word is like this one."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _path(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else Path()
        near = difflib.get_close_matches(path.name, os.listdir(folder), n=1)
        hint = f"; did you mean {str(folder / near[0])!r}?" if near else ""
        raise ValueError(f"{text!r} is no file{hint}")
    return path


def _memory(text: str) -> int:
    try:
        return parse_memory(text)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("memory: ")) from None


def _cpus(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise ValueError(f"{text!r} is no time in seconds")
    return value


def _quirks(text: str) -> str:
    if text not in QUIRKS:
        raise ValueError(f"{text!r} is not auto, none or pvm{closest(text, QUIRKS)}")
    return text


class _Option(NamedTuple):
    name: str
    parse: Callable[[str], Any]
    metavar: str
    help: str
    is_path: bool = False


_OPTIONS: Final = (
    _Option("kernel", _path, "P", "bzImage or vmlinux (default: the tiny guest)", True),
    _Option("initrd", _path, "P", "initramfs or initrd image", True),
    _Option("append", str, "S", "add S to the kernel's command line"),
    _Option("memory", _memory, "SIZE", "RAM of a machine: 512M, 2G (128M)"),
    _Option("cpus", _cpus, "N", "virtual CPUs (1)"),
    _Option("quirks", _quirks, "WHICH", "auto, none or pvm (auto)"),
    _Option(
        "deadline", _seconds, "S", f"seconds that a test may take ({DEADLINE_S:g})"
    ),
    _Option(
        "artifacts",
        Path,
        "DIR",
        "keep each test's consoles and results there (where $CI is set: "
        f"{CI_ARTIFACTS}; else only for a while, in pytest's temporary directory)",
        True,
    ),
)
_OF_A_MACHINE: Final = ("kernel", "initrd", "append", "memory", "cpus", "quirks")
_REQUIRE: Final = "fail where a machine can't run here, instead of skipping"


class Settings(NamedTuple):
    """What was chosen. `machine` are defaults for MachineConfig."""

    machine: dict[str, Any]
    deadline_s: float
    artifacts: Path | None
    require: bool


def add_options(parser: pytest.Parser) -> None:
    """Declare all of them, in both places."""
    group = parser.getgroup(
        "vmm", "machines of minivmm (fixtures vm, vm_class, vm_session)"
    )
    for option in _OPTIONS:
        group.addoption(
            f"--vmm-{option.name}", metavar=option.metavar, help=option.help
        )
        parser.addini(f"vmm_{option.name}", f"default of --vmm-{option.name}")
    group.addoption("--vmm-require", action="store_true", help=_REQUIRE)
    parser.addini("vmm_require", _REQUIRE, type="bool", default=False)


def refuse_unknown_options(arguments: Sequence[str]) -> None:
    """Raise pytest.UsageError for a `--vmm-` option that there isn't."""
    known = [f"--vmm-{name}" for name in ("require", *(o.name for o in _OPTIONS))]
    for argument in arguments:
        word = argument.partition("=")[0]
        if word.startswith("--vmm") and word not in known:
            raise pytest.UsageError(f"there is no {word}{closest(word, known)}")


def read_settings(config: pytest.Config) -> Settings:
    """What the command line and the ini file say. Raises pytest.UsageError."""
    chosen: dict[str, Any] = {}
    for option in _OPTIONS:
        text = config.getoption(f"vmm_{option.name}")
        where, folder = f"--vmm-{option.name}", config.invocation_params.dir
        if text is None:
            text, where = config.getini(f"vmm_{option.name}"), f"vmm_{option.name}"
            folder = config.rootpath
        if not text:
            continue
        if option.is_path:
            text = str(folder / Path(text).expanduser())
        try:
            chosen[option.name] = option.parse(text)
        except ValueError as error:
            raise pytest.UsageError(f"{where}: {error}") from None
    artifacts = chosen.get("artifacts")
    if artifacts is None and os.environ.get("CI"):
        artifacts = config.rootpath / CI_ARTIFACTS
    return Settings(
        machine={name: chosen[name] for name in _OF_A_MACHINE if name in chosen},
        deadline_s=chosen.get("deadline", DEADLINE_S),
        artifacts=artifacts,
        require=config.getoption("vmm_require") or config.getini("vmm_require"),
    )


def check_names(names: Iterable[str], where: str) -> None:
    """Raise ConfigError for what is no field of MachineConfig."""
    for name in names:
        if name not in KEYWORDS:
            hint = closest(name, KEYWORDS)
            raise ConfigError(f"{where}: a machine has no {name!r}{hint}")


def check_marker(mark: pytest.Mark) -> None:
    """Raise pytest.UsageError for words without a name, and for no time in seconds."""
    if mark.args:
        word = repr(mark.args[0])
        raise pytest.UsageError(f"pytest.mark.vmm: {word} has no name: say NAME={word}")
    deadline = mark.kwargs.get("deadline", DEADLINE_S)
    if type(deadline) not in (int, float) or not 0 < deadline < 1e9:
        raise pytest.UsageError(
            f"pytest.mark.vmm: deadline: {deadline!r} is no time in seconds"
        )
