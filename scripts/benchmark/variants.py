"""The variants that are compared, and how each of them is started.

All get one CPU, the same RAM, ttyS0 on stdout, and no device that a guest of ours
does not use.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from . import tools
from .children import Command, NotMeasured, complaint, run
from .peers import Guest, peer_command

VMM: Final = Path(sys.executable).with_name("vmm")
RESULT: Final = "result.json"  # in the child's directory
BARE: Final = tools.ROOT / "guest/build/bare"
PROBE_DEADLINE_S: Final = 60.0

# What vmm's two variables are set to. "all": what it does by itself, with all means
# together.
OURS: Final = {
    "compiled": {"VMM_RUN_LOOP": "compiled", "VMM_COALESCED_PIO": "0"},
    "python": {"VMM_RUN_LOOP": "python", "VMM_COALESCED_PIO": "0"},
    "all": {"VMM_RUN_LOOP": "compiled"},
}
LIMIT_GUESTS: Final = "the C limit runs bare-metal guests alone"


def command(variant: str, guest: Guest, folder: Path) -> Command:
    """Return how `variant` runs `guest` in `folder`, where it may get a file.

    Raises NotMeasured where it can't.
    """
    if variant == "c":
        return _limit(guest)
    if variant in OURS:
        return _ours(variant, guest)
    return peer_command(variant, guest, folder)


def _limit(guest: Guest) -> Command:
    if guest.cmdline is not None:
        raise NotMeasured(LIMIT_GUESTS)
    return Command([str(tools.limit()), str(guest.kernel)], {})


def _ours(variant: str, guest: Guest) -> Command:
    if OURS[variant]["VMM_RUN_LOOP"] == "compiled":
        _check_compiled_loop()
    return _vmm(guest, OURS[variant])


def _vmm(guest: Guest, environment: dict[str, str]) -> Command:
    argv = [str(VMM), "run", "--quiet", "--kernel", str(guest.kernel)]
    argv += ["--memory", f"{guest.memory_mib}M", "--result", RESULT]
    if guest.initrd is not None:
        argv += ["--initrd", str(guest.initrd)]
    if guest.cmdline is not None:
        argv += ["--cmdline", guest.cmdline]
    return Command(argv, environment)


@cache
def _check_compiled_loop() -> None:
    """Raise NotMeasured unless vmm serves exits in C when told to.

    Exceptions aren't cached: a second call asks again, and says the same.
    """
    hello = _vmm(Guest(BARE / "hello.elf"), OURS["compiled"])
    with tempfile.TemporaryDirectory(prefix="vmm-bench.") as name:
        folder = Path(name)
        run(hello, folder, PROBE_DEADLINE_S)
        exits = exits_of(folder)
    if not exits.get("fast"):
        raise NotMeasured("vmm has no compiled run loop here: no exit is served in C")


def exits_of(folder: Path) -> dict[str, int]:
    """Return `exits` of a vmm that has run in `folder`. Raises NotMeasured."""
    try:
        result = json.loads((folder / RESULT).read_text())
    except FileNotFoundError:
        raise NotMeasured(complaint(None, folder)) from None
    if result["reason"] == "error":
        raise NotMeasured(complaint(None, folder))
    exits: dict[str, int] = result["exits"]
    return exits
