"""The table for people and the JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .host import Host
    from .summary import Row

NOT_MEASURED: Final = "not measured"
_HEADER: Final = ("variant", "median", "spread", "/ c", "/ qemu", "exits")
_LINE: Final = "  {:<13} {:>12}  {:>23}  {:>6}  {:>6}  {:>9}"


def as_json(
    host: Host, rows: Sequence[Row], reasons: Mapping[tuple[str, str], str]
) -> dict[str, object]:
    """Return the contents of `--json FILE`."""
    return {
        "host": asdict(host),
        "rows": [asdict(row) for row in rows],
        "not_measured": [
            {"measure": measure, "variant": variant, "reason": reason}
            for (measure, variant), reason in reasons.items()
        ],
    }


def as_text(
    host: Host,
    rows: Sequence[Row],
    reasons: Mapping[tuple[str, str], str],
    titles: Mapping[str, str],
) -> str:
    """Return what is printed; `titles` say what a measure means."""
    lines = [_host_line(host)]
    for measure, group in groupby(rows, key=lambda row: row.measure):
        members = list(group)
        lines += ["", f"{measure}: {titles[measure]}; {members[0].rounds} rounds"]
        lines.append(_LINE.format(*_HEADER))
        lines += map(_row_line, members)
    return "\n".join([*lines, *_reason_lines(reasons)])


def _host_line(host: Host) -> str:
    where = "the software machine" if host.software_machine else "this machine"
    qemu = f"QEMU {host.qemu}" if host.qemu else "no QEMU"
    return (
        f"{host.date}, {where}: {host.kind} KVM, {host.cpus} x {host.cpu}, "
        f"Linux {host.kernel}, Python {host.python}, {qemu}"
    )


def _row_line(row: Row) -> str:
    low, high = row.spread
    ratios = (row.ratio[base] for base in ("c", "qemu"))
    return _LINE.format(
        row.variant,
        f"{_number(row.median)} {row.unit}",
        f"{_number(low)} .. {_number(high)}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        "-" if row.exits is None else f"{row.exits:,.0f}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _reason_lines(reasons: Mapping[tuple[str, str], str]) -> list[str]:
    """Return a line per variant and reason, naming all it is the reason for."""
    together: dict[tuple[str, str], list[str]] = {}
    for (measure, variant), reason in reasons.items():
        together.setdefault((variant, reason), []).append(measure)
    lines = [
        f"  {variant} ({', '.join(measures)}): {reason}"
        for (variant, reason), measures in together.items()
    ]
    return ["", f"{NOT_MEASURED}:", *lines] if lines else []
