"""The PC platform: where its chips sit on the buses, and which interrupts they have.

All resources are exclusive. How a chip comes to its place: `..adapter`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final, Protocol

from ..acpi_device import AcpiDevice
from ..adapter import Adapter, Chip
from ..fast_port import FastPort
from ..resources import (
    DeviceResources,
    LegacyIrqConstraint,
    PioAddressConstraint,
)
from ..trigger import InterruptLine
from .acpi_pm import PM1_SIZE, AcpiPm
from .cmos_rtc import CmosRtc
from .crtc import CRTC_INDEX_PORT, STATUS, Crtc
from .i8042 import I8042Device
from .pvpanic import PVPANIC_PORT, Pvpanic
from .reset_control import SYSTEM_CONTROL_PORT_A, SystemControlPortA

COM1: Final = 0x3F8
ACPI_PM: Final = 0x600
ACPI_SCI: Final = 9


class ByteRegisters(Chip, Protocol):
    """A chip whose registers are one byte wide."""

    def read(self, offset: int, /) -> int:
        """The register at `offset`, 0..0xFF."""

    def write(self, offset: int, value: int, /) -> None:
        """Write 0..0xFF to the register at `offset`."""


class Uart(ByteRegisters, Protocol):
    """A chip some of whose registers a run loop may serve."""

    @property
    def fast_ports(self) -> Mapping[int, FastPort]:
        """Those registers, by their offsets."""


class IsaAdapter(Adapter):
    """A chip with byte registers on the ISA bus, from port `base` on.

    `ranges` are (offset, size) of the registers that are trapped. As on the
    bus, a wider access to an 8-bit device is that many cycles at consecutive
    ports, the lowest first. `fast_ports` are those that the chip publishes, by offset.
    """

    hid: ClassVar[str | None] = None
    """The chip's PNP ID, by which ACPI tables describe it; None: they don't."""

    def __init__(
        self,
        chip: ByteRegisters,
        base: int,
        ranges: Iterable[tuple[int, int]],
        lines: dict[int, InterruptLine],
        fast_ports: Mapping[int, FastPort] | None = None,
    ) -> None:
        ports = (PioAddressConstraint.at(base + at, size) for at, size in ranges)
        irqs = (LegacyIrqConstraint(irq=irq) for irq in lines)
        super().__init__(chip, (*ports, *irqs), lines.values())
        self._read = chip.read  # bound once: the serial console lives on these
        self._write = chip.write
        self._base = base
        fast = () if fast_ports is None else fast_ports.items()
        self._fast_ports = {base + at: port for at, port in fast}

    def get_fast_ports(self) -> Mapping[int, FastPort]:
        return self._fast_ports

    def get_acpi_devices(self) -> Sequence[AcpiDevice]:
        if self.hid is None:
            return ()
        return [AcpiDevice(self.hid, self.get_assigned_resources())]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        register = base + offset - self._base
        if len(data) == 1:
            data[0] = self._read(register)
            return
        for at in range(len(data)):
            data[at] = self._read(register + at)

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        register = base + offset - self._base
        if len(data) == 1:
            self._write(register, data[0])
            return
        for at, value in enumerate(data):
            self._write(register + at, value)


class SerialPio(IsaAdapter):
    """A UART: 8 ports and an interrupt, those of COM1 unless told otherwise."""

    hid = "PNP0501"

    def __init__(
        self,
        serial: Uart,
        line: InterruptLine,
        *,
        base: int = COM1,
        irq: int = 4,
    ) -> None:
        super().__init__(serial, base, [(0, 8)], {irq: line}, serial.fast_ports)


class I8042Pio(IsaAdapter):
    """The keyboard controller: ports 0x60 and 0x64, IRQ 1, and 12 with an AUX port.

    Ports 0x61 to 0x63 stay free: 0x61 belongs to the interval timer. In ACPI tables
    the keyboard has the ports, and a mouse nothing but IRQ 12.
    """

    def __init__(
        self,
        i8042: I8042Device,
        keyboard_line: InterruptLine,
        aux_line: InterruptLine | None = None,
    ) -> None:
        lines = {1: keyboard_line}
        if aux_line is not None:
            lines[12] = aux_line
        super().__init__(i8042, 0x60, [(0, 1), (4, 1)], lines, i8042.fast_ports)

    def get_acpi_devices(self) -> Sequence[AcpiDevice]:
        resources = tuple(self.get_assigned_resources())
        keyboard, mouse = resources[:3], resources[3:]
        devices = [AcpiDevice("PNP0303", DeviceResources(keyboard))]
        if mouse:
            devices.append(AcpiDevice("PNP0F13", DeviceResources(mouse)))
        return devices


class CmosRtcPio(IsaAdapter):
    """The real-time clock: ports 0x70 and 0x71, IRQ 8."""

    hid = "PNP0B00"

    def __init__(self, rtc: CmosRtc, line: InterruptLine) -> None:
        super().__init__(rtc, 0x70, [(0, 2)], {8: line})


class CrtcPio(IsaAdapter):
    """The CRT controller: ports 0x3D4, 0x3D5 and 0x3DA. No ACPI table has it."""

    def __init__(self, crtc: Crtc) -> None:
        super().__init__(crtc, CRTC_INDEX_PORT, [(0, 2), (STATUS, 1)], {})


class SystemControlPio(IsaAdapter):
    """System Control Port A: fast A20 and reset, port 0x92."""

    def __init__(self, port: SystemControlPortA) -> None:
        super().__init__(port, SYSTEM_CONTROL_PORT_A, [(0, 1)], {}, port.fast_ports)


class PvpanicPio(IsaAdapter):
    """pvpanic as an ISA device: port 0x505."""

    hid = "QEMU0001"

    def __init__(self, pvpanic: Pvpanic) -> None:
        super().__init__(pvpanic, PVPANIC_PORT, [(0, 1)], {}, pvpanic.fast_ports)


class AcpiPmPio(IsaAdapter):
    """ACPI's PM1 registers, where the FADT says. They keep the SCI for themselves.

    With two ports more, which read 0: `outl(0x604, 0x2000)` is taken apart by QEMU, and
    so it switches off, while an access beyond a device's ports is dropped here.
    """

    def __init__(self, pm: AcpiPm) -> None:
        sci = InterruptLine()  # no event ever pulls it
        super().__init__(pm, ACPI_PM, [(0, PM1_SIZE + 2)], {ACPI_SCI: sci})
