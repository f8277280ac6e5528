"""A machine's fields: a value of another kind is refused, and its field named."""

from pathlib import Path, PurePosixPath

import pytest

import vmm
from vmm import ConfigError, Machine, MachineConfig
from vmm.console.config import ConsoleConfig
from vmm.field_types import Checked, StrPath, fitting
from vmm.guest.config import CommandConfig


class Whole:
    """A number of another library."""

    def __index__(self) -> int:
        return 3

    def __float__(self) -> float:
        return 3.5


class BytesPath:
    """A path of bytes, which no field takes."""

    def __fspath__(self) -> bytes:
        return b"x"


# What no field is made for, whatever its annotation says.
STRANGE = (object(), b"quiet", bytearray(b"x"), 1 + 2j, {1, 2}, {"a": 1}, [None], len)


FIELDS = [
    (kind, name)
    for kind in (MachineConfig, ConsoleConfig, CommandConfig)
    for name in kind.parameters()
]


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_what_no_field_takes_is_refused_by_its_name(
    kind: type[Checked], field: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}: .* is not ") as refused:
        kind(**{field: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, name) for kind, name in FIELDS if kind.parameters()[name][1] is not None],
)
def test_none_is_refused_where_it_means_nothing(
    kind: type[Checked], field: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}: None is not "):
        kind(**{field: None})


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("append", None, "None is not text"),
        ("append", ["quiet", "nokaslr"], r"\['quiet', 'nokaslr'\] is not text"),
        ("append", b"quiet", "b'quiet' is not text"),
        ("kernel", b"x", "b'x' is not a path or None"),
        ("kernel", BytesPath(), "is not a path or None"),
        ("cpus", True, "True is not a whole number"),
        ("cpus", 1.0, "1.0 is not a whole number"),
        ("cpus", "2", "'2' is not a whole number"),
        ("memory", 128e6, "128000000.0 is not a whole number or text"),
        ("timeout", "5", "'5' is not a number or None"),
        ("timeout", True, "True is not a number or None"),
        ("debug_exit", "0x501", "'0x501' is not a whole number or None"),
        ("serial", Path("log"), r"PosixPath\('log'\) is not text or a Place"),
        ("on_reset", "halt", "'halt' is not exit, restart or pause"),
        (
            "boot_protocol",
            "bios",
            "is not one of auto, linux64, linux32, pvh, multiboot",
        ),
        ("tee", [Path("log")], "is not text, a Place or a list, each text or a Place"),
        ("command", [Path("/p")], "is not text, a list, each text or None"),
        ("files", "one", "'one' is not a mapping of text to a path or a list"),
        ("files", {"/guest": None}, "is not a mapping of text to a path"),
        ("files", [("a", "b", "c")], r"each a path or a pair \(a path, text\)"),
    ],
)
def test_what_would_fit_is_said(field: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: .*{wanted}"):
        MachineConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["append", "cmdline", "kernel", "serial", "tee"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [("a\0b", "has a NUL byte"), ("a\ud800", "has characters that UTF-8 hasn't")],
    ids=["nul", "surrogate"],
)
def test_text_that_nobody_could_pass_on_is_refused(
    field: str, value: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: .*{problem}"):
        MachineConfig(**{field: value})  # type: ignore[arg-type]


def test_an_argument_that_is_no_utf8_stays_what_it_is() -> None:
    assert MachineConfig(append="a\udcff").append == "a\udcff"


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(ConfigError) as refused:
        MachineConfig(append=b"x" * 100_000)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 100


def test_numbers_of_other_libraries_become_our_own() -> None:
    config = MachineConfig(cpus=Whole(), timeout=Whole(), memory=64 << 20)  # type: ignore[arg-type]
    assert (type(config.cpus), config.cpus) == (int, 3)
    assert (type(config.timeout), config.timeout) == (float, 3.5)


def test_a_whole_number_is_a_time_as_it_is() -> None:
    assert repr(MachineConfig(timeout=5).timeout) == "5"


def test_what_is_given_once_is_read_once() -> None:
    config = MachineConfig(files=(name for name in ("a:/a", "b:/b")))
    assert config.command is not None
    assert config.command.files == (("a", "/a"), ("b", "/b"))


def test_any_path_is_a_path() -> None:
    path = PurePosixPath("k")
    assert MachineConfig(kernel=path).kernel is path
    assert fitting("x", path, StrPath) is path


def test_run_names_the_field() -> None:
    with pytest.raises(ConfigError, match=r"^append: None is not text"):
        vmm.run("k", append=None)  # type: ignore[arg-type]


def test_machine_takes_a_configuration_alone() -> None:
    with pytest.raises(ConfigError, match=r"^config: dict is no MachineConfig"):
        Machine({"kernel": "k"})  # type: ignore[arg-type]
