"""`vmm run` and `restore` without argparse: what argparse makes of it, or nothing."""

import contextlib
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lengths import cases

from vmm.cli import plain
from vmm.cli.arguments import parser
from vmm.cli.options import RUN_OPTIONS, Options

FLAGS = [flag for group in RUN_OPTIONS.values() for flag, _ in group]
VALUES = ["", "x", "-x", "-1", "--", "a b", "-a b", "1", "0x501", "1.5", "660", "nan"]
VALUES += ["exit", "drop", "pvh", "pvm", "null", "capture", "file:p", "unix:", "\udc80"]
WORDS = (
    st.sampled_from(FLAGS)
    | st.sampled_from(VALUES)
    | st.tuples(st.sampled_from(FLAGS), st.sampled_from(VALUES)).map("=".join)
    | st.sampled_from(["--help", "--ser", "--debug-exi=1", "-h"])
)


def by_argparse(arguments: list[str]) -> dict[str, Any] | None:
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        return vars(parser().parse_args(arguments, Options(debug=False)))
    return None


def shown(options: dict[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in options.items()}  # nan is itself, then


@settings(max_examples=cases(100, 2000))
@given(st.lists(WORDS, max_size=6))
def test_it_is_what_argparse_makes_of_it(words: list[str]) -> None:
    found = plain.read(["run", *words])
    if found is not None:
        expected = by_argparse(["run", *words])
        assert expected is not None
        assert shown(vars(found)) == shown(expected)


@settings(max_examples=cases(50, 1000))
@given(st.lists(WORDS | st.just("dir"), max_size=4))
def test_so_is_what_restore_takes(words: list[str]) -> None:
    found = plain.read(["restore", *words])
    if found is not None:
        expected = by_argparse(["restore", *words])
        assert expected is not None
        assert shown(vars(found)) == shown(expected)


def test_restore_needs_no_argparse() -> None:
    words = ["restore", "dir", "--serial", "null", "--save=other"]
    found = plain.read(words)
    assert found is not None
    assert vars(found) == by_argparse(words)


@pytest.mark.parametrize("value", ["--kernel=k", "--exec=ls -l", "--append="])
def test_plain_words_need_no_argparse(value: str) -> None:
    words = [
        "--timeout",
        "3",
        "--quiet",
        "--no-acpi",
        "--tee",
        "file:a",
        "--tee=file:b",
    ]
    found = plain.read(["run", *words, value])
    assert found is not None
    assert vars(found) == by_argparse(["run", *words, value])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["doctor"],
        ["--debug", "run"],
        ["run", "--help"],
        ["run", "--kern", "k"],
        ["run", "--kernel"],
        ["run", "--kernel", "--quiet"],
        ["run", "--quiet=1"],
        ["run", "--cpus", "two"],
        ["run", "--on-reset", "never"],
        ["run", "--exec", "a", "--script", "b"],
        ["run", "--debug-exit"],
        ["run", "image"],
        ["restore"],
        ["restore", "--quiet", "dir"],
        ["restore", "dir", "other"],
        ["restore", "dir", "--kernel", "k"],
    ],
)
def test_whatever_is_odd_is_left_to_argparse(arguments: list[str]) -> None:
    assert plain.read(arguments) is None
