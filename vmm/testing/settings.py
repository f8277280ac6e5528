"""The plugin's options: `--vmm-NAME` for a run, `vmm_NAME` in the ini file."""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from vmm.config import KEYWORDS, QUIRKS, parse_memory
from vmm.errors import ConfigError
from vmm.field_types import parse_size

DEADLINE_S: Final = 120.0
CACHE_SIZE: Final = 2 << 30
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


def _size(text: str) -> int:
    try:
        return parse_size("", text)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix(": ")) from None


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
        "ready",
        str,
        "TEXT",
        "a guest is ready when it has printed TEXT (default: when its agent answers)",
    ),
    _Option(
        "deadline",
        _seconds,
        "S",
        f"seconds that a test may take, and the boot of a guest ({DEADLINE_S:g})",
    ),
    _Option(
        "cache-size",
        _size,
        "SIZE",
        "what booted guests may take in pytest's cache directory (2G)",
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
_FLAGS: Final = {  # for a run
    "fresh": "boot each guest anew, instead of taking one from pytest's cache",
    "keep": "save the guest of a test that fails, for `vmm restore`",
}


class Settings(NamedTuple):
    """What was chosen. `machine` are defaults for MachineConfig."""

    machine: dict[str, Any]
    ready: str | None
    deadline_s: float
    artifacts: Path | None
    require: bool
    fresh: bool
    keep: bool
    cache_size: int


def add_options(parser: pytest.Parser) -> None:
    """Declare all of them, in both places."""
    group = parser.getgroup(
        "vmm",
        "machines of minivmm (fixtures vm and guest, vm_class and guest_class, "
        "vm_session and guest_session)",
    )
    for option in _OPTIONS:
        group.addoption(
            f"--vmm-{option.name}", metavar=option.metavar, help=option.help
        )
        parser.addini(_ini(option.name), f"default of --vmm-{option.name}")
    for name, text in _FLAGS.items():
        group.addoption(f"--vmm-{name}", action="store_true", help=text)
    group.addoption("--vmm-require", action="store_true", help=_REQUIRE)
    parser.addini("vmm_require", _REQUIRE, type="bool", default=False)


def _ini(name: str) -> str:
    return f"vmm_{name}".replace("-", "_")


def refuse_unknown_options(arguments: Sequence[str]) -> None:
    """Raise pytest.UsageError for a `--vmm-` option that there isn't."""
    names = ("require", *_FLAGS, *(option.name for option in _OPTIONS))
    known = [f"--vmm-{name}" for name in names]
    for argument in arguments:
        word = argument.partition("=")[0]
        if word.startswith("--vmm") and word not in known:
            raise pytest.UsageError(f"there is no {word}{closest(word, known)}")


def read_settings(config: pytest.Config) -> Settings:
    """What the command line and the ini file say. Raises pytest.UsageError."""
    chosen: dict[str, Any] = {}
    for option in _OPTIONS:
        text = config.getoption(_ini(option.name))
        where, folder = f"--vmm-{option.name}", config.invocation_params.dir
        if text is None:
            text, where = config.getini(_ini(option.name)), _ini(option.name)
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
        ready=chosen.get("ready"),
        deadline_s=chosen.get("deadline", DEADLINE_S),
        artifacts=artifacts,
        require=config.getoption("vmm_require") or config.getini("vmm_require"),
        fresh=config.getoption("vmm_fresh"),
        keep=config.getoption("vmm_keep"),
        cache_size=chosen.get("cache-size", CACHE_SIZE),
    )


def check_names(names: Iterable[str], where: str) -> None:
    """Raise ConfigError for what is no field of MachineConfig."""
    for name in names:
        if name not in KEYWORDS:
            hint = closest(name, KEYWORDS)
            raise ConfigError(f"{where}: a machine has no {name!r}{hint}")


def check_marker(mark: pytest.Mark) -> None:
    """Raise pytest.UsageError for words without a name, and values of other kinds."""
    if mark.args:
        word = repr(mark.args[0])
        raise pytest.UsageError(f"pytest.mark.vmm: {word} has no name: say NAME={word}")
    deadline = mark.kwargs.get("deadline", DEADLINE_S)
    if type(deadline) not in (int, float) or not 0 < deadline < 1e9:
        raise pytest.UsageError(
            f"pytest.mark.vmm: deadline: {deadline!r} is no time in seconds"
        )
    ready = mark.kwargs.get("ready")
    if not isinstance(ready, str | bytes | re.Pattern | None):
        raise pytest.UsageError(
            f"pytest.mark.vmm: ready: {ready!r} is no text and no regex"
        )
    devices = mark.kwargs.get("devices", ())
    if not isinstance(devices, list | tuple) or not all(map(callable, devices)):
        raise pytest.UsageError(
            f"pytest.mark.vmm: devices: {devices!r} is no list of classes, or of "
            "functions, each of which makes a device"
        )
