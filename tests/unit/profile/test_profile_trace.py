"""The trace keeps to Chrome's Trace Event Format, so that Perfetto opens it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_vcpu import io
from support.profile_rig import PORT, ProfileRig, Slow

from vmm.profile import timeline
from vmm.profile.trace import BOOTS, CONSOLE, FIRST_VCPU, trace
from vmm.result import ExitReason, RunResult

BYTE = memoryview(bytearray(1))
RESULT = RunResult(ExitReason.RESET, 0, exits={"io": 2}, cmdline="quiet")
KEYS = {
    "M": {"ph", "ts", "pid", "tid", "name", "args"},
    "X": {"ph", "ts", "dur", "pid", "tid", "name", "args"},
    "C": {"ph", "ts", "pid", "tid", "name", "args"},
}
Event = dict[str, Any]


@pytest.fixture
def rig() -> Iterator[ProfileRig]:
    """Two boots with exits, accesses and lines."""
    rig = ProfileRig()
    rig.plug(Slow(rig, 3_000))
    rig.run(100_000, io(PORT, 1))
    rig.recorder.pio_read(PORT, BYTE)
    rig.print(b"one\n", per_byte_ns=1_000)
    rig.pass_ns(50_000)
    rig.print(b"two\n")
    rig.pass_ns(20_000)
    rig.reboot()
    rig.run(200_000, io(PORT, 1))
    rig.recorder.pio_read(PORT, BYTE)
    rig.print(b"three\n")
    rig.profile.power_off()
    yield rig
    rig.close()


def written(rig: ProfileRig) -> dict[str, Any]:
    """The trace as a reader of the file sees it."""
    loaded: dict[str, Any] = json.loads(json.dumps(trace(rig.profile, RESULT)))
    return loaded


def track(rig: ProfileRig, tid: int) -> list[Event]:
    events: list[Event] = written(rig)["traceEvents"]
    return [event for event in events if event["ph"] == "X" and event["tid"] == tid]


def test_every_event_has_what_its_phase_wants(rig: ProfileRig) -> None:
    for event in written(rig)["traceEvents"]:
        assert set(event) == KEYS[event["ph"]]
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["ts"], int | float)
        assert isinstance(event["args"], dict)
        assert event["ts"] >= 0
        assert event.get("dur", 0) >= 0


def test_slices_of_a_track_do_not_overlap(rig: ProfileRig) -> None:
    for tid in (BOOTS, CONSOLE, FIRST_VCPU):
        events = track(rig, tid)
        assert len(events) > 1
        ends = [event["ts"] + event["dur"] for event in events]
        starts = [event["ts"] for event in events]
        assert all(
            end <= start + 1e-6 for end, start in zip(ends, starts[1:], strict=False)
        )


def test_every_track_has_a_name(rig: ProfileRig) -> None:
    events: list[Event] = written(rig)["traceEvents"]
    names = {
        event["tid"]: event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    assert names == {BOOTS: "boots", CONSOLE: "console", FIRST_VCPU: "vCPU 0"}


def test_times_are_microseconds_from_power_on(rig: ProfileRig) -> None:
    stay, access = track(rig, FIRST_VCPU)[:2]
    assert (stay["ts"], stay["dur"], stay["name"]) == (0, 100, "guest and KVM")
    assert (access["ts"], access["dur"]) == (100, 3)
    assert access["name"] == f"Slow: read port {PORT:#x}"


def test_a_line_lasts_until_the_next(rig: ProfileRig) -> None:
    first, second, third = track(rig, CONSOLE)
    assert (first["name"], first["ts"], first["dur"]) == ("one", 104, 53)
    assert first["args"]["printing_us"] == 3
    assert (second["name"], second["ts"], second["dur"]) == ("two", 157, 20)
    assert (third["name"], third["dur"]) == ("three", 0)


def test_each_boot_is_marked(rig: ProfileRig) -> None:
    boots = track(rig, BOOTS)
    assert [boot["name"] for boot in boots] == ["boot 1", "boot 2"]
    assert [(boot["ts"], boot["dur"]) for boot in boots] == [(0, 177), (177, 203)]


def test_totals(rig: ProfileRig) -> None:
    totals = written(rig)["otherData"]
    assert totals["exits"] == {"io": 2}
    assert totals["result"]["cmdline"] == "quiet"
    assert totals["vcpus"] == [
        {
            "vcpu": 0,
            "entries": 2,
            "guest_and_kvm_us": 300,
            "devices_us": 6,
            "run_loop_us": 74,
        }
    ]
    assert totals["places"] == [
        {
            "device": "Slow",
            "bus": "PIO",
            "address": PORT,
            "access": "read",
            "exits": 2,
            "accesses": 2,
            "total_us": 6,
            "mean_us": 3,
            "longest_us": 3,
        }
    ]
    assert totals["left_out"] == {
        "console_lines": 0,
        "console_bytes": 0,
        "boots": 0,
        "accesses_elsewhere": 0,
        "slices": 0,
    }


def test_gaps_are_ranked_and_tell_what_the_guest_did(rig: ProfileRig) -> None:
    gaps = written(rig)["otherData"]["gaps"]
    assert [(gap["after"], gap["before"], gap["dur_us"]) for gap in gaps[:3]] == [
        ("(power on)", "three", 203),
        ("(power on)", "one", 104),
        ("one", "two", 50),
    ]
    assert (gaps[0]["exits"], gaps[0]["devices_us"]) == (1, 3)


def test_no_gap_is_told_of_where_lines_were_left_out(
    rig: ProfileRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "MAX_LINES", 3)
    rig.profile.power_on()
    rig.print(b"four\n")
    rig.pass_ns(9_000_000)
    rig.profile.power_off()
    totals = written(rig)["otherData"]
    assert totals["left_out"]["console_lines"] == 1
    assert max(gap["dur_us"] for gap in totals["gaps"]) == 203
    assert len(track(rig, CONSOLE)) == 3


def test_a_run_that_never_powered_on_has_a_trace(rig: ProfileRig) -> None:
    empty = ProfileRig()
    assert track(empty, BOOTS) == []
    empty.close()


def test_whatever_the_guest_printed_is_json(rig: ProfileRig) -> None:
    rig.profile.power_on()
    rig.print(b'"\\\x00\xff\xed\xa0\x80</script>\n')
    rig.profile.power_off()
    assert track(rig, CONSOLE)[-1]["name"] == '"\\\\x00\\xff\\xed\\xa0\\x80</script>'
