"""Text that others wrote (guests, images, users' devices), fit to be shown by us.

All of it passes `printable` before it gets into a message, an error, a report, or a
file that somebody parses. A console that was given a terminal, and what is asked for
as bytes, are not touched.

What else reads such text, and acts on it: terminals (ECMA-48); GitHub's runner, for
lines that begin with `::`; its runner and Azure's, for `##[` and `##vso[` anywhere, as
TeamCity for `##teamcity[`; and what publishes JUnit XML, for `[[ATTACHMENT|PATH]]`
and its kin, in the output of a test.
"""

import re
from typing import Final

_SIGNS: Final = ("::", "##", "[[")
_MARKER: Final = (  # compiled when it is needed: most runs show nothing of a guest's
    r"(?m)^[ \t]*:(?=:)"  # ::error::, ::add-mask::
    r"|#(?=#\w*\[)"  # ##[group], ##vso[task.setvariable ...], ##teamcity[...]
    r"|\[(?=\[\s*[\w-]+\s*\|)"  # [[ATTACHMENT|/etc/shadow]], [[PROPERTY|a=b]]
)


def printable(text: str | bytes) -> str:
    """The same with newlines and tabs, but nothing that a reader would obey.

    What isn't printable is written as Python escapes it, and so is the first
    character of what CI servers take for a command. Once is enough: doing it again
    changes nothing.
    """
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    if not text.isprintable():
        text = re.sub(r"[^\t\n\x20-\x7e]", _shown, text.replace("\r\n", "\n"))
    if any(sign in text for sign in _SIGNS):
        text = re.sub(_MARKER, _broken, text)
    return text


def one_line(text: str | bytes) -> str:
    """As `printable`, on one line, with one space in place of any white space."""
    return " ".join(printable(text).split())


def _shown(match: re.Match[str]) -> str:
    char = match[0]
    return char if char.isprintable() else ascii(char)[1:-1]


def _broken(match: re.Match[str]) -> str:
    return f"{match[0][:-1]}\\x{ord(match[0][-1]):02x}"
