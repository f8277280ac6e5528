"""The bus adapters: constraints, wiring, and how accesses reach the chips."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.serial_rig import CountingTrigger, StallSink

from vmm.devices.arm.pl031 import RTCDR, RTCIMSC, RTCLR, RTCMR, Rtc, RtcMetrics
from vmm.devices.arm.platform import RtcMmio
from vmm.devices.bus.io_manager import IoManager
from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.clock import VirtualClock
from vmm.devices.device_io import DeviceIo
from vmm.devices.errors import Exhausted
from vmm.devices.pc.cmos_rtc import CmosRtc
from vmm.devices.pc.i8042 import I8042Device
from vmm.devices.pc.platform import (
    CmosRtcPio,
    I8042Pio,
    IsaAdapter,
    SerialPio,
)
from vmm.devices.resources import DeviceResources, LegacyIrq, PioAddressRange
from vmm.devices.serial import Serial
from vmm.devices.state import State
from vmm.devices.trigger import InterruptLine

if TYPE_CHECKING:
    from vmm.devices.fast_port import FastPort


class Recorder:
    """A chip that tells which registers were touched."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int]] = []
        self.fast_ports: dict[int, FastPort] = {}

    def read(self, offset: int) -> int:
        self.log.append(("read", offset, 0))
        return 0x10 + offset

    def write(self, offset: int, value: int) -> None:
        self.log.append(("write", offset, value))

    def reset(self) -> None:
        self.log.append(("reset", 0, 0))

    def state(self) -> State | None:
        self.log.append(("state", 0, 0))
        return None

    def restore(self, state: State | None) -> None:
        self.log.append(("restore", 0, 0))


class Pc:
    """The seed document's flow: constraints, allocation, assignment, buses."""

    def __init__(self) -> None:
        self.resources = ResourceManager()
        self.io = IoManager()
        self.irqs: dict[int, CountingTrigger] = {}

    def plug(self, device: DeviceIo) -> DeviceResources:
        constraints = device.get_resource_constraints()
        resources = self.resources.allocate_device_resources(constraints)
        lines = {irq: CountingTrigger() for irq in resources.get_interrupts()}
        self.irqs |= lines
        device.assign_resources(resources, list(lines.values()))
        self.io.register_device_io(device, device.get_trapped_io_resources())
        return resources

    def inb(self, port: int, size: int = 1) -> int:
        data = bytearray(size)
        self.io.pio_read(port, memoryview(data))
        return int.from_bytes(data, "little")

    def outb(self, port: int, value: int, size: int = 1) -> None:
        self.io.pio_write(port, memoryview(value.to_bytes(size, "little")))

    def readl(self, address: int, size: int = 4) -> int:
        data = bytearray(size)
        self.io.mmio_read(address, memoryview(data))
        return int.from_bytes(data, "little")

    def writel(self, address: int, value: int, size: int = 4) -> None:
        self.io.mmio_write(address, memoryview(value.to_bytes(size, "little")))


@pytest.fixture
def pc() -> Pc:
    return Pc()


def test_serial_is_at_com1_with_irq_4(pc: Pc) -> None:
    line, sink = InterruptLine(), StallSink()
    resources = pc.plug(SerialPio(Serial(line, sink, clock=VirtualClock()), line))
    assert resources == DeviceResources([PioAddressRange(0x3F8, 8), LegacyIrq(4)])
    pc.outb(0x3F9, 0x02)
    pc.outb(0x3F8, ord("a"))
    assert sink.data == b"a"
    assert pc.irqs[4].edges >= 1
    assert pc.inb(0x3FD) & 0x20


def test_serial_may_be_elsewhere(pc: Pc) -> None:
    pc.plug(SerialPio(Recorder(), InterruptLine(), base=0x2F8, irq=3))
    assert pc.inb(0x2FA) == 0x12
    assert list(pc.irqs) == [3]


@dataclass
class Keyboard:
    """A plugged-in i8042 and its lines."""

    chip: I8042Device
    reset: CountingTrigger
    resources: DeviceResources


def plug_i8042(pc: Pc, aux: bool) -> Keyboard:
    reset, line, aux_line = CountingTrigger(), InterruptLine(), InterruptLine()
    chip = I8042Device(reset, line, aux_line if aux else None)
    adapter = I8042Pio(chip, line, aux_line if aux else None)
    return Keyboard(chip, reset, pc.plug(adapter))


def test_i8042_has_ports_60_and_64_and_leaves_61_to_63(pc: Pc) -> None:
    keyboard = plug_i8042(pc, aux=False)
    assert keyboard.resources.get_pio_address_ranges() == [(0x60, 1), (0x64, 1)]
    assert keyboard.resources.get_interrupts() == [1]
    pc.outb(0x64, 0xAA)
    assert pc.inb(0x64) & 0x01
    assert pc.inb(0x60) == 0x55
    assert pc.inb(0x61) == 0xFF


def test_i8042_reset_through_the_bus(pc: Pc) -> None:
    keyboard = plug_i8042(pc, aux=False)
    pc.outb(0x64, 0xFE)
    assert keyboard.reset.edges == 1


