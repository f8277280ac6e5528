"""Every device of ours in a world of its own, driven by steps that can be repeated."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from support.pci_rig import RAM_SIZE, WINDOWS, MessageLine, Scratch
from support.plain_ram import PlainRam
from support.serial_rig import StallSink
from support.virtio_echo import Echo
from vmm.devices.arm.pl031 import RTCIMSC, RTCLR, RTCMR, Rtc
from vmm.devices.arm.platform import RtcMmio
from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.clock import VirtualClock
from vmm.devices.device_io import DeviceIo, DeviceIoMut, Locked
from vmm.devices.errors import FullFifo
from vmm.devices.pc.acpi_pm import AcpiPm
from vmm.devices.pc.cmos_rtc import CmosRtc
from vmm.devices.pc.command_exit import CommandExit
from vmm.devices.pc.crtc import Crtc
from vmm.devices.pc.debugcon import Debugcon
from vmm.devices.pc.i8042 import I8042Device
from vmm.devices.pc.isa_debug_exit import IsaDebugExit
from vmm.devices.pc.pci_config_ports import PciConfigPorts
from vmm.devices.pc.platform import (
    AcpiPmPio,
    CmosRtcPio,
    CrtcPio,
    I8042Pio,
    PvpanicPio,
    SerialPio,
    SystemControlPio,
)
from vmm.devices.pc.post_code import PostCode
from vmm.devices.pc.pvpanic import Pvpanic
from vmm.devices.pc.reset_control import SystemControlPortA
from vmm.devices.pc.vm_generation_id import VmGenerationId
from vmm.devices.pci.bus import PciBus
from vmm.devices.pci.device import PciDevice
from vmm.devices.pci.host_bridge import PciHostBridge
from vmm.devices.pci.reg import (
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_COMMAND,
    PCI_MSI_DATA_64,
    PCI_MSI_FLAGS,
    PCI_MSI_MASK_64,
    PCI_MSIX_FLAGS,
)
from vmm.devices.resources import (
    LegacyIrqConstraint,
    MmioAddressRange,
    PioAddressConstraint,
    PioAddressRange,
    ResourceConstraint,
)
from vmm.devices.serial import Serial
from vmm.devices.state import Byte, State
from vmm.devices.trigger import InterruptLine
from vmm.devices.virtio.mmio import VirtioMmio
from vmm.devices.virtio.pci import VirtioPci

# A name of a method of World, and its arguments.
Step = tuple[object, ...]
NOW: Final = 1_700_000_000  # s


class World:
    """A device with its own clock, lines and sink, and all that can be seen of it.

    `is_fast`: its guest's accesses are served as by a run loop that takes fast ports.
    """

    def __init__(
        self,
        make: "Callable[[World], DeviceIo]",
        *,
        start_ns: int = 0,
        is_fast: bool = False,
    ) -> None:
        self.clock = VirtualClock(start_ns)
        self.sink = StallSink(0)
        self.calls: list[tuple[str, tuple[object, ...]]] = []
        self.host: dict[str, Callable[[bytes], object]] = {
            "make room": lambda data: self.sink.make_room(len(data))
        }
        self.device = make(self)
        constraints = self.device.get_resource_constraints()
        resources = ResourceManager().allocate_device_resources(constraints)
        self.lines = [MessageLine() for _ in resources.get_interrupts()]
        self.device.assign_resources(resources, self.lines)
        trapped = self.device.get_trapped_io_resources() or resources
        self.ranges = [
            place
            for place in trapped
            if isinstance(place, PioAddressRange | MmioAddressRange)
        ]
        self.is_fast = is_fast
        self.fast_ports = self.device.get_fast_ports() if is_fast else {}
        for port in self.fast_ports.values():
            port.in_use = True

    def callback(self, name: str) -> Callable[..., None]:
        """For the device to call; it is noted."""
        return lambda *args: self.calls.append((name, args))

    def line(self, name: str) -> "Called":
        """A Trigger, likewise."""
        return Called(self.callback(name))

    def wall_ns(self) -> int:
        return NOW * 10**9 + 10**9 // 4

    def do(self, step: Step) -> tuple[object, ...]:
        """Take a step; return all that was seen of it but what a sink got."""
        name, *args = step
        calls, edges = len(self.calls), [line.edges for line in self.lines]
        result = getattr(self, str(name))(*args)
        return (
            result,
            [
                line.edges - before
                for line, before in zip(self.lines, edges, strict=True)
            ],
            [line.is_high for line in self.lines],
            self.calls[calls:],
        )

    # The steps

    def read(self, at: int, size: int) -> bytes:
        """Read at `at` bytes behind the start of the first range; sizes may shrink."""
        is_pio, base, offset, size = self._place(at, size)
        port = self.fast_ports.get(base + offset) if is_pio and size == 1 else None
        if port is not None and (answer := port.read()) is not None:
            return bytes((answer,))
        data = bytearray(size)
        access = self.device.pio_read if is_pio else self.device.read
        access(base, offset, memoryview(data))
        return bytes(data)

    def write(self, at: int, size: int, value: int) -> None:
        is_pio, base, offset, size = self._place(at, size)
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        port = self.fast_ports.get(base + offset) if is_pio and size == 1 else None
        if port is not None and port.write(data[0]):
            return
        access = self.device.pio_write if is_pio else self.device.write
        access(base, offset, memoryview(data))

    def drive(self, writes: Sequence[tuple[int, int]], size: int) -> None:
        """Writes that belong together."""
        for at, value in writes:
            self.write(at, size, value)

    def wait(self, delta_ns: int) -> None:
        self.clock.advance(delta_ns)

    def tell(self, name: str, data: bytes) -> object:
        """Let the host do something to the device."""
        return self.host[name](data)

    def reset(self) -> None:
        self.device.reset()

    def _place(self, at: int, size: int) -> tuple[bool, int, int, int]:
        address = self.ranges[0].base + at
        found = [r for r in self.ranges if r.base <= address < r.base + r.size]
        place = found[0] if found else self.ranges[0]
        offset = address - place.base if found else 0
        is_pio = not isinstance(place, MmioAddressRange)
        while size > place.size - offset or (is_pio and size == 8):
            size //= 2
        return is_pio, place.base, offset, size


class Called:
    """A Trigger that calls a function."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.trigger = call


