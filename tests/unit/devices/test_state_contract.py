"""What `state()` and `restore` promise, for every device that we have."""

import doctest
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.device_examples import COMPUTED, EXAMPLES
from support.device_worlds import DEVICES, DRIVERS, Step, World
from support.lengths import cases
from support.serial_rig import FailingTrigger

import vmm.devices
from vmm.devices import device_io
from vmm.devices.adapter import Adapter
from vmm.devices.arm.platform import RtcMmio
from vmm.devices.device_io import DeviceIo
from vmm.devices.errors import InvalidState, TriggerError
from vmm.devices.pc.platform import (
    AcpiPmPio,
    CmosRtcPio,
    I8042Pio,
    IsaAdapter,
    SerialPio,
    SystemControlPio,
)
from vmm.devices.pci.device import PciDevice
from vmm.devices.pci.host_bridge import PciHostBridge
from vmm.devices.state import State
from vmm.devices.virtio.mmio import VirtioMmio
from vmm.devices.virtio.pci import VirtioPci

README = Path(__file__).parents[3] / "README.md"
STATELESS = {"PvpanicPio", "IsaDebugExit", "Debugcon", "VmGenerationId"}
ANY_DEVICE = pytest.mark.parametrize("kind", DEVICES, ids=lambda kind: kind.__name__)
STATEFUL = [kind for kind in DEVICES if kind.__name__ not in STATELESS]
ANY_STATEFUL = pytest.mark.parametrize("kind", STATEFUL, ids=lambda it: it.__name__)
ELSEWHERE_NS = 10**15  # another host's clock


class Foreign(State):
    """No device's."""

    value: int = 0


def steps(kind: type[DeviceIo]) -> st.SearchStrategy[Step]:
    """What guest, host and time may do to a device."""
    world = World(DEVICES[kind])
    if not world.ranges:
        return st.just(("reset",))
    first = world.ranges[0].base
    registers = [
        place.base - first + offset
        for place in world.ranges
        for offset in range(min(place.size, 0x20))
    ]
    at = st.sampled_from(registers)
    words = RtcMmio, PciHostBridge, PciDevice, VirtioMmio, VirtioPci
    size = 4 if kind in words else 1
    sizes = st.sampled_from([size] * 6 + [1, 2, 4, 8])
    values = st.integers(0, 0xFF) | st.integers(0, (1 << 64) - 1)
    times = [300_000, 3_000_000, 3 * 10**9, 10**14]
    data = st.binary(max_size=70) | st.sampled_from([b"\xf0", b"\x1c\xf0", b"12345"])
    written_by_drivers = st.sampled_from(DRIVERS.get(kind, (((0, 1),),)))
    strategies: dict[str, st.SearchStrategy[Step]] = {
        "drive": st.tuples(st.just("drive"), written_by_drivers, st.just(size)),
        "read": st.tuples(st.just("read"), at, sizes),
        "write": st.tuples(st.just("write"), at, sizes, values),
        "wait": st.tuples(
            st.just("wait"), st.sampled_from(times).flatmap(partial(st.integers, 0))
        ),
        "tell": st.tuples(st.just("tell"), st.sampled_from(sorted(world.host)), data),
        "reset": st.just(("reset",)),
    }
    often = "drive drive drive read read read read write write wait wait tell tell"
    return st.sampled_from([*often.split() * 3, "reset"]).flatmap(
        strategies.__getitem__
    )


STEPS = {kind: steps(kind) for kind in DEVICES}


def through_json(state: State | None) -> State | None:
    """`state` as another process reads it from a file."""
    if state is None:
        return None
    text = json.dumps(state.to_json())
    return type(state).from_json(json.loads(text))


