"""A profile as one HTML page: no script, and nothing that is loaded from elsewhere.

The guest wrote some of it, and a guest is not trusted: whatever comes from it goes
through `text`, and the policy in the head forbids scripts and requests.
"""

from typing import Final

from ..result import RunResult
from ..version import __version__
from .markup import bar_cell, duration, number_cell, share, table, text, time_cell
from .recorder import MAX_BOOTS, Profile
from .strip import Scale, timeline_strip
from .style import STYLE
from .summary import Gap, gaps, left_out, ranked_devices, ranked_places
from .timeline import MAX_LINES, Line
from .vcpu import MAX_PLACES, Tally, VcpuProfile

SHOWN_GAPS: Final = 15
SHOWN_PLACES: Final = 100
_KINDS: Final = {
    "intr": "intr: KVM_RUN was left for a signal of ours",
    "coalesced": "coalesced: writes that KVM collected, without an exit",
    "fast": "fast: of io, served in C",
}
_LEFT_OUT: Final = {
    "console_lines": f"console lines after the first {MAX_LINES:,}",
    "console_bytes": "bytes at the ends of long console lines",
    "boots": f"boots after the first {MAX_BOOTS:,}",
    "accesses_elsewhere": f"accesses to places after the first {MAX_PLACES:,}",
}


def page(profile: Profile, result: RunResult) -> str:
    """The whole file."""
    ranked = gaps(profile)[:SHOWN_GAPS]
    scale = Scale(profile)
    sections = (
        _head(result, profile, scale),
        _where_time_went(profile),
        timeline_strip(profile, ranked, scale),
        _gap_table(ranked, scale),
        _devices(profile),
        _kinds(result),
        _places(profile),
        _console(profile, scale),
        _notes(profile),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>vmm run: {text(result.reason.value)}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{''.join(sections)}</body>\n</html>\n"
    )


def _head(result: RunResult, profile: Profile, scale: Scale) -> str:
    detail = f": {result.detail}" if result.detail else ""
    facts = {
        "ended by": f"{result.reason.value}{detail}",
        "power-on to end": duration(scale.span_ns),
        "boots": f"{len(profile.boots) + profile.boots_left_out:,}",
        "exits": f"{sum(vcpu.entries for vcpu in profile.vcpus.values()):,}",
        "console lines": f"{profile.timeline.count:,}",
        "console bytes": f"{result.console_bytes:,}",
        "vmm": __version__,
        "command line": result.cmdline,
    }
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f"<h1>Profile of a run</h1>\n<dl>{items}</dl>\n"


def _where_time_went(profile: Profile) -> str:
    rows = [_vcpu_row(vcpu) for _, vcpu in sorted(profile.vcpus.items())]
    heads = ("vCPU", "", "#guest and KVM", "#devices", "#run loop", "#exits")
    return (
        "<h2>Where the time went</h2>\n"
        f"{table(heads, rows)}"
        '<p class="note"><b class="guest"></b> guest and KVM: inside KVM_RUN, a '
        'halted CPU\'s sleep too · <b class="device"></b> devices: in their code · '
        '<b class="own"></b> run loop: between the two, with the recording itself</p>\n'
    )


def _vcpu_row(vcpu: VcpuProfile) -> str:
    parts = {"guest": vcpu.guest_ns, "device": vcpu.device_ns, "own": vcpu.own_ns}
    whole = sum(parts.values())
    bar = "".join(
        f'<b class="{name}" style="width:{share(part, whole):.2f}%"></b>'
        for name, part in parts.items()
    )
    times = "".join(
        f'<td class="n">{duration(part)}<small>{share(part, whole):.1f}%</small></td>'
        for part in parts.values()
    )
    return (
        f'<td>{vcpu.index}</td><td class="split">{bar}</td>'
        f"{times}{number_cell(vcpu.entries)}"
    )


