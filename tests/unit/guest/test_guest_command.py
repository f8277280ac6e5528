"""A guest's command: what is taken, what is refused, and what the segment has."""

import errno
from pathlib import Path

import pytest
from support.kernel_images import MIB, bzimage

from vmm import ConfigError, MachineConfig
from vmm.cli.main import main
from vmm.guest import program as guest_program
from vmm.guest.command import HELPER, describe_status, initramfs_segment
from vmm.guest.config import CommandConfig


@pytest.fixture
def build_dir(tmp_path: Path) -> str:
    """A directory with a helper."""
    (tmp_path / HELPER).write_bytes(b"helper")
    return str(tmp_path)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.sh"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_configuration_with_a_command_is_hashable_and_copied_as_it_is() -> None:
    config = MachineConfig(command="a", files=["b"], capture="capture")
    assert config.replace() == config
    assert hash(config.replace()) == hash(config)


def test_kernel_starts_the_helper() -> None:
    config = MachineConfig(command="a", cmdline="console=ttyS0 -- word")
    assert config.full_cmdline == "rdinit=/vmm-exec console=ttyS0 -- word"


def test_kernel_looks_for_the_second_uart_only_where_it_is_used() -> None:
    config = MachineConfig(command="a", cmdline="", capture="capture")
    assert config.full_cmdline.split() == ["rdinit=/vmm-exec", "8250.nr_uarts=2"]


def test_segment_has_helper_words_and_files(build_dir: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"content")
    config = CommandConfig(command="p 1", files=[(str(tmp_path / "p"), "/bin/p")])
    segment = initramfs_segment(config, MIB, build_dir)
    assert b"helper" in segment
    assert b"content" in segment
    assert b"vmm-exec.argv\0" in segment
    assert b"\0p\x001\0" in segment  # to the console, so the first word is empty


def test_segment_names_the_terminal_of_captured_output(build_dir: str) -> None:
    segment = initramfs_segment(
        CommandConfig(command="p", capture="null"), MIB, build_dir
    )
    assert b"/dev/ttyS1\0p\0" in segment


def test_segment_has_the_script(build_dir: str, script: Path) -> None:
    segment = initramfs_segment(CommandConfig(script=script), MIB, build_dir)
    assert b"\0/vmm-exec.script\0" in segment
    assert b"#!/bin/sh\n" in segment


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the package is said to be installed."""
    folder = tmp_path / "site-packages/vmm"
    folder.mkdir(parents=True)
    monkeypatch.setattr(guest_program, "__file__", str(folder / "program.py"))
    return folder


def test_helper_of_an_installed_package(package: Path, tmp_path: Path) -> None:
    (package / HELPER).write_bytes(b"installed")
    assert b"installed" in initramfs_segment(
        CommandConfig(command="p"), MIB, str(tmp_path)
    )


@pytest.mark.usefixtures("package")
def test_helper_that_isnt_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vmm-exec isn't built: run 'scripts/build"):
        initramfs_segment(CommandConfig(command="p"), MIB, str(tmp_path))


@pytest.mark.parametrize(
    ("word", "detail"),
    [
        (0, ""),
        (3, "status 3"),
        (127 | errno.ENOENT << 8, "'p' could not be started in the guest: no such"),
        (126 | 0xFF << 8, "the guest's kernel has no /dev/ttyS1"),
        (127 | 0xFE << 8, "'p' could not be started in the guest: it is there, but"),
        (127 | 0xFD << 8, "'p' could not be started in the guest: its lines end in CR"),
    ],
)
def test_detail_says_what_the_word_means(word: int, detail: str) -> None:
    assert describe_status(word, ("p", "1")).startswith(detail)


def test_console_and_command_both_to_stdout() -> None:
    with pytest.raises(ConfigError, match="serial: with capture, stdout has"):
        MachineConfig(command="a", capture="stdout", serial="stdio")


@pytest.mark.parametrize(
    "console", [{"serial": "file:{}/x"}, {"tee": "unix:{}/x"}, {"tee": "file:{}/./x"}]
)
def test_console_and_command_both_to_one_file(
    console: dict[str, str], tmp_path: Path
) -> None:
    settings = {name: where.format(tmp_path) for name, where in console.items()}
    with pytest.raises(
        ConfigError, match=r"capture: 'file:.*/x' is where (serial|tee) goes, too"
    ):
        MachineConfig(command="a", capture=f"file:{tmp_path}/x", **settings)  # type: ignore[arg-type]


def test_rdinit_of_the_users() -> None:
    config = MachineConfig(command="a", append="rdinit=/bin/sh")
    with pytest.raises(ConfigError, match="cmdline: rdinit= excludes command"):
        _ = config.full_cmdline


@pytest.mark.parametrize(
    "arguments",
    [
        ["--add", "/none/p"],
        ["--add", "/dev/null"],
        ["--exec", ""],
        ["--exec", "a", "--add", "{big}"],
        ["--exec", "a", "--append", "rdinit=/b"],
        ["--capture"],
        ["--script", "/none"],
        ["--serial", "file:{big}.log", "--tee", "file:{big}.log"],
    ],
)
def test_bad_input_is_one_line_and_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big, kernel = tmp_path / "big", tmp_path / "vmlinuz"
    big.write_bytes(bytes(40 * MIB))
    kernel.write_bytes(bzimage())
    given = [word.format(big=big) for word in arguments]
    common = ["--kernel", str(kernel), "--initrd", str(kernel), "--quirks", "none"]
    code = main(["run", *common, "--memory", "32M", *given])
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("vmm: error: ")
    assert err.count("\n") == 1


def test_exec_with_script_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--exec", "a", "--script", "b"])
    assert caught.value.code == 2
    assert "not allowed with argument --exec" in capsys.readouterr().err
