"""State: what fits a field, and the way through JSON."""

import json
from typing import Annotated, Any

import pytest

from vmm.devices.errors import InvalidState
from vmm.devices.state import Byte, Nanoseconds, State

Pair = tuple[Byte, bool]


class Inner(State):
    """Within another."""

    value: Byte = 3


class Outer(State, kw_only=True):
    """One field of each kind."""

    byte: Byte
    ram: Annotated[bytes, range(4, 5)]
    pairs: Annotated[tuple[Pair, ...], range(3)] = ()
    left_ns: Nanoseconds | None = None
    any_int: int = 0
    name: Annotated[str, range(9)] = ""
    inner: Inner = Inner()


class Ordered(State):
    """Fields that say something together."""

    low: "Byte"  # as all are after `from __future__ import annotations`
    high: Byte

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.low <= self.high, "low comes first")


FULL = Outer(
    byte=255,
    ram=b"\0\xffAB",
    pairs=((1, True), (2, False)),
    left_ns=5,
    any_int=-(10**30),
    name="é",
    inner=Inner(0),
)


@pytest.mark.parametrize("state", [FULL, Outer(byte=0, ram=bytes(4)), Ordered(1, 1)])
def test_what_was_written_and_read_is_the_same(state: State) -> None:
    assert type(state).from_json(json.loads(json.dumps(state.to_json()))) == state


def test_bytes_are_hexadecimal_and_tuples_lists() -> None:
    assert FULL.to_json() == {
        "byte": 255,
        "ram": "00ff4142",
        "pairs": [[1, True], [2, False]],
        "left_ns": 5,
        "any_int": -(10**30),
        "name": "é",
        "inner": {"value": 0},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"byte": 256}, "Outer.byte is 256: it must be 0..0xff$"),
        ({"byte": True}, "Outer.byte is True: it must be 0..0xff$"),
        ({"byte": 1.0}, "byte is 1.0"),
        ({"ram": b"abc"}, "Outer.ram is b'abc': it must be bytes, 4$"),
        ({"ram": bytearray(4)}, "ram is bytearray"),
        ({"ram": "00000000"}, "ram is '00000000'"),
        ({"pairs": ((1, True),) * 3}, "tuple of .*, 0..2 of them$"),
        ({"pairs": ((1, 2),)}, "pairs is"),
        ({"pairs": ((1,),)}, "pairs is"),
        ({"pairs": ((1, True, 2),)}, "pairs is"),
        ({"pairs": [(1, True)]}, "pairs is"),
        ({"left_ns": -1}, "left_ns is -1: it must be 0..0x7fffffffffffffff or None"),
        ({"any_int": None}, "any_int is None: it must be int$"),
        (
            {"name": "0123456789" * 99},
            r"is '0123456789.{49}\.\.\.: it must be str",
        ),
        ({"inner": Ordered(1, 2)}, "it must be Inner$"),
        ({"inner": {"value": 3}}, "it must be Inner$"),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidState, match=message):
        FULL.replace(**changes)


def test_what_fields_say_together_is_checked_after_each_of_them() -> None:
    with pytest.raises(InvalidState, match="Ordered: low comes first"):
        Ordered(2, 1)
    with pytest.raises(InvalidState, match=r"Ordered\.low is None"):
        Ordered(None, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "NoneType is no Outer"),
        ([], "list is no Outer"),
        ({}, "Outer lacks any_int, byte, inner, left_ns, name, pairs, ram"),
        (FULL.to_json() | {"more": 0}, "Outer has no field more"),
        (FULL.to_json() | {"ram": "0g"}, "ram is '0g'"),
        (FULL.to_json() | {"ram": [0, 0, 0, 0]}, "ram is"),
        (FULL.to_json() | {"pairs": [[1]]}, "pairs is"),
        (FULL.to_json() | {"pairs": [1]}, "pairs is"),
        (FULL.to_json() | {"inner": {}}, "Inner lacks value"),
        (FULL.to_json() | {"inner": 5}, "inner is 5"),
        (FULL.to_json() | {"byte": {"value": 5}}, "byte is"),
    ],
)
def test_what_to_json_can_not_have_given_is_refused(data: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(InvalidState, match=message):
        Outer.from_json(data)


def test_of_takes_its_own_class_only() -> None:
    assert Outer.of(FULL) is FULL
    with pytest.raises(InvalidState, match="Outer is no Inner"):
        Inner.of(FULL)
    with pytest.raises(InvalidState, match="NoneType is no Inner"):
        Inner.of(None)


@pytest.mark.parametrize(
    "kind",
    [
        float,
        object,
        list[int],
        dict[str, int],
        tuple[float, ...],
        int | str,
        int | str | None,
        Annotated[int, "a number"],
        Annotated[Byte, range(3)],
    ],
)
def test_a_field_that_json_would_not_keep_is_a_type_error(kind: object) -> None:
    made = type("Made", (State,), {"__annotations__": {"value": kind}})
    with pytest.raises(TypeError, match=r"^a State can't have a field of "):
        made(1)


def test_a_number_that_has_no_text_is_refused_like_any_other() -> None:
    with pytest.raises(InvalidState, match=r"Inner\.value is a huge int: it must be"):
        Inner(10**5000)
