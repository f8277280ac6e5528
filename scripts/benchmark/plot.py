"""`--plot FILE.png`: a chart per measure, a bar per variant."""

from __future__ import annotations

from importlib import import_module
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from .summary import Row


def load_matplotlib() -> ModuleType:
    """Return matplotlib.figure, which needs no display. Raises BenchError."""
    try:
        return import_module("matplotlib.figure")
    except ImportError:
        raise BenchError(
            "--plot needs matplotlib: .venv/bin/python -m pip install matplotlib"
        ) from None


def draw(rows: Sequence[Row], path: str, title: str) -> None:
    """Draw medians as bars, with a line from the least to the greatest value.

    Raises BenchError where the file can't be written or isn't a kind of picture.
    """
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row.measure)]
    size = (9, 1 + sum(0.7 + 0.35 * len(group) for group in groups))
    figure = load_matplotlib().Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize="small")
    for index, group in enumerate(groups):
        axes = figure.add_subplot(len(groups), 1, index + 1)
        _draw_measure(axes, group)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise BenchError(f"--plot: {path}: {error}") from None


def _draw_measure(axes: Any, rows: Sequence[Row]) -> None:  # noqa: ANN401 - it is optional: no types where it isn't
    medians = [row.median for row in rows]
    below = [row.median - row.spread[0] for row in rows]
    above = [row.spread[1] - row.median for row in rows]
    names = [row.variant for row in rows]
    axes.barh(names, medians, xerr=[below, above], capsize=3)
    axes.invert_yaxis()  # the first on top
    axes.set_title(f"{rows[0].measure} ({rows[0].unit})", loc="left", fontsize="small")
