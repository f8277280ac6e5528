"""Which quirks a kind of host has."""

from .quirks import Quirks


def quirks_for(kind: str) -> Quirks:
    """The quirks of a kind of host."""
    if kind == "pvm":
        from .pvm import PvmQuirks  # nobody else needs it

        return PvmQuirks()
    return Quirks()
