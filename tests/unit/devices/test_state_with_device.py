"""with_device: a bus's part of a state, and the device's own."""

from typing import Any

import pytest

from vmm.devices import state as state_module
from vmm.devices.errors import InvalidState
from vmm.devices.state import Byte, State, with_device


class Bus(State):
    slot: Byte


class Own(State):
    value: Byte


class Other(State):
    value: Byte


def test_it_has_the_devices_state_through_json() -> None:
    kind = with_device(Bus, Own)
    state = kind(slot=3, device=Own(42))  # type: ignore[call-arg]
    assert state.to_json() == {"slot": 3, "device": {"value": 42}}
    assert kind.from_json(state.to_json()) == state
    with pytest.raises(InvalidState, match=r"BusWithOwn\.device"):
        kind(slot=3, device=Other(42))  # type: ignore[call-arg]


def test_it_is_one_class_whoever_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines' threads may ask for it at once."""

    class Raced(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:  # noqa: ANN401
            """Nothing yet; and before its asker goes on, another has it made."""
            if key not in self:
                self[key] = Own

    monkeypatch.setattr(state_module, "_WITH_DEVICE", Raced())
    made: type[State] = with_device(Bus, Other)
    assert made is Own
