"""The page shows the run's numbers, and a guest cannot make it do anything."""

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from support.fake_vcpu import io
from support.profile_rig import PORT, ProfileRig, Slow

from vmm.devices.resources import DeviceResources, PioAddressRange
from vmm.profile.markup import duration
from vmm.profile.page import page
from vmm.result import ExitReason, RunResult

BYTE = memoryview(bytearray(1))
RESULT = RunResult(ExitReason.RESET, 0, exits={"io": 2, "coalesced": 7})
EVIL = "</script></code></style><img src=x onerror=alert(1)>\"'&amp;<!--"
HOSTILE = {"script", "img", "link", "iframe", "object", "form"}


class Reader(HTMLParser):
    """What a browser would see: elements, attributes, text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.open: list[str] = []
        self.attributes: dict[str, set[str]] = {}
        self.text = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag not in ("meta", "br"):  # the void ones
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def rig() -> Iterator[ProfileRig]:
    rig = ProfileRig()
    rig.plug(Slow(rig, 3_000))
    rig.run(100_000, io(PORT, 1))
    rig.recorder.pio_read(PORT, BYTE)
    rig.print(b"one\n")
    rig.pass_ns(50_000_000)
    rig.print(b"two\n")
    yield rig
    rig.close()


def read(rig: ProfileRig, result: RunResult = RESULT) -> Reader:
    rig.profile.power_off()
    return Reader(page(rig.profile, result))


def test_every_element_is_closed_in_order(rig: ProfileRig) -> None:
    assert read(rig).open == []


def test_what_is_counted_is_shown(rig: ProfileRig) -> None:
    text = read(rig).text
    assert f"read port {PORT:#x}Slow113.00 µs3.00 µs3.00 µs" in text
    assert "coalesced: writes that KVM collected, without an exit7" in text
    assert "150.0 ms0.000103" in text


def test_several_boots_are_marked(rig: ProfileRig) -> None:
    rig.reboot()
    rig.print(b"again\n")
    assert "boot 2" in read(rig).text


def test_one_boot_needs_no_mark(rig: ProfileRig) -> None:
    assert "boot 1" not in read(rig).text


def test_a_hostile_line_stays_text(rig: ProfileRig) -> None:
    rig.print(EVIL.encode() + b"\n")
    reader = read(rig)
    assert HOSTILE.isdisjoint(reader.elements)
    assert reader.open == []
    assert reader.text.count(EVIL) == 3  # two gaps and the console


def test_a_hostile_name_or_command_line_stays_text(rig: ProfileRig) -> None:
    device = type(EVIL, (Slow,), {})(rig, 1)
    resources = DeviceResources([PioAddressRange(0x600, 1)])
    rig.bus.register_device_io(device, resources)
    rig.recorder.pio_read(0x600, BYTE)
    reader = read(rig, RunResult(ExitReason.PANIC, 34, detail=EVIL, cmdline=EVIL))
    assert HOSTILE.isdisjoint(reader.elements)
    assert reader.open == []
    assert reader.text.count(EVIL) == 4  # and twice in the tables of accesses


def test_nothing_is_loaded_and_nothing_runs(rig: ProfileRig) -> None:
    reader = read(rig)
    assert HOSTILE.isdisjoint(reader.elements)
    assert {"src", "href", "onerror"}.isdisjoint(reader.attributes)
    assert (
        "default-src 'none'; style-src 'unsafe-inline'"
        in (reader.attributes["content"])
    )
    assert "url(" not in page(rig.profile, RESULT)


def test_what_was_left_out_is_told(rig: ProfileRig) -> None:
    rig.print(b"x" * 1000 + b"\n")
    assert "Left out: 760 bytes at the ends of long console lines." in read(rig).text


def test_a_run_that_never_powered_on_has_a_page() -> None:
    rig = ProfileRig()
    assert "Profile of a run" in Reader(page(rig.profile, RESULT)).text
    rig.close()


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (999.6, "1.00 µs"),
        (1_234, "1.23 µs"),
        (999_700, "1.00 ms"),
        (12_340_000, "12.3 ms"),
        (123_400_000, "123 ms"),
        (61_200_000_000, "61.2 s"),
    ],
)
def test_a_duration_has_three_digits_and_a_unit(ns: float, shown: str) -> None:
    assert duration(ns) == shown