def _gap_table(ranked: list[Gap], scale: Scale) -> str:
    rows = []
    for rank, gap in enumerate(ranked, start=1):
        between = f"<code>{text(gap.after)}</code><br><code>{text(gap.before)}</code>"
        rows.append(
            f"{number_cell(rank)}{time_cell(gap.ns)}"
            f"{bar_cell(share(gap.ns, scale.span_ns))}"
            f'<td class="n">{scale.since(gap.start.ns)}</td>'
            f"{number_cell(gap.exits)}{time_cell(gap.device_ns)}<td>{between}</td>"
        )
    heads = ("#", "#gap", "of all", "#from, s", "#exits", "#in devices", "between")
    return f"<h2>Slowest gaps between console lines</h2>\n{table(heads, rows, 'gaps')}"


_TALLY_HEADS: Final = ("#exits", "#accesses", "#total", "", "#mean", "#longest")


def _tally_cells(tally: Tally, most_ns: int) -> str:
    return (
        f"{number_cell(tally.exits)}{number_cell(tally.accesses)}{time_cell(tally.total_ns)}"
        f"{bar_cell(share(tally.total_ns, most_ns))}"
        f"{time_cell(tally.total_ns / tally.accesses)}{time_cell(tally.longest_ns)}"
    )


def _device_name(name: str | None) -> str:
    return (
        '<td class="none">no device</td>' if name is None else f"<td>{text(name)}</td>"
    )


def _devices(profile: Profile) -> str:
    ranked = ranked_devices(profile)
    most = max((tally.total_ns for _, tally in ranked), default=0)
    rows = [_device_name(name) + _tally_cells(tally, most) for name, tally in ranked]
    return f"<h2>Exits by device</h2>\n{table(('device', *_TALLY_HEADS), rows)}"


def _places(profile: Profile) -> str:
    ranked = ranked_places(profile)
    most = max((tally.total_ns for _, tally in ranked), default=0)
    rows = [
        f"<td>{text(place.name)}</td>{_device_name(place.device)}"
        f"{_tally_cells(tally, most)}"
        for place, tally in ranked[:SHOWN_PLACES]
    ]
    more = len(ranked) - SHOWN_PLACES
    note = f'<p class="note">and {more:,} more</p>\n' if more > 0 else ""
    heads = ("access", "device", *_TALLY_HEADS)
    return f"<h2>Exits by port and address</h2>\n{table(heads, rows)}{note}"


def _kinds(result: RunResult) -> str:
    ranked = sorted(result.exits.items(), key=lambda item: -item[1])
    rows = (
        f"<td>{text(_KINDS.get(kind, kind))}</td>{number_cell(count)}"
        for kind, count in ranked
        if count
    )
    return f"<h2>Exits by kind</h2>\n{table(('kind', '#exits'), rows, 'narrow')}"


def _console(profile: Profile, scale: Scale) -> str:
    rows: list[str] = []
    for number, boot in enumerate(profile.boots, start=1):
        if len(profile.boots) > 1:
            rows.append(f'<td colspan="3" class="boot">boot {number}</td>')
        before = boot.start.ns
        for line in profile.timeline.lines[boot.first_line : boot.last_line]:
            rows.append(_line_row(line, before, scale))
            before = line.end.ns
    heads = ("#at, s", "#after", "line")
    return (
        "<details open><summary>Console</summary>\n"
        f"{table(heads, rows, 'console')}</details>\n"
    )


def _line_row(line: Line, before_ns: int, scale: Scale) -> str:
    pause = line.start.ns - before_ns
    slow = " slow" if pause > scale.span_ns / 50 else ""
    return (
        f'<td class="n">{scale.since(line.start.ns)}</td>'
        f'<td class="n{slow}">{duration(pause)}</td>'
        f"<td><code>{text(line.text)}</code></td>"
    )


def _notes(profile: Profile) -> str:
    missing = [
        f"{count:,} {_LEFT_OUT[name]}"
        for name, count in left_out(profile).items()
        if count and name in _LEFT_OUT
    ]
    items = (
        "A line begins when the UART hands its first byte to the console.",
        "A write that KVM has collected reaches its device with the guest's next "
        "exit, or some 20 ms later.",
        "Recording adds some microseconds to an exit: compare what is here with each "
        "other, not with a run that isn't recorded.",
        *([f"Left out: {', '.join(missing)}."] if missing else []),
    )
    listed = "".join(f"<li>{text(item)}</li>" for item in items)
    return f"<h2>Notes</h2>\n<ul>{listed}</ul>\n"
