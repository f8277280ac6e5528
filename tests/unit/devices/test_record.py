"""Record: what a frozen dataclass is, for those who use it and those who look at it."""

import copy
import dataclasses
import inspect
import pickle
from typing import ClassVar

import pytest

from vmm.devices.record import Record, field


class Point(Record):
    """Two fields, one with a default."""

    x: int
    y: int = 2
    kind: ClassVar[str] = "plane"


class Named(Point, kw_only=True):
    """One more, by its name only."""

    name: str
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("no name")


def test_fields_are_taken_by_position_name_and_default() -> None:
    assert (Point(1).x, Point(1).y, Point(1, 3).y, Point(y=5, x=4).y) == (1, 2, 3, 5)
    assert (Named(1, name="a").name, Named(1, 7, name="a").y) == ("a", 7)
    assert Point.field_names == ("x", "y")


@pytest.mark.parametrize(
    ("args", "values", "message"),
    [
        ((1, 2, 3), {"name": "a"}, "Named takes 2 fields by position"),
        ((1,), {"name": "a", "x": 2}, "Named got 'x' twice"),
        ((1,), {"name": "a", "z": 2}, "Named has no field 'z'"),
        ((1,), {}, "Named needs 'name'"),
    ],
)
def test_wrong_arguments_are_named(
    args: tuple[int, ...], values: dict[str, object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Named(*args, **values)  # type: ignore[arg-type]


def test_post_init_checks_what_was_made() -> None:
    with pytest.raises(ValueError, match="no name"):
        Named(1, name="")


def test_default_factory_makes_a_new_one_each_time() -> None:
    first, second = Named(1, name="a"), Named(1, name="a")
    assert first.tags == []
    assert first.tags is not second.tags


def test_nothing_can_be_set_or_deleted() -> None:
    with pytest.raises(AttributeError, match="'x' can't be set"):
        Point(1).x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="'x' stays"):
        del Point(1).x


def test_equal_are_those_of_one_class_with_equal_fields() -> None:
    assert Point(1) == Point(1, 2)
    assert Point(1) != Point(2)
    assert Point(1) != Named(1, name="a")
    assert Point(1) != (1, 2)
    assert len({Point(1), Point(1, 2), Point(2)}) == 2


def test_repr_is_a_dataclasses() -> None:
    assert repr(Named(1, name="a")) == "Named(x=1, y=2, name='a', tags=[])"


def test_match_takes_the_positional_fields() -> None:
    match Point(1, 5):
        case Point(x, y):
            assert (x, y) == (1, 5)


def test_it_survives_pickle_and_copy() -> None:
    point = Named(1, name="a", tags=["b"])
    assert pickle.loads(pickle.dumps(point)) == point
    assert copy.deepcopy(point) == point


def test_replace_makes_another() -> None:
    assert Point(1).replace(y=9) == Point(1, 9)
    with pytest.raises(TypeError, match="no field 'z'"):
        Point(1).replace(z=1)


def test_dataclasses_take_it_for_one_of_theirs() -> None:
    point = Named(1, name="a")
    assert dataclasses.is_dataclass(point)
    assert [item.name for item in dataclasses.fields(Named)] == [
        "x",
        "y",
        "name",
        "tags",
    ]
    assert dataclasses.asdict(point) == {"x": 1, "y": 2, "name": "a", "tags": []}
    assert dataclasses.asdict(point) == point.to_dict()
    assert dataclasses.replace(point, x=3) == Named(3, name="a")
    assert dataclasses.fields(Point)[1].default == 2


def test_signature_is_that_of_the_fields() -> None:
    assert str(inspect.signature(Point)) == "(x: int, y: int = 2)"
    tags = "tags: list[str] = []"
    assert (
        str(inspect.signature(Named)) == f"(x: int, y: int = 2, *, name: str, {tags})"
    )


def test_help_has_what_is_written_below_a_field() -> None:
    class Told(Record):
        """The class."""

        x: int
        """The field,
        in two lines."""
        y: int = 0
        z: ClassVar[int] = 0
        """None of the fields."""

    assert inspect.getdoc(Told) == (
        "The class.\n\nx:\n    The field,\n    in two lines."
    )


def test_help_of_a_class_without_source_is_what_is_known_of_it() -> None:
    made = type("Made", (Record,), {"__annotations__": {"x": int}, "__doc__": "Yes."})
    assert made.__doc__ == "Yes."
    bare = type("Made", (Record,), {"__annotations__": {"x": int}})
    assert bare.__doc__ is None


def test_what_is_of_the_class_may_be_said_in_text() -> None:
    """As all annotations are after `from __future__ import annotations`."""

    class Late(Record):
        NAME: "ClassVar[str]" = "s"
        OTHER: "ClassVar" = "t"
        x: "int"

    assert Late.field_names == ("x",)
    assert Late(1) == Late(x=1)


def test_a_field_that_is_said_again_keeps_its_place() -> None:
    class Again(Point):
        x: int = 3
        z: int = 4

    assert Again.field_names == ("x", "y", "z")
    assert Again(1, 2, 3) == Again(x=1, y=2, z=3)
    assert Again() == Again(3, 2, 4)