@ANY_DEVICE
@settings(max_examples=cases(40, 3_000), deadline=None)
@given(data=st.data())
def test_a_restored_device_goes_on_like_the_one_that_was_saved(
    kind: type[DeviceIo], data: st.DataObject
) -> None:
    """Nor does it matter what it was before, or that one was asked for its state."""
    runs = st.lists(STEPS[kind], min_size=8, max_size=30)
    before, used, after = (data.draw(runs) for _ in range(3))
    make, fast = DEVICES[kind], st.booleans()
    is_fast = data.draw(fast)
    going, saved = World(make, is_fast=is_fast), World(make, is_fast=is_fast)
    for step in before:
        assert going.do(step) == saved.do(step)
    copy = World(make, start_ns=ELSEWHERE_NS, is_fast=data.draw(fast))
    for step in used:
        copy.do(step)

    state = saved.device.state()
    copy.sink.left, copy.sink.refused = saved.sink.left, False
    restored = through_json(state)
    assert restored == state
    copy.device.restore(restored)
    assert copy.device.state() == state
    assert [line.is_high for line in copy.lines] == [
        line.is_high for line in saved.lines
    ]

    sent = len(copy.sink.data)
    for step in after:
        assert copy.do(step) == going.do(step)
    assert copy.device.state() == going.device.state()
    assert copy.sink.data[sent:] == going.sink.data[len(saved.sink.data) :]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, examples in EXAMPLES.items() for name in examples],
    ids=lambda it: getattr(it, "__name__", it),
)
def test_no_field_is_forgotten(kind: type[DeviceIo], name: str) -> None:
    before, after = EXAMPLES[kind][name]
    going, saved = World(DEVICES[kind]), World(DEVICES[kind])
    for step in before:
        assert going.do(step) == saved.do(step)
    state = cast("State", through_json(saved.device.state()))
    without = forgotten(state, World(DEVICES[kind]).device.state(), name)
    assert without != state
    seen: list[object] = [going.do(step) for step in after]
    assert shown(kind, state, after) == seen
    with suppress(ValueError):  # in_buffer_errors of no in_buffer
        assert shown(kind, without, after) != seen


def shown(kind: type[DeviceIo], state: State, after: list[Step]) -> list[object]:
    """What is seen of a device that goes on from `state`."""
    copy = World(DEVICES[kind], start_ns=ELSEWHERE_NS)
    copy.device.restore(state)
    return [copy.do(step) for step in after]


def forgotten(state: Any, fresh: Any, name: str) -> State:  # noqa: ANN401
    """`state` with one field as it is in `fresh`, though no device can be in it."""
    first, _, inner = name.partition(".")
    value = getattr(fresh, first)
    if inner:
        value = forgotten(getattr(state, first), value, inner)
    other: State = object.__new__(type(state))
    for field, old in state.to_dict().items():
        object.__setattr__(other, field, value if field == first else old)
    return other


def test_each_field_has_an_example() -> None:
    fields = {(kind, name) for kind in STATEFUL for name in names_of(kind)}
    named = {(kind, name) for kind, told in EXAMPLES.items() for name in told}
    assert fields == named | COMPUTED


def names_of(kind: type[DeviceIo]) -> Iterator[str]:
    state = cast("State", World(DEVICES[kind]).device.state())
    for name in state.field_names:
        value = getattr(state, name)
        inner = value.field_names if isinstance(value, State) else ()
        yield from [f"{name}.{within}" for within in inner] or [name]


@ANY_STATEFUL
@settings(max_examples=cases(40, 3_000), deadline=None)
@given(data=st.data())
def test_a_state_that_was_changed_is_refused_or_one_to_go_on_from(
    kind: type[DeviceIo], data: st.DataObject
) -> None:
    world = World(DEVICES[kind])
    for step in data.draw(st.lists(STEPS[kind], max_size=8)):
        world.do(step)
    state = cast("State", world.device.state())
    changed = data.draw(st.sampled_from(list(changes(state.to_json()))))
    try:
        world.device.restore(type(state).from_json(changed))
    except InvalidState:
        assert world.device.state() == state
        return
    first = world.device.state()
    world.device.restore(through_json(first))
    assert world.device.state() == first


def changes(plain: Any) -> Iterator[Any]:  # noqa: ANN401 - JSON
    """All that is `plain` but for one value, or one more or less."""
    junk: tuple[object, ...] = (
        None,
        True,
        0,
        3,
        255,
        256,
        -1,
        1 << 200,
        1.5,
        "",
        "00",
        "x",
        [],
        [0],
        {},
    )
    if isinstance(plain, dict):
        for name, value in plain.items():
            yield {key: value for key, value in plain.items() if key != name}
            yield from (plain | {name: other} for other in changes(value))
        yield plain | {"more": 0}
    elif isinstance(plain, list):
        yield [*plain, 0]
        yield plain * 100
        for at, value in enumerate(plain[:2]):
            yield from (
                [*plain[:at], other, *plain[at + 1 :]] for other in changes(value)
            )
    yield from junk


@ANY_DEVICE
@pytest.mark.parametrize("wrong", [Foreign(), {}, "state", 0], ids=repr)
def test_what_is_no_state_of_the_device_is_refused(
    kind: type[DeviceIo],
    wrong: Any,  # noqa: ANN401
) -> None:
    world = World(DEVICES[kind])
    state = world.device.state()
    with pytest.raises(InvalidState):
        world.device.restore(wrong)
    if state is not None:
        with pytest.raises(InvalidState, match="NoneType is no"):
            world.device.restore(None)
    assert world.device.state() == state


