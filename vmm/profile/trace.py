"""A profile in Chrome's trace event format, which Perfetto and chrome://tracing open.

Source: "Trace Event Format", the JSON Object Format. Times are in microseconds from
power-on.
"""

from itertools import chain, pairwise
from typing import Any, Final, TypeAlias

from ..result import RunResult
from .recorder import Profile
from .summary import gaps, left_out, ranked_places
from .vcpu import Place, Slice, Tally, VcpuProfile

PID: Final = 1
BOOTS: Final = 2  # thread ids: one track each
CONSOLE: Final = 3
FIRST_VCPU: Final = 10
MAX_GAPS: Final = 20

Event: TypeAlias = dict[str, Any]


def trace(profile: Profile, result: RunResult) -> dict[str, Any]:
    """What goes into the file; the totals are in `otherData`."""
    origin = profile.boots[0].start.ns if profile.boots else 0
    timed = chain(
        _boots(profile, origin),
        _console(profile, origin),
        chain.from_iterable(_vcpu(vcpu, origin) for vcpu in profile.vcpus.values()),
    )
    return {
        "traceEvents": [*_names(profile), *timed],
        "displayTimeUnit": "ms",
        "otherData": _totals(profile, result, origin),
    }


def _names(profile: Profile) -> list[Event]:
    tracks = {BOOTS: "boots", CONSOLE: "console"}
    tracks |= {FIRST_VCPU + index: f"vCPU {index}" for index in sorted(profile.vcpus)}
    events = [_metadata("process_name", CONSOLE, name="guest")]
    for tid, name in tracks.items():
        events.append(_metadata("thread_name", tid, name=name))
        events.append(_metadata("thread_sort_index", tid, sort_index=tid))
    return events


def _metadata(kind: str, tid: int, **args: object) -> Event:
    return {"ph": "M", "ts": 0, "pid": PID, "tid": tid, "name": kind, "args": args}


def _complete(
    name: str, tid: int, start_us: float, dur_us: float, **args: object
) -> Event:
    return {
        "ph": "X",
        "ts": start_us,
        "dur": dur_us,
        "pid": PID,
        "tid": tid,
        "name": name,
        "args": args,
    }


def _us(ns: int) -> float:
    return ns / 1000


def _boots(profile: Profile, origin: int) -> list[Event]:
    return [
        _complete(
            f"boot {number}",
            BOOTS,
            _us(boot.start.ns - origin),
            _us(boot.end.ns - boot.start.ns),
            exits=boot.end.exits - boot.start.exits,
        )
        for number, boot in enumerate(profile.boots, start=1)
    ]


def _console(profile: Profile, origin: int) -> list[Event]:
    """Each line lasts until the next one begins: that is what makes gaps seen."""
    events: list[Event] = []
    lines = profile.timeline.lines
    for boot in profile.boots:
        own = lines[boot.first_line : boot.last_line]
        is_whole = boot.last_line <= len(lines)
        ends = boot.end if is_whole or not own else own[-1].end
        starts = [*(line.start for line in own), ends]
        for line, (start, following) in zip(own, pairwise(starts), strict=True):
            events.append(
                _complete(
                    line.text,
                    CONSOLE,
                    _us(start.ns - origin),
                    _us(following.ns - start.ns),
                    printing_us=_us(line.end.ns - start.ns),
                    exits=following.exits - start.exits,
                )
            )
            events.append(
                {
                    "ph": "C",
                    "ts": _us(start.ns - origin),
                    "pid": PID,
                    "tid": CONSOLE,
                    "name": "exits",
                    "args": {"exits": start.exits},
                }
            )
    return events


def _vcpu(vcpu: VcpuProfile, origin: int) -> list[Event]:
    return [_slice(vcpu.index, piece, origin) for piece in vcpu.slices()]


def _slice(index: int, piece: Slice, origin: int) -> Event:
    start, duration = _us(piece.start_ns - origin), _us(piece.duration_ns)
    tid = FIRST_VCPU + index
    if piece.place is None:
        return _complete("guest and KVM", tid, start, duration)
    device = piece.place.device or "no device"
    return _complete(
        f"{device}: {piece.place.name}", tid, start, duration, device=device
    )


def _totals(profile: Profile, result: RunResult, origin: int) -> dict[str, Any]:
    return {
        "result": result.to_dict(),
        "exits": result.exits,
        "vcpus": [_vcpu_totals(vcpu) for vcpu in profile.vcpus.values()],
        "places": [_place_totals(*item) for item in ranked_places(profile)],
        "gaps": [
            {
                "start_us": _us(gap.start.ns - origin),
                "dur_us": _us(gap.ns),
                "exits": gap.exits,
                "devices_us": _us(gap.device_ns),
                "after": gap.after,
                "before": gap.before,
            }
            for gap in gaps(profile)[:MAX_GAPS]
        ],
        "left_out": left_out(profile),
    }


def _vcpu_totals(vcpu: VcpuProfile) -> dict[str, Any]:
    return {
        "vcpu": vcpu.index,
        "entries": vcpu.entries,
        "guest_and_kvm_us": _us(vcpu.guest_ns),
        "devices_us": _us(vcpu.device_ns),
        "run_loop_us": _us(vcpu.own_ns),
    }


def _place_totals(place: Place, tally: Tally) -> dict[str, Any]:
    return {
        "device": place.device,
        "bus": place.bus,
        "address": place.address,
        "access": "write" if place.is_write else "read",
        "exits": tally.exits,
        "accesses": tally.accesses,
        "total_us": _us(tally.total_ns),
        "mean_us": _us(round(tally.total_ns / tally.accesses)),
        "longest_us": _us(tally.longest_ns),
    }
