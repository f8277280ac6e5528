"""How many cases a test of very many tries: some, or all by scripts/test --long."""

import os
from typing import Final

LONG: Final = bool(os.environ.get("VMM_LONG"))
# Where one CPU, which is emulated, does it all: a case takes thirty times as long.
EMULATED: Final = os.environ.get("VMM_TEST_SIDE") == "machine"


def cases(few: int, all_of_them: int) -> int:
    """Return the number for this run."""
    return all_of_them if LONG else few
