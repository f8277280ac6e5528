"""AcpiDevice: how a device describes itself to a guest that reads ACPI tables."""

import re
from collections.abc import Mapping
from typing import Final

from .errors import InvalidAcpiId
from .record import Record, field
from .resources import DeviceResources

# ACPI Specification 6.5, section 6.1.5: a PNP ID, or an ACPI ID.
_HID: Final = r"[A-Z]{3}[0-9A-F]{4}|[A-Z0-9]{4}[0-9A-F]{4}"
_CID: Final = r"[A-Za-z0-9_]+"  # what drivers for others' devices go by
_NAME: Final = r"[A-Z][A-Z0-9_]{3}"  # those with a _ in front are the specification's


class AcpiDevice(Record):
    """One device of the tables: the driver goes by `hid`, and finds `resources`.

    `hid` is a PNP ID ("PNP0501") or an ACPI ID ("QEMU0001"). Devices that share
    one are told apart by a _UID: their number, from 0, in the order in which they
    were plugged in. Raises InvalidAcpiId for a `hid` that is neither, and for other
    names that can't be.
    """

    hid: str
    resources: DeviceResources
    compatible: tuple[str, ...] = ()
    """More names of any form for drivers to go by, the best one first: its _CID."""
    description: str = ""
    """For people: its _DDN, if any."""
    packages: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Objects of its own, by their names of four characters: packages of integers."""
    events: DeviceResources = field(default_factory=DeviceResources)
    """Interrupts that a Generic Event Device takes, and notifies the driver by 0x80."""

    def __post_init__(self) -> None:
        if not isinstance(self.hid, str) or not re.fullmatch(_HID, self.hid):
            raise InvalidAcpiId(
                f"ACPI ID is {self.hid!r}: three capital letters, or four capital "
                "letters or digits, and four hexadecimal digits are needed"
            )
        for form, names in ((_CID, self.compatible), (_NAME, self.packages)):
            for name in names:
                if not re.fullmatch(form, name):
                    raise InvalidAcpiId(f"ACPI name is {name!r}: {form} is needed")
