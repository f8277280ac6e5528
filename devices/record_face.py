"""What a Record shows to those who look at it: dataclasses, inspect, help.

Nothing of it is needed to use one, so nothing of it is made, or imported, before.
`owner` is a heir of Record, `factory` the class of defaults that are made anew.
"""

import ast
import dataclasses
import inspect
import textwrap
from typing import Any

_Parameter = inspect.Parameter


def dataclass_fields(
    owner: type[Any], factory: type[Any]
) -> dict[str, "dataclasses.Field[Any]"]:
    """The fields as `dataclasses` keeps its own."""

    def of(name: str) -> "tuple[str, Any, Any]":
        if name not in owner._defaults:
            return name, Any, dataclasses.field()
        default = owner._defaults[name]
        if isinstance(default, factory):
            return name, Any, dataclasses.field(default_factory=default.make)
        return name, Any, dataclasses.field(default=default)

    fields = map(of, owner.field_names)
    made = dataclasses.make_dataclass(owner.__name__, fields, kw_only=True)
    return {item.name: item for item in dataclasses.fields(made)}


def signature(owner: type[Any], factory: type[Any]) -> inspect.Signature:
    """Those fields that are taken by position, and then the others."""

    def of(name: str, kind: object, *defaults: object) -> inspect.Parameter:
        named = name not in owner._positional
        taken = _Parameter.KEYWORD_ONLY if named else _Parameter.POSITIONAL_OR_KEYWORD
        parameter = _Parameter(name, taken, annotation=kind)
        for default in defaults:
            made = default.make() if isinstance(default, factory) else default
            parameter = parameter.replace(default=made)
        return parameter

    taken = [of(name, *how) for name, how in owner.parameters().items()]
    return inspect.Signature(sorted(taken, key=lambda parameter: parameter.kind))


def documentation(owner: type[Any], written: str | None) -> str | None:
    """The class' docstring, and below it those of its fields."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    except (OSError, TypeError, SyntaxError):  # there is no source
        return written
    assert isinstance(definition, ast.ClassDef)
    lines = [inspect.cleandoc(written or "")]
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ) if name in owner.field_names:
                body = textwrap.indent(inspect.cleandoc(words), "    ")
                lines.append(f"{name}:\n{body}")
    return "\n\n".join(filter(None, lines)) or None
