"""`vmm run` and `vmm restore` with plain options, read without argparse.

argparse takes 8 ms to be imported and told of all options, a seventh of the time to a
guest's first instruction. Whatever is abbreviated, wrong, no `run`, or asks for help is
left to it.
"""

from collections.abc import Sequence
from typing import Any, Final

from .options import EXCLUSIVE, OPTIONS_OF, Options, dest_of

_FLAGS: Final = {"store_true": True, "store_false": False}


def read(arguments: Sequence[str]) -> Options | None:
    """What argparse would make of them; None where it has to."""
    try:
        return _read(arguments[0], list(arguments[1:]))
    except (LookupError, ValueError):
        return None


def _read(subcommand: str, words: list[str]) -> Options:
    """Raises LookupError or ValueError for what isn't plain."""
    groups = OPTIONS_OF[subcommand].values()
    known = {flag: told for group in groups for flag, told in group}
    found: dict[str, Any] = {
        dest_of(flag, told): False if told.get("action") == "store_true" else None
        for flag, told in known.items()
    }
    if subcommand == "restore":
        if words[0].startswith("-"):
            raise ValueError("it may come later")
        found["snapshot"] = words.pop(0)
    given = set()
    words.reverse()
    while words:
        flag, equals, text = words.pop().partition("=")
        told = known[flag]
        given.add(flag)
        action, dest = told.get("action"), dest_of(flag, told)
        if action in (*_FLAGS, "store_const"):
            if equals:
                raise ValueError(f"{flag} takes no value")
            found[dest] = _FLAGS.get(action, told.get("const"))
            continue
        value = _read_value(told, text if equals else words.pop(), bool(equals))
        found[dest] = [*(found[dest] or []), value] if action == "append" else value
    if given.issuperset(EXCLUSIVE):
        raise ValueError("only one of them")
    return Options(subcommand=subcommand, **found)


def _read_value(told: dict[str, Any], text: str, joined: bool) -> object:
    odd = text.startswith("-") if not joined else text == "--"
    if odd or "nargs" in told:
        raise ValueError("argparse knows what this is")
    value: object = told.get("type", str)(text)
    if value not in told.get("choices", (value,)):
        raise ValueError("none of the choices")
    return value