@ANY_STATEFUL
def test_each_field_is_checked_and_needed(kind: type[DeviceIo]) -> None:
    state = cast("State", World(DEVICES[kind]).device.state())
    assert state.field_names
    for name in state.field_names:
        with pytest.raises(InvalidState, match=rf"\.{name} is <object"):
            state.replace(**{name: object()})
        plain = state.to_json()
        del plain[name]
        with pytest.raises(InvalidState, match=f"lacks {name}"):
            type(state).from_json(plain)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (SerialPio, {"in_buffer": (0,) * 65}, "in_buffer is .* 0..64 of them"),
        (SerialPio, {"tx_buffer": (0,) * 65}, "tx_buffer is .* 0..64 of them"),
        (SerialPio, {"in_buffer_errors": (4,)}, "errors are of in_buffer"),
        (
            SerialPio,
            {"in_buffer": (1,), "in_buffer_errors": (4,)},
            "the first byte's are in LSR",
        ),
        (
            SerialPio,
            {"in_buffer": (1, 2), "in_buffer_errors": (0, 1)},
            "errors are PE, FE and BI",
        ),
        (SerialPio, {"fifo_control": 0x07}, "no such bits"),
        (SerialPio, {"fifo_control": 0xC0}, "0 without its bit 0"),
        (SerialPio, {"tx_buffer": (1,), "thre_pending": True}, "thre_pending with"),
        (SerialPio, {"rx_timeout_pending": True}, "RX timeout"),
        (SerialPio, {"rx_timeout_ns": 5}, "RX timeout"),
        (SerialPio, {"fifo_control": 1, "in_buffer": (1,)}, "RX timeout"),
        (SerialPio, {"modem_lines": 0xB1}, "no deltas"),
        (SerialPio, {"modem_status": 0x10}, "modem_status shows"),
        (I8042Pio, {"responses": ((0, 4),)}, r"responses is \(\(0, 4\),\)"),
        (I8042Pio, {"responses": ((0, 0),) * 17}, "0..16 of them"),
        (I8042Pio, {"ram": bytes(31)}, "bytes, 32"),
        (I8042Pio, {"status": 0x11}, "status is KEYLOCK"),
        (I8042Pio, {"command": 0x20}, "takes a parameter"),
        (CmosRtcPio, {"ram": bytes(127)}, "bytes, 128"),
        (CmosRtcPio, {"ram": bytes(128)}, "register D"),
        (CmosRtcPio, {"ram": bytes((0,) * 10 + (0x80,) + (0,) * 117)}, "UIP"),
        (CmosRtcPio, {"ram": bytes((0,) * 12 + (0x01,) + (0,) * 115)}, "register C"),
        (CmosRtcPio, {"ram": bytes((0,) * 12 + (0x80, 0x80) + (0,) * 114)}, "IRQF"),
        (CmosRtcPio, {"quiet_ns": 10**9}, "quiet_ns is 1000000000"),
        (CmosRtcPio, {"epoch_ns": 10**30}, "epoch_ns is 1000"),
        (RtcMmio, {"mr": 1 << 32}, "mr is 4294967296: it must be 0..0xffffffff"),
        (RtcMmio, {"counter_ns": -1}, "counter_ns is -1"),
        (AcpiPmPio, {"enable": 2}, "PM1_EN has no such bits"),
        (AcpiPmPio, {"control": 0}, "PM1_CNT has SCI_EN"),
        (AcpiPmPio, {"control": 0x2001}, "PM1_CNT has SCI_EN"),
        (SystemControlPio, {"value": 4}, "value is 4: it must be 0..0x3"),
    ],
)
def test_what_no_such_device_can_be_in_is_refused(
    kind: type[DeviceIo], changes: dict[str, object], message: str
) -> None:
    state = cast("State", World(DEVICES[kind]).device.state())
    with pytest.raises(InvalidState, match=message):
        state.replace(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replies": bytes(4)}, "0..3 of them"),
        ({"scancodes": bytes(257)}, "0..256 of them"),
        ({"scanset": 0}, "scanset is 0: it must be 1..0x3"),
        ({"command": 0xF2}, "takes a parameter"),
        ({"scanning": False, "scancodes": b"a"}, "without scanning"),
    ],
)
def test_what_no_keyboard_can_be_in_is_refused(
    changes: dict[str, object], message: str
) -> None:
    state: Any = World(DEVICES[I8042Pio]).device.state()
    with pytest.raises(InvalidState, match=message):
        state.replace(keyboard=state.keyboard.replace(**changes))


def test_a_key_that_nothing_holds_back_must_be_latched() -> None:
    state: Any = World(DEVICES[I8042Pio]).device.state()
    waiting = state.replace(keyboard=state.keyboard.replace(scancodes=b"a"))
    with pytest.raises(InvalidState, match="is latched unless"):
        waiting.replace(ram=bytes(32))
    assert waiting.replace(ram=bytes(32), latched=5).latched == 5


