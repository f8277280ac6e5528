"""`vmm doctor --machine`: what a machine has that is run with these options."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ..config import KEYWORDS, MachineConfig
from ..errors import ConfigError
from ..foreign_text import printable
from ..machine.devices_table import DeviceRow
from ..machine.machine import Machine
from .messages import tell
from .options import Options

_TITLES: Final = ("DEVICE", "SLOT", "IRQ", "MSI", "PORTS", "ADDRESSES")


def tell_machine(options: Options) -> int:
    """Print the table, of a machine that is made and not started; returns 0.

    Raises ConfigError, and what Machine does.
    """
    if options.image is not None:
        raise ConfigError(f"machine: {options.image!r} is its kernel: pass --kernel")
    settings: Any = given_settings(options)
    if "debugcon" in settings:
        settings["debugcon"] = "null"  # nothing is opened, or listened at
    if "vsock" in settings:
        settings["vsock"] = True
    ports = settings.get("ports", ())
    settings["ports"] = [f"{port.partition('=')[0]}=null" for port in ports]
    with Machine(MachineConfig(serial="null", **settings)) as machine:
        rows = machine.devices_table()
    if options.json:
        tell(json.dumps({"devices": [row.to_dict() for row in rows]}, indent=2))
    else:
        tell(printable("\n".join(_lines(rows))))
    return 0


def given_settings(options: Options) -> dict[str, object]:
    """What of them is a machine's."""
    return {
        name: value
        for name, value in vars(options).items()
        if name in KEYWORDS and value is not None
    }


def _lines(rows: Iterable[DeviceRow]) -> list[str]:
    """Columns as wide as what is in them; a device with several ranges has as many
    lines."""
    table = [_TITLES, *(line for row in rows for line in _cells(row))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in table
    ]


def _cells(row: DeviceRow) -> list[Sequence[str]]:
    ports, addresses = (
        [f"{first:#x}..{last:#x}" for first, last in ranges]
        for ranges in (row.ports, row.addresses)
    )
    count = max(len(ports), len(addresses), 1)
    head = (
        row.device,
        "" if row.slot is None else f"00:{row.slot:02x}.0",
        ",".join(map(str, row.lines)),
        str(row.messages or ""),
    )
    first, *others = zip(_filled(ports, count), _filled(addresses, count), strict=True)
    return [(*head, *first), *(("", "", "", "", *more) for more in others)]


def _filled(texts: list[str], count: int) -> list[str]:
    return texts + [""] * (count - len(texts))
