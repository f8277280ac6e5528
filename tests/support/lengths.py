"""How many cases a test of very many tries: some, or all by scripts/test --long."""

import os
from typing import Final

LONG: Final = bool(os.environ.get("VMM_LONG"))


def cases(few: int, all_of_them: int) -> int:
    """Return the number for this run."""
    return all_of_them if LONG else few
