"""IoManager against a dictionary."""

from hypothesis import given
from hypothesis import strategies as st
from support.io_manager_rig import Echo, mmio, pio

from vmm.devices.bus.io_manager import IoManager
from vmm.devices.errors import DeviceOverlap, NoDevice
from vmm.devices.resources import MmioAddressRange, PioAddressRange

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["plug", "unplug", "pio", "mmio"]),
        st.integers(0, 40),
        st.integers(1, 9),
    ),
    max_size=80,
)


@given(_STEPS)
def test_any_sequence_agrees_with_a_dictionary(
    steps: list[tuple[str, int, int]],
) -> None:
    manager = IoManager()
    model: dict[int, tuple[int, int, int]] = {}  # address: base, size, tag
    for tag, (step, base, size) in enumerate(steps):
        span = range(base, base + size)
        place = [PioAddressRange(base, size), MmioAddressRange(base, size)]
        if step == "plug":
            free = not any(at in model for at in span)
            assert _succeeds(manager.register_device_io, Echo(tag), place) == free
            if free:
                model.update(dict.fromkeys(span, (base, size, tag)))
        elif step == "unplug":
            exact = model.get(base, (None, None))[:2] == (base, size)
            assert _succeeds(manager.unregister_device_io, place) == exact
            if exact:
                for at in span:
                    del model[at]
        else:
            hit = model.get(base)
            inside = hit is not None and base + size <= hit[0] + hit[1]
            expected = bytes([hit[2] if hit and inside else 0xFF]) * size
            assert (pio if step == "pio" else mmio)(manager, base, size) == expected


def _succeeds(function: object, *arguments: object) -> bool:
    try:
        function(*arguments)  # type: ignore[operator]
    except (DeviceOverlap, NoDevice):
        return False
    return True