class HolderState(State):
    """What a Holder holds."""

    value: Byte


class Holder(DeviceIoMut):
    """A user's device: holds a level-triggered line while its byte isn't 0."""

    value = 0

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        irq = LegacyIrqConstraint(irq=11, shared=True, level=True)
        return [PioAddressConstraint.at(0x500, 1), irq]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[0] = self.value

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self._hold(data[0])

    def reset(self) -> None:
        self._hold(0)

    def state(self) -> HolderState:
        return HolderState(self.value)

    def restore(self, state: State | None) -> None:
        self._hold(HolderState.of(state).value)

    def _hold(self, value: int) -> None:
        self.value = value
        self.interrupts[0].set_level(value != 0)


def _serial(world: World) -> DeviceIo:
    line = InterruptLine()
    serial = Serial(line, world.sink, clock=world.clock)

    def type_in(data: bytes) -> int | None:
        try:
            return serial.enqueue_raw_bytes(data)
        except FullFifo:
            return None

    def set_lines(data: bytes) -> None:
        cts, dsr, ri, dcd = (bool(byte & 1) for byte in data.ljust(4)[:4])
        serial.set_modem_lines(cts=cts, dsr=dsr, ri=ri, dcd=dcd)

    world.host |= {
        "type": type_in,
        "break": lambda _: serial.inject_break(),
        "overrun": lambda _: serial.inject_overrun(),
        "error": lambda data: serial.inject_error(len(data), 1 + len(data) % 2 << 2),
        "lines": set_lines,
    }
    return SerialPio(serial, line)


def _i8042(world: World) -> DeviceIo:
    keyboard, aux = InterruptLine(), InterruptLine()
    chip = I8042Device(world.line("reset"), keyboard, aux)
    world.host |= {
        "press": chip.send_scancodes,
        "leds": lambda _: chip.keyboard.leds,
        "typematic": lambda _: chip.keyboard.typematic,
    }
    return I8042Pio(chip, keyboard, aux)


def _cmos_rtc(world: World) -> DeviceIo:
    line = InterruptLine()
    rtc = CmosRtc(world.clock, line, wall_ns=world.wall_ns, setup={0x40: 7})
    world.host["nmi disabled"] = lambda _: rtc.nmi_disabled
    return CmosRtcPio(rtc, line)


def _rtc(world: World) -> DeviceIo:
    line = InterruptLine()
    return RtcMmio(Rtc(world.clock, line, wall_ns=world.wall_ns), line)


def _pvpanic(world: World) -> DeviceIo:
    chip = Pvpanic(world.callback("panic"), world.callback("crash kernel"))
    return PvpanicPio(chip)


def _pci_bus() -> PciBus:
    return PciBus(WINDOWS, lambda *_: True, PlainRam(RAM_SIZE))


def _pci_host_bridge(world: World) -> DeviceIo:
    return PciHostBridge(_pci_bus(), world.line("reset"), 0xE000_0000)