def test_i8042_with_an_aux_port_has_irq_12(pc: Pc) -> None:
    keyboard = plug_i8042(pc, aux=True)
    assert keyboard.resources.get_interrupts() == [1, 12]
    pc.outb(0x64, 0x60)
    pc.outb(0x60, 0x03)
    keyboard.chip.send_scancodes(b"\x1c")
    assert (pc.irqs[1].edges, pc.irqs[12].edges) == (1, 0)
    pc.outb(0x64, 0xD3)
    pc.outb(0x60, 0x5A)
    assert (pc.irqs[1].edges, pc.irqs[12].edges) == (1, 1)


def test_a_wide_access_to_one_port_of_the_i8042_is_refused(pc: Pc) -> None:
    keyboard = plug_i8042(pc, aux=False)
    pc.outb(0x64, 0x00FE, size=2)
    assert keyboard.reset.edges == 0
    assert pc.io.crossing_accesses == 1


def test_cmos_rtc_is_at_70_with_irq_8(pc: Pc) -> None:
    clock, line = VirtualClock(), InterruptLine()
    pc.plug(CmosRtcPio(CmosRtc(clock, line, wall_ns=lambda: 0), line))
    pc.outb(0x70, 0x0B)
    pc.outb(0x71, 0x12)
    clock.advance(1_000_000_000)
    assert pc.irqs[8].edges == 1
    pc.outb(0x70, 0x00)
    assert pc.inb(0x71) == 0x01


def test_a_16_bit_out_to_70_sets_the_index_and_its_data(pc: Pc) -> None:
    line = InterruptLine()
    pc.plug(CmosRtcPio(CmosRtc(VirtualClock(), line), line))
    pc.outb(0x70, 0xAB40, size=2)
    assert pc.inb(0x71) == 0xAB


def test_a_wide_access_is_byte_cycles_at_consecutive_ports(pc: Pc) -> None:
    chip = Recorder()
    pc.plug(IsaAdapter(chip, 0x300, [(0, 4)], {}))
    assert pc.inb(0x300, size=4) == 0x13121110
    pc.outb(0x302, 0xBBAA, size=2)
    assert chip.log == [
        *[("read", at, 0) for at in range(4)],
        ("write", 2, 0xAA),
        ("write", 3, 0xBB),
    ]


def test_adapters_are_exclusive(pc: Pc) -> None:
    pc.plug(SerialPio(Recorder(), InterruptLine()))
    with pytest.raises(Exhausted, match="ports"):
        pc.plug(SerialPio(Recorder(), InterruptLine(), irq=3))
    with pytest.raises(Exhausted, match="IRQ 4"):
        pc.plug(SerialPio(Recorder(), InterruptLine(), base=0x2F8))


def test_an_unplugged_adapter_has_its_line_cut() -> None:
    line, trigger = InterruptLine(), CountingTrigger()
    adapter = SerialPio(Recorder(), line)
    adapter.assign_resources(DeviceResources([LegacyIrq(4)]), [trigger])
    line.trigger()
    adapter.assign_resources(DeviceResources(), [])
    line.trigger()
    assert trigger.edges == 1


def test_reset_reaches_the_chip() -> None:
    chip = Recorder()
    SerialPio(chip, InterruptLine()).reset()
    assert chip.log == [("reset", 0, 0)]


# --- PL031 ---------------------------------------------------------------


@pytest.fixture
def events() -> RtcMetrics:
    return RtcMetrics()


@pytest.fixture
def rtc_base(pc: Pc, events: RtcMetrics) -> int:
    line = InterruptLine()
    rtc = Rtc(VirtualClock(), line, events=events, wall_ns=lambda: 0)
    ((base, size),) = pc.plug(RtcMmio(rtc, line)).get_mmio_address_ranges()
    assert size == 0x1000
    return base


def test_the_pl031_is_found_a_page_and_an_irq(pc: Pc, rtc_base: int) -> None:
    assert rtc_base == 0xE000_0000
    pc.writel(rtc_base + RTCLR, 0x1234_5678)
    assert pc.readl(rtc_base + RTCDR) == 0x1234_5678
    pc.writel(rtc_base + RTCMR, 0x1234_5678)
    pc.writel(rtc_base + RTCIMSC, 1)
    ((_, irq),) = pc.irqs.items()
    assert irq.edges == 1


def test_a_part_of_a_pl031_register_can_be_read(pc: Pc, rtc_base: int) -> None:
    pc.writel(rtc_base + RTCMR, 0x1234_5678)
    assert pc.readl(rtc_base + RTCMR + 1, size=1) == 0x56
    assert pc.readl(rtc_base + RTCMR + 2, size=2) == 0x1234
    assert pc.readl(rtc_base + RTCMR, size=8) == 0x1234_5678


def test_a_part_of_a_pl031_register_can_not_be_written(
    pc: Pc, rtc_base: int, events: RtcMetrics
) -> None:
    pc.writel(rtc_base + RTCMR, 0x12, size=1)
    pc.writel(rtc_base + RTCMR, 0x1234, size=8)
    pc.writel(rtc_base + RTCMR + 2, 0x1234)
    assert pc.readl(rtc_base + RTCMR) == 0
    assert events.invalid_writes == 3


def test_the_pl031_may_be_put_somewhere(pc: Pc) -> None:
    line = InterruptLine()
    rtc = Rtc(VirtualClock(), line)
    adapter = RtcMmio(rtc, line, base=0xE900_0000, irq=9)
    pc.plug(adapter)
    pc.writel(0xE900_0000 + RTCMR, 5)
    adapter.reset()
    assert pc.readl(0xE900_0000 + RTCMR) == 0
    assert list(pc.irqs) == [9]
