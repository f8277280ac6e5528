"""I8042Device: saving and restoring."""

import json
from dataclasses import asdict, replace

import pytest
from support.i8042_rig import DATA, KBDINT, XLATE, Rig

from vmm.devices.errors import InvalidState
from vmm.devices.pc.i8042_state import I8042State


def busy_state() -> I8042State:
    rig = Rig()
    rig.command(0x60, KBDINT | XLATE)
    rig.chip.send_scancodes(b"\x1c\x32\xf0")
    rig.command(0xD3, 0x5A)
    rig.command(0xAA)
    rig.command(0xD1)
    return rig.chip.state()


def test_state_survives_json() -> None:
    state = busy_state()
    assert I8042State(**json.loads(json.dumps(asdict(state)))) == state


def test_a_restored_controller_continues_and_raises_what_was_due() -> None:
    rig = Rig()
    rig.chip.restore(replace(busy_state(), responses=()))
    assert rig.irq1.edges == 1
    rig.chip.write(DATA, 0xDE)
    assert rig.reset.edges == 1
    assert rig.drain() == [0x1E, 0x30]
    rig.chip.send_scancodes(b"\x1c")
    assert rig.drain() == [0x9E]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ram": (0,) * 31}, "31 bytes of RAM"),
        ({"responses": ((0, 0),) * 17}, "17 responses"),
        ({"ram": (256,) * 32}, "256 is no byte"),
        ({"latched": -1}, "-1 is no byte"),
        ({"last": "a"}, "'a' is no byte"),
        ({"responses": ((0, 4),)}, "4 is no source"),
        ({"keyboard": {"replies": [0] * 4}}, "4 replies and 0 scancodes"),
        ({"keyboard": {"scancodes": [0] * 257}}, "0 replies and 257 scancodes"),
        ({"keyboard": {"scancodes": [300]}}, "300 is no byte"),
    ],
)
def test_a_state_that_can_not_be_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidState, match=message):
        replace(busy_state(), **changes)  # type: ignore[arg-type]
