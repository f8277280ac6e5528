"""CommandConfig: what is taken, and the field that is named where it isn't."""

import os
from pathlib import Path

import pytest

from vmm import ConfigError
from vmm.guest.config import CommandConfig
from vmm.place import Place


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.sh"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_line_is_split_as_a_shell_does() -> None:
    config = CommandConfig(command="prog 'two words' $HOME")
    assert config.command == ("prog", "two words", "$HOME")


def test_words_are_taken_as_they_are() -> None:
    assert CommandConfig(command=["a b", ""]).command == ("a b", "")


def test_files_by_guest_path_by_pair_or_by_spec() -> None:
    pair = ("host", "/guest")
    assert CommandConfig(files={"/guest": "host"}).files == (pair,)
    assert CommandConfig(files=[pair]).files == (pair,)
    assert CommandConfig(files=["host:/guest"]).files == (pair,)


def test_capture_is_a_place() -> None:
    assert CommandConfig(command="a", capture="file:x").capture == Place("file", "x")


@pytest.mark.parametrize("command", ["", "  ", "''", []])
def test_empty_command(command: str | list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^command: it is empty"):
        CommandConfig(command=command)


def test_quote_without_its_end() -> None:
    with pytest.raises(ConfigError, match=r"^command: .*no closing quotation"):
        CommandConfig(command="echo 'a")


@pytest.mark.parametrize("words", [["a"] * 257, ["a", "b" * 70_000]])
def test_longer_than_the_helper_takes(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="put it into a script"):
        CommandConfig(command=words)


def test_nul_in_the_command() -> None:
    with pytest.raises(ConfigError, match="NUL"):
        CommandConfig(command=["a\0b"])


def test_command_and_script(script: Path) -> None:
    with pytest.raises(ConfigError, match="script: it excludes command"):
        CommandConfig(command="a", script=script)


def test_script_without_run_bit(script: Path) -> None:
    script.chmod(0o644)
    with pytest.raises(ConfigError, match=r"script\.sh' has no run bit: chmod \+x"):
        CommandConfig(script=script)


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        (
            b"#!/bin/sh\r\necho\r\n",
            r"has lines that end in CR LF.*; sed -i 's/\\r\$//' ",
        ),
        (b"echo\r\n", "has lines that end in CR LF"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "begins with a byte order mark"),
    ],
    ids=["crlf", "crlf-without-interpreter", "byte-order-mark"],
)
def test_script_that_windows_has_written(
    script: Path, head: bytes, complaint: str
) -> None:
    script.write_bytes(head)
    with pytest.raises(ConfigError, match=f"^script: '{script}' {complaint}"):
        CommandConfig(script=script)


@pytest.mark.parametrize(
    "head", [b"", b"#!/bin/sh", b"\x7fELF\r\n", b"#!/bin/sh\na\r\n"]
)
def test_script_of_any_other_kind_is_taken(script: Path, head: bytes) -> None:
    script.write_bytes(head)
    assert CommandConfig(script=script).script == str(script)


def test_script_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"script: '.*/none': No such file"):
        CommandConfig(script=tmp_path / "none")


def test_script_that_is_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o700)
    with pytest.raises(ConfigError, match=r"script: '.*/pipe': is a pipe, not a file"):
        CommandConfig(script=tmp_path / "pipe")


def test_capture_without_a_command() -> None:
    with pytest.raises(ConfigError, match="capture: there is no command"):
        CommandConfig(capture="capture")


def test_capture_to_an_unknown_place() -> None:
    with pytest.raises(ConfigError, match="capture: 'stdin' is not stdout, null"):
        CommandConfig(command="a", capture="stdin")


def test_one_path_in_place_of_many() -> None:
    with pytest.raises(
        ConfigError, match=r"^files: 'prog' is not a mapping .* or a list"
    ):
        CommandConfig(files="prog")


def test_relative_path_in_the_guest() -> None:
    with pytest.raises(ConfigError, match="'bin/p' is no absolute path"):
        CommandConfig(files={"bin/p": "p"})