def _configure(device: PciDevice, at: int, value: int, size: int) -> bytes:
    """A write to its configuration space; what is there then."""
    device.write_config(at, memoryview(bytearray(value.to_bytes(size, "little"))))
    data = bytearray(4)
    device.read_config(at & ~3, memoryview(data))
    return bytes(data)


def _pci_device(world: World) -> DeviceIo:
    """Accesses go where its BARs are at power-on, to be seen while they are decoded."""
    device = Scratch()
    _pci_bus().attach(device)
    found = {each.id: each.offset for each in device.config.capabilities}
    msi, msix = found[PCI_CAP_ID_MSI], found[PCI_CAP_ID_MSIX]

    config = partial(_configure, device)

    def msi_on(data: bytes) -> bytes:
        config(msi + 4, 0xFEE0_0000, 4)
        config(msi + PCI_MSI_DATA_64, 0x40, 2)
        return config(msi + PCI_MSI_FLAGS, 0x21, 2)

    def write(data: bytes) -> bytes:
        at, value = data[:1], data[1:5].ljust(4, b"\0")
        return config(sum(at) & ~3, int.from_bytes(value, "little"), 4)

    world.host |= {
        "command": lambda data: config(PCI_COMMAND, 0x7 | len(data) % 2 << 10, 2),
        "command off": lambda _: config(PCI_COMMAND, 0, 2),
        "configure": write,
        "interrupt": lambda data: device.interrupt(len(data)),
        "intx": lambda data: device.set_intx(len(data) % 2 == 0),
        "last": lambda _: device.last,
        "msi": msi_on,
        "msi mask": lambda data: config(msi + PCI_MSI_MASK_64, len(data), 4),
        "msi off": lambda _: config(msi + PCI_MSI_FLAGS, 0, 2),
        "msix": lambda data: config(
            msix + PCI_MSIX_FLAGS, 0x8000 | len(data) % 2 << 14, 2
        ),
        "msix off": lambda _: config(msix + PCI_MSIX_FLAGS, 0, 2),
    }
    return device


def _echo(world: World) -> Echo:
    echo = Echo()

    def grow(_: bytes) -> None:
        echo.capacity += 1
        echo.config_changed()

    world.host |= {
        "grow": grow,
        "fail": lambda data: echo.fail(data.hex()),
        "negotiated": lambda _: echo.negotiated,
    }
    return echo


def _virtio_mmio(world: World) -> DeviceIo:
    return VirtioMmio(_echo(world), PlainRam(RAM_SIZE), world.clock)


def _virtio_pci(world: World) -> DeviceIo:
    device = VirtioPci(_echo(world), PlainRam(RAM_SIZE), world.clock)
    _pci_bus().attach(device)
    found = {each.id: each.offset for each in device.config.capabilities}
    world.host |= {
        "command": lambda _: _configure(device, PCI_COMMAND, 0x6, 2),
        "command off": lambda _: _configure(device, PCI_COMMAND, 0, 2),
        "msix": lambda data: _configure(
            device,
            found[PCI_CAP_ID_MSIX] + PCI_MSIX_FLAGS,
            0x8000 | len(data) % 2 << 14,
            2,
        ),
    }
    return device


DEVICES: Final[dict[type[DeviceIo], Callable[[World], DeviceIo]]] = {
    SerialPio: _serial,
    I8042Pio: _i8042,
    CmosRtcPio: _cmos_rtc,
    RtcMmio: _rtc,
    AcpiPmPio: lambda world: AcpiPmPio(AcpiPm(world.line("power off"))),
    SystemControlPio: lambda world: SystemControlPio(
        SystemControlPortA(world.line("reset"))
    ),
    PciConfigPorts: lambda world: PciConfigPorts(world.line("reset")),
    PciHostBridge: _pci_host_bridge,
    PciDevice: _pci_device,
    VirtioMmio: _virtio_mmio,
    VirtioPci: _virtio_pci,
    CrtcPio: lambda _: CrtcPio(Crtc()),
    PvpanicPio: _pvpanic,
    PostCode: lambda _: PostCode(),
    CommandExit: lambda world: CommandExit(world.callback("exit")),
    IsaDebugExit: lambda world: IsaDebugExit(world.callback("exit")),
    Debugcon: lambda world: Debugcon(world.sink),
    VmGenerationId: lambda _: VmGenerationId(PlainRam(0x1000), 0x10),
    Locked: lambda _: Locked(Holder()),
}

# The MSI-X table of the PCI device, seen from its first BAR.
MSIX_TABLE: Final = 0xE020_0000 - WINDOWS.mem64[0]

