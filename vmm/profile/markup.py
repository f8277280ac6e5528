"""Pieces of HTML: text that is safe, numbers that are legible, tables."""

from collections.abc import Iterable
from html import escape

from ..foreign_text import printable


def text(value: object) -> str:
    """Anything as text, whoever wrote it: nothing in it is markup."""
    return escape(printable(str(value)), quote=True)


def duration(ns: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= 0.9995 * size:
            value = ns / size
            digits = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:.{digits}f} {unit}"
    return f"{ns:.0f} ns"


def share(part: float, whole: float) -> float:
    """Percent; 0 of nothing."""
    return 100 * part / whole if whole else 0.0


def bar_cell(percent: float) -> str:
    """A cell with a bar of that length."""
    return f'<td class="bar"><i style="width:{percent:.2f}%"></i></td>'


def table(heads: Iterable[str], rows: Iterable[str], kind: str = "") -> str:
    """`rows` are cells; a "#" before a head makes it one of numbers."""
    cells = "".join(
        f'<th class="n">{text(head[1:])}</th>'
        if head.startswith("#")
        else f"<th>{text(head)}</th>"
        for head in heads
    )
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return (
        f'<table class="{kind}"><thead><tr>{cells}</tr></thead>\n'
        f"<tbody>{body}</tbody></table>\n"
    )


def number_cell(value: int) -> str:
    """A cell with a count."""
    return f'<td class="n">{value:,}</td>'


def time_cell(ns: float) -> str:
    """A cell with a duration."""
    return f'<td class="n">{duration(ns)}</td>'
