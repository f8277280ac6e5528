"""Place: what is one, and what is refused by the name of its field."""

import os
from pathlib import Path

import pytest

from vmm.errors import ConfigError
from vmm.place import Place, check_apart, parse_place, place

PLAIN = ("stdio", "null", "on", "capture")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("null", Place("null")),
        ("capture", Place("capture")),
        ("file:log", Place("file", "log")),
        ("unix:/a:b", Place("unix", "/a:b")),
        ("file::", Place("file", ":")),
    ],
)
def test_text_is_a_place_and_the_other_way_round(text: str, found: Place) -> None:
    assert parse_place(text, PLAIN) == found
    assert str(found) == text
    assert place("x", found, PLAIN) == found


@pytest.mark.parametrize(
    "text", ["", "tty", "file", "file:", "unix:", "null:", "null:x", "stdout", "tcp:1"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    words = "is not stdio, null, on, file:PATH or unix:PATH"
    with pytest.raises(ValueError, match=f"^'{text}' {words}$"):
        parse_place(text, PLAIN)
    with pytest.raises(ConfigError, match=f"^serial: '{text}' {words}$"):
        place("serial", text, PLAIN)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("tcp", ""),
        ("file", ""),
        ("null", "x"),
        ("", "x"),
        (None, ""),
        ("file", b"x"),
        ("file", "a\0b"),
        ("file", ["x"]),
    ],
)
def test_a_place_that_is_none_can_not_be_made(kind: str, path: str) -> None:
    with pytest.raises(ConfigError, match=r"^(kind|path): "):
        Place(kind, path)


def test_one_file_has_one_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x")
    names = [f"{tmp_path}/x", f"{tmp_path}/./x", f"{tmp_path}/link"]
    assert {Place("file", name).file for name in names} == {f"{tmp_path}/x"}
    assert Place("file", "x").file == os.path.realpath("x")
    assert Place("null").file is None


def test_one_file_for_two_is_refused_by_the_later() -> None:
    places = [("serial", Place("null")), ("tee", Place("null"))]
    check_apart([*places, ("capture", Place("file", "a")), ("x", Place("unix", "b"))])
    with pytest.raises(ConfigError, match=r"^tee: 'unix:a' is where serial goes, too"):
        check_apart([("serial", Place("file", "a")), ("tee", Place("unix", "a"))])