PENDING: list[tuple[type[DeviceIo], list[Step]]] = [
    (SerialPio, [("drive", ((1, 1),), 1), ("tell", "type", b"x")]),
    (I8042Pio, [("drive", ((4, 0x60), (0, 1), (0, 0xEE)), 1)]),
    (CmosRtcPio, [("drive", ((0, 0x0B), (1, 0x12)), 1), ("wait", 10**9)]),
    (RtcMmio, [("drive", DRIVERS[RtcMmio][1], 4)]),
]


@pytest.mark.parametrize(("kind", "before"), PENDING)
def test_an_interrupt_that_was_pending_is_raised_once_again(
    kind: type[DeviceIo], before: list[Step]
) -> None:
    saved, copy = World(DEVICES[kind]), World(DEVICES[kind])
    copy.device.restore(saved.device.state())
    assert not any(line.edges for line in copy.lines)
    for step in before:
        saved.do(step)
    assert saved.lines[0].edges > 0
    for count in (1, 2):  # the second time it isn't new any more
        copy.device.restore(saved.device.state())
        assert [line.edges for line in copy.lines] == [
            count,
            *(0 for _ in copy.lines[1:]),
        ]


@pytest.mark.parametrize(("kind", "before"), PENDING)
def test_an_interrupt_that_can_not_be_delivered_is_all_that_is_missing(
    kind: type[DeviceIo], before: list[Step]
) -> None:
    saved, copy = World(DEVICES[kind]), World(DEVICES[kind])
    for step in before:
        saved.do(step)
    resources = copy.device.get_assigned_resources()
    copy.device.assign_resources(resources, [FailingTrigger() for _ in copy.lines])
    with pytest.raises(TriggerError):
        copy.device.restore(saved.device.state())
    copy.device.assign_resources(resources, copy.lines)
    assert copy.device.state() == saved.device.state()
    assert not any(line.edges for line in copy.lines)
    for step in (("wait", 10**9), ("read", 0, 4), ("read", 1, 1), ("wait", 10**9)):
        assert copy.do(step) == saved.do(step)


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        (SerialPio, [("drive", ((2, 0xC1), (1, 1)), 1), ("tell", "type", b"x")]),
        (CmosRtcPio, [("drive", ((0, 0x0B), (1, 0x12)), 1)]),
        (RtcMmio, [("drive", DRIVERS[RtcMmio][0], 4)]),
    ],
)
def test_an_interrupt_that_was_to_come_comes_when_it_was_due(
    kind: type[DeviceIo], before: list[Step]
) -> None:
    saved = World(DEVICES[kind])
    copy = World(DEVICES[kind], start_ns=ELSEWHERE_NS)
    for step in before:
        saved.do(step)
    saved.wait(1_000)
    copy.device.restore(saved.device.state())
    came = []
    for world in (saved, copy):
        waited = 0
        while not world.lines[0].edges:
            world.wait(50_000)
            waited += 50_000
        came.append(waited)
    assert came[0] == came[1] > 50_000


def test_the_list_has_every_device_of_ours() -> None:
    for module in pkgutil.walk_packages(vmm.devices.__path__, "vmm.devices."):
        importlib.import_module(module.name)
    assert set(heirs(DeviceIo)) - {Adapter, IsaAdapter} == set(DEVICES)


def heirs(kind: type[DeviceIo]) -> Iterator[type[DeviceIo]]:
    for heir in kind.__subclasses__():
        if heir.__module__.startswith("vmm.devices."):
            yield heir
        yield from heirs(heir)


@ANY_DEVICE
def test_what_keeps_nothing_says_so(kind: type[DeviceIo]) -> None:
    state = World(DEVICES[kind]).device.state()
    assert (state is None) == (kind.__name__ in STATELESS)


def test_the_example_in_the_docstring_runs() -> None:
    results = doctest.testmod(device_io)
    assert results.attempted > 5
    assert results.failed == 0


def test_the_readmes_device_keeps_its_sum() -> None:
    section = README.read_text().partition("\n## Add a device\n")[2]
    blocks = re.findall(r"runs this block.*?```python\n(.*?)```", section, re.S)[:2]
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    adder, copy = names["SavedAdder"](), names["SavedAdder"]()
    adder.pio_write(0x500, 0, memoryview(b"\xc8"))
    copy.restore(through_json(adder.state()))
    assert copy.sum == 0xC8
    with pytest.raises(InvalidState, match="sum is 256"):
        copy.restore(names["AdderState"].from_json({"sum": 256}))
