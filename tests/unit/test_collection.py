"""The tests are collected in any checkout, whatever is built there."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ASKING = {"bare", "built", "kernel"}  # of support.guests: they skip, or fail


@pytest.mark.parametrize(
    "path", sorted(TESTS.glob("**/test_*.py")), ids=lambda path: path.stem
)
def test_no_module_asks_for_an_image_while_it_is_imported(path: Path) -> None:
    values = (
        statement.value
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr)
    )
    called = {
        call.func.id
        for value in values
        if value is not None
        for call in ast.walk(value)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    assert not called & ASKING