VIRTIO_QUEUE: Final = (
    *((0x30, 0), (0x38, 8), (0x80, 0x1000), (0x90, 0x2000), (0xA0, 0x3000)),
    (0x44, 1),
)
"""How a ring is set up by MMIO."""
MSIX_VIRTIO: Final = 0x4000  # of VirtioPci, whose other BAR is before it

# What drivers write, which chance would hardly find: (offset, value)s in a row.
DRIVERS: Final[dict[type[DeviceIo], tuple[tuple[tuple[int, int], ...], ...]]] = {
    SerialPio: (
        ((3, 0x83), (0, 1), (1, 0), (3, 0x03), (2, 0x81), (1, 0x05)),
        ((2, 0x01), (1, 0x0F)),
        ((3, 0x03), (2, 0xC7), (4, 0x0B), (1, 0x02), (0, 0x61), (0, 0x62)),
        ((4, 0x1F), (0, 0x63), (3, 0x43)),
        ((4, 0x08), (1, 0x00), (0, 0x64), (0, 0x65), (0, 0x66)),
    ),
    I8042Pio: (
        ((4, 0x60), (0, 0x03)),
        ((4, 0x60), (0, 0x43)),
        ((4, 0xAE), (0, 0xF2), (4, 0xD3), (0, 0x5A)),
        ((0, 0xED),),
        ((0, 0xF5),),
        ((4, 0xD1),),
        ((4, 0xAD), (4, 0x20)),
    ),
    CmosRtcPio: (
        ((0, 0x0B), (1, 0x12), (0, 0x0C)),
        ((0, 0x0A), (1, 0x23), (0, 0x0B), (1, 0x42), (0, 0x0C)),
        ((0, 0x0A), (1, 0x28), (0, 0x0B), (1, 0x72), (0, 0x0C)),
        ((0, 0x01), (1, 0xFF), (0, 0x03), (1, 0xFF), (0, 0x05), (1, 0xFF)),
        ((0, 0x01), (1, 0x30), (0, 0x0B), (1, 0x22), (0, 0x0C)),
        ((0, 0x06), (1, 5), (0, 0x0C)),
        ((0, 0x0B), (1, 0x82), (0, 0x00), (1, 0x59), (0, 0x0B), (1, 0x32)),
        ((0, 0x0A), (1, 0x66), (0, 0x8A), (1, 0x26)),
        ((0, 0x0B), (1, 0x86), (0, 0x32), (1, 99), (0, 0x09), (1, 99), (0, 0x0B)),
    ),
    RtcMmio: (
        ((RTCMR, NOW + 1), (RTCIMSC, 1)),
        ((RTCMR, NOW), (RTCIMSC, 1)),
        ((RTCLR, NOW - 1),),
        ((RTCLR, 0xFFFF_FFFF), (RTCMR, 1), (RTCIMSC, 1)),
    ),
    PciConfigPorts: (((1, 0x02),), ((1, 0x0C),)),
    PciHostBridge: (((0, 0x8000_0004), (4, 0xFFFF_FFFF)), ((0, 0x8000_003C), (4, 5))),
    PciDevice: (
        ((MSIX_TABLE, 0xFEE0_0000), (MSIX_TABLE + 8, 0x41), (MSIX_TABLE + 12, 0)),
        ((MSIX_TABLE + 12, 1),),
        ((MSIX_TABLE + 16, 0xFEE0_0000), (MSIX_TABLE + 24, 0x42)),
        ((MSIX_TABLE + 28, 0),),
        ((0x20, 5),),
    ),
    VirtioMmio: (
        ((0x70, 1), (0x70, 3), (0x24, 1), (0x20, 0x101), (0x70, 11)),
        VIRTIO_QUEUE,
        ((0x70, 15),),
        ((0x30, 1),),
        ((0xC0, 1),),
        ((0x64, 3),),
        ((0x70, 0),),
        ((0x108, 0x61626364),),
    ),
    VirtioPci: (
        ((MSIX_VIRTIO, 0xFEE0_0000), (MSIX_VIRTIO + 8, 0x41), (MSIX_VIRTIO + 12, 0)),
        ((MSIX_VIRTIO + 12, 1),),
        ((0x08, 1), (0x0C, 0x101)),
        ((0x2008, 0x61626364),),
    ),
    AcpiPmPio: (((4, 0x05), (5, 0x34)), ((2, 0xFF), (3, 0xFF))),
    CrtcPio: (((0, 0x11), (1, 0x80)), ((0, 0x07), (1, 0xFF)), ((0, 0x0E), (1, 3))),
}
