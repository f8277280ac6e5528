"""LegacyDevices: the standard devices of the machine, made and wired together."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..boot.layout import VM_GENERATION_ID
from ..devices.clock import Clock
from ..devices.device_io import DeviceIo
from ..devices.pc.acpi_pm import AcpiPm
from ..devices.pc.cmos_rtc import CmosRtc
from ..devices.pc.crtc import Crtc
from ..devices.pc.i8042 import I8042Device
from ..devices.pc.pci_config_ports import PciConfigPorts
from ..devices.pc.platform import (
    AcpiPmPio,
    CmosRtcPio,
    CrtcPio,
    I8042Pio,
    PvpanicPio,
    SerialPio,
    SystemControlPio,
)
from ..devices.pc.post_code import PostCode
from ..devices.pc.pvpanic import Pvpanic
from ..devices.pc.reset_control import SystemControlPortA
from ..devices.pc.vm_generation_id import VmGenerationId
from ..devices.serial import Serial
from ..devices.serial.events import SerialEvents
from ..devices.sink import Sink
from ..devices.trigger import InterruptLine
from ..watch.panic import PanicWatch

if TYPE_CHECKING:
    from ..devices.guest_ram import GuestRam


class _Line:
    """A Trigger that calls a function."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.trigger = call


class LegacyDevices:
    """What a PC has on its board: COM1, the i8042 with a keyboard, the RTC, pvpanic.

    And the ports of a chipset: reset and A20, POST codes, a PCI bus and a display that
    aren't there.
    What COM1 sends goes to `out`, and what it does is told to `events`. `reset` is
    called for every way to reset; `setup` is what the CMOS RAM has, and `watch` is told
    what pvpanic is.
    """

    def __init__(
        self,
        out: Sink,
        events: SerialEvents | None,
        clock: Clock,
        reset: Callable[[], None],
        setup: Mapping[int, int],
        watch: PanicWatch,
    ) -> None:
        com1_irq, keyboard_irq, aux_irq, rtc_irq = (InterruptLine() for _ in range(4))
        self.serial = Serial(com1_irq, out, clock=clock, events=events)
        reset_line = _Line(reset)
        # With nothing at its AUX port: without one, Linux warns of firmware that may
        # have forgotten it (i8042_pnp_init in i8042-acpipnpio.h).
        self.i8042 = I8042Device(reset_line, keyboard_irq, aux_irq)
        self.rtc = CmosRtc(clock, rtc_irq, setup=setup)
        self.config_ports = PciConfigPorts(reset_line)
        self.devices: tuple[DeviceIo, ...] = (
            SerialPio(self.serial, com1_irq),
            I8042Pio(self.i8042, keyboard_irq, aux_irq),
            CmosRtcPio(self.rtc, rtc_irq),
            CrtcPio(Crtc()),
            SystemControlPio(SystemControlPortA(reset_line)),
            self.config_ports,
            PvpanicPio(Pvpanic(watch.panic_told, watch.crash_kernel_told)),
            PostCode(),
        )


def acpi_devices(power_off: Callable[[], None], ram: "GuestRam") -> list[DeviceIo]:
    """What a machine with ACPI has besides: what switches it off, and what tells it
    that it is a clone."""
    return [
        AcpiPmPio(AcpiPm(_Line(power_off))),
        VmGenerationId(ram, VM_GENERATION_ID),
    ]
