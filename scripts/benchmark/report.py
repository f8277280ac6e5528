"""The table for people and the JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .host import Host
    from .summary import Row

COLUMNS_MAX: Final = 8
NOT_MEASURED: Final = "not measured"


def as_json(
    host: Host,
    booted: Mapping[str, object] | None,
    rows: Sequence[Row],
    reasons: Mapping[tuple[str, str], str],
) -> dict[str, object]:
    """Return the contents of `--json FILE`; `booted` is the kernel, if any was."""
    return {
        "host": asdict(host),
        "booted": booted,
        "rows": [asdict(row) for row in rows],
        "not_measured": [
            {"measure": measure, "variant": variant, "reason": reason}
            for (measure, variant), reason in reasons.items()
        ],
    }


def as_text(
    host: Host,
    booted: Mapping[str, object] | None,
    rows: Sequence[Row],
    reasons: Mapping[tuple[str, str], str],
    titles: Mapping[str, str],
) -> str:
    """Return what is printed; `titles` say what a measure means."""
    lines = _head(host, booted)
    for measure, group in groupby(rows, key=lambda row: row.measure):
        members = list(group)
        rounds = max(row.rounds for row in members)
        lines += ["", f"{measure}: {titles[measure]}; {rounds} rounds"]
        lines += _table(members)
    return "\n".join([*lines, *_reason_lines(reasons)])


def as_markdown(
    host: Host, booted: Mapping[str, object] | None, rows: Sequence[Row]
) -> str:
    """Return the medians for a README: a line per variant, a column per measure.

    The other way round where that is a table as wide as nobody's page.
    """
    measures = list(dict.fromkeys(row.measure for row in rows))
    variants = list(dict.fromkeys(row.variant for row in rows))
    medians = {(row.variant, row.measure): _median(row) for row in rows}
    across, down = measures, variants
    if len(measures) > COLUMNS_MAX:
        across, down = variants, measures
        medians = {(down, across): text for (across, down), text in medians.items()}
    lines = [*_head(host, booted), "", f"| median | {' | '.join(across)} |"]
    lines.append("|---" * (1 + len(across)) + "|")
    for name in down:
        cells = (medians.get((name, other), "") for other in across)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _head(host: Host, booted: Mapping[str, object] | None) -> list[str]:
    """Return what the figures hang on."""
    where = "the software machine" if host.software_machine else "this machine"
    peers = [f"{name} {version}" for name, version in host.peers.items() if version]
    lines = [
        f"{host.date}, {where}: {host.kind} KVM, {host.cpus} x {host.cpu}, "
        f"Linux {host.kernel}, Python {host.python}; {', '.join(peers) or 'no peers'}"
    ]
    if booted:
        release = str(booted["version"]).partition(" ")[0]
        text = "boot: {kernel} ({}), {initrd}, {memory_mib} MiB, {cpus} CPU; {cmdline}"
        lines.append(text.format(release, **booted))
    return lines


def _table(rows: Sequence[Row]) -> list[str]:
    """Return a header and a line per row, with ratios to all bases that there are."""
    bases = [
        base
        for base in rows[0].ratio
        if any(row.ratio[base] is not None for row in rows)
    ]
    header = ["variant", "median", "spread", *(f"/ {base}" for base in bases), "exits"]
    cells = [header, *(_cells(row, bases) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def _cells(row: Row, bases: Sequence[str]) -> list[str]:
    low, high = row.spread
    ratios = (row.ratio[base] for base in bases)
    return [
        row.variant,
        _median(row),
        f"{_number(low)} .. {_number(high)}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        "-" if row.exits is None else f"{row.exits:,.0f}",
    ]


def _median(row: Row) -> str:
    return f"{_number(row.median)} {row.unit}"


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
