"""AcpiDevice, and how the chips of a PC describe themselves."""

from collections.abc import Sequence

import pytest
from support.serial_rig import CountingTrigger, StallSink

from vmm.devices.acpi_device import AcpiDevice
from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.clock import VirtualClock
from vmm.devices.device_io import DeviceIo, DeviceIoMut, Locked
from vmm.devices.errors import DeviceError
from vmm.devices.pc.cmos_rtc import CmosRtc
from vmm.devices.pc.i8042 import I8042Device
from vmm.devices.pc.platform import CmosRtcPio, I8042Pio, SerialPio
from vmm.devices.resources import DeviceResources, LegacyIrq, PioAddressRange
from vmm.devices.serial import Serial
from vmm.devices.trigger import InterruptLine


def described(device: DeviceIo) -> Sequence[AcpiDevice]:
    """What it says of itself once it has its resources."""
    wanted = device.get_resource_constraints()
    resources = ResourceManager().allocate_device_resources(wanted)
    device.assign_resources(
        resources, [CountingTrigger() for _ in resources.get_interrupts()]
    )
    return device.get_acpi_devices()


def i8042(aux: InterruptLine | None = None) -> I8042Pio:
    line = InterruptLine()
    return I8042Pio(I8042Device(CountingTrigger(), line, aux), line, aux)


def test_com1_is_a_16550a() -> None:
    line = InterruptLine()
    serial = SerialPio(Serial(line, StallSink(), clock=VirtualClock()), line)
    (device,) = described(serial)
    assert device.hid == "PNP0501"
    assert list(device.resources) == [PioAddressRange(0x3F8, 8), LegacyIrq(4)]


def test_the_rtc_is_at_its_ports() -> None:
    line = InterruptLine()
    (device,) = described(CmosRtcPio(CmosRtc(VirtualClock(), line), line))
    assert device.hid == "PNP0B00"
    assert list(device.resources) == [PioAddressRange(0x70, 2), LegacyIrq(8)]


def test_a_keyboard_has_both_ports_of_the_controller() -> None:
    (device,) = described(i8042())
    assert device.hid == "PNP0303"
    ports = [PioAddressRange(0x60, 1), PioAddressRange(0x64, 1)]
    assert list(device.resources) == [*ports, LegacyIrq(1)]


def test_an_aux_port_is_a_mouse_with_nothing_but_its_irq() -> None:
    keyboard, mouse = described(i8042(InterruptLine()))
    assert keyboard.resources.get_legacy_irq() == 1
    assert (mouse.hid, list(mouse.resources)) == ("PNP0F13", [LegacyIrq(12)])


def test_a_device_is_not_described_unless_it_says_so() -> None:
    assert described(DeviceIo()) == ()


def test_a_locked_device_describes_itself() -> None:
    class Mine(DeviceIoMut):
        def get_acpi_devices(self) -> Sequence[AcpiDevice]:
            return [AcpiDevice("MINE0001", self.get_assigned_resources())]

    assert [device.hid for device in described(Locked(Mine()))] == ["MINE0001"]


@pytest.mark.parametrize("hid", ["PNP0501", "QEMU0001", "LNRO0005", "0000FFFF"])
def test_pnp_and_acpi_ids_are_taken(hid: str) -> None:
    assert AcpiDevice(hid, DeviceResources()).hid == hid


@pytest.mark.parametrize(
    "hid", ["", "PNP", "pnp0501", "PNP050G", "PNP0501G", "QEMU00001", "PNP0501\n", 5]
)
def test_another_id_is_refused(hid: object) -> None:
    with pytest.raises(DeviceError, match="ACPI ID is "):
        AcpiDevice(hid, DeviceResources())  # type: ignore[arg-type]


@pytest.mark.parametrize("cid", ["", "A B", "A\n", "\xc4"])
def test_a_name_that_it_cannot_be_compatible_with_is_refused(cid: str) -> None:
    with pytest.raises(DeviceError, match="ACPI name is "):
        AcpiDevice("MINE0001", DeviceResources(), compatible=("VM_Gen_Counter", cid))


@pytest.mark.parametrize("name", ["", "ABC", "ABCDE", "_CRS", "abcd", "1ABC"])
def test_an_object_of_its_own_has_a_name_that_is_nobody_elses(name: str) -> None:
    with pytest.raises(DeviceError, match="ACPI name is "):
        AcpiDevice("MINE0001", DeviceResources(), packages={"ADDR": (), name: (1,)})
