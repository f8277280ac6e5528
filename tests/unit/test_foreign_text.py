"""What a guest or an image wrote, where we show it: nobody is to obey it."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.cli.messages import say, show_traceback
from vmm.errors import ExpectTimeout, ImageError, KvmError
from vmm.foreign_text import one_line, printable
from vmm.result import ExitReason, RunResult

TITLE = "\x1b]0;owned\x07\x1b[31mRED\x1b[0m\x9b2J"  # the terminal's, then ECMA-48
SHOWN = r"\x1b]0;owned\x07\x1b[31mRED\x1b[0m\x9b2J"
OBEYED = re.compile(
    r"^\s*::|##\w*\[|\[\[\s*[\w-]+\s*\||[^\n\t -~\xa1-\U0010ffff]", re.M
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é ✓\ttab\nline", "plain é ✓\ttab\nline"),
        ("a\r\nb", "a\nb"),
        ("10%\r20%\0", r"10%\r20%\x00"),
        (TITLE, SHOWN),
        (b"\xff\x9b2J \xc2\x9b2J", r"\xff\x9b2J \x9b2J"),
        ("\u202egnp.exe\u2028 \udc80", r"\u202egnp.exe\u2028 \udc80"),
        ("[[ATTACHMENT|/etc/shadow]]", r"\x5b[ATTACHMENT|/etc/shadow]]"),
        ("x [[[ PROPERTY |a=b]]", r"x [\x5b[ PROPERTY |a=b]]"),
        ("::error::x", r"\x3a:error::x"),
        ("ok\n \t::add-mask::a", "ok\n \t\\x3a:add-mask::a"),
        ("a\r\n::stop-commands::b", "a\n\\x3a:stop-commands::b"),
        ("##[group]a", r"\x23#[group]a"),
        ("x ##vso[task.setvariable a=b]", r"x \x23#vso[task.setvariable a=b]"),
        ("##teamcity[x]", r"\x23#teamcity[x]"),
        ("if [[ -f x ]]; a::b ## c", "if [[ -f x ]]; a::b ## c"),
    ],
)
def test_what_a_reader_would_obey_is_broken_and_the_rest_stays(
    text: str | bytes, shown: str
) -> None:
    assert printable(text) == shown


PIECES = [
    "[[",
    "[",
    "##",
    "#",
    "::",
    ":",
    "|",
    "]",
    " ",
    "\n",
    "\r\n",
    "\r",
    "a",
    "\x1b",
]


@given(st.lists(st.sampled_from(PIECES) | st.characters()).map("".join))
def test_nothing_is_left_to_obey_and_once_is_enough(text: str) -> None:
    shown = printable(text)
    assert not OBEYED.search(shown)
    assert all(char in "\n\t" or char.isprintable() for char in shown)
    assert printable(shown) == shown
    ElementTree.fromstring(f"<a>{shown.replace('&', '').replace('<', '')}</a>")


@given(st.text())
def test_one_line_is_one(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1


@pytest.mark.parametrize("kind", [ImageError, ExpectTimeout, KvmError])
def test_errors_show_it_as_it_is_safe(kind: type[Exception]) -> None:
    assert str(kind(f"kernel 'x': {TITLE}")) == f"kernel 'x': {SHOWN}"


def test_messages_and_tracebacks_too(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"error: {TITLE}\n::error::")
    show_traceback(ValueError(TITLE))
    shown = capsys.readouterr().err
    assert shown.startswith(f"vmm: error: {SHOWN} \\x3a:error::\n")
    assert shown.endswith(f"ValueError: {SHOWN}\n")


def test_a_results_texts_are_safe_and_its_output_is_as_it_was() -> None:
    result = RunResult(
        ExitReason.PANIC,
        34,
        detail=f"{TITLE}\n[[ATTACHMENT|/etc/shadow]]",
        oops=f"BUG: {TITLE}\r\n::error::",
        report=f"RIP: {TITLE}\nlast POST code: 0x12",
        output=b"\x1b[0m",
    )
    assert result.detail == rf"{SHOWN} \x5b[ATTACHMENT|/etc/shadow]]"
    assert result.oops == f"BUG: {SHOWN}\n\\x3a:error::"
    assert result.report == f"RIP: {SHOWN}\nlast POST code: 0x12"
    assert result.output == b"\x1b[0m"
    assert result.replace(resets=1).detail == result.detail
