"""The device model: chips and buses that know nothing of KVM or the VMM.

Everything here imports the standard library and, relatively, itself. What a
device needs from outside comes in as a Protocol: an interrupt
(:class:`~.trigger.Trigger`), time (:class:`~.clock.Clock`) and a place for its
output (:class:`~.sink.Sink`). So every device runs in a test without /dev/kvm.

In-tree the folder is ``devices``; it is imported as ``vmm.devices``. `__all__` is
what is public: all that the author of a device needs, and the chips and buses to
build upon. Each is imported when it is first asked for.
"""

TYPE_CHECKING = False  # typing's, which this need not wait for
if TYPE_CHECKING:
    from .acpi_device import AcpiDevice
    from .adapter import Adapter
    from .arm.pl031 import Rtc, RtcEvents, RtcMetrics, RtcState
    from .arm.platform import RtcMmio
    from .bus.io_manager import IoManager, IoManagerContext, IoTransaction
    from .bus.resource_manager import PoolLayout, ResourceManager
    from .clock import Clock, SystemClock, Timer, VirtualClock
    from .device_io import DeviceIo, DeviceIoMut, Locked
    from .doorbell import Doorbell
    from .errors import (
        DeviceError,
        DeviceOverlap,
        Exhausted,
        FullFifo,
        InvalidAcpiId,
        InvalidDevice,
        InvalidRange,
        InvalidState,
        NoDevice,
        NotRam,
        ResourceError,
        TransactionConflict,
        TransactionError,
        TriggerError,
        UnknownResource,
    )
    from .fast_port import FastPort
    from .guest_ram import GuestRam, barrier
    from .pc.cmos_rtc import CmosRtc, CmosRtcState
    from .pc.i8042 import I8042Device
    from .pc.i8042_state import I8042State
    from .pc.keyboard import KeyboardState, Ps2Keyboard
    from .pc.platform import CmosRtcPio, I8042Pio, IsaAdapter, SerialPio
    from .pci.bar import Bar, BarKind
    from .pci.bus import PciBus
    from .pci.config_space import Capability
    from .pci.device import BarDoorbell, PciDevice, PciState
    from .pci.dma import Dma
    from .pci.host_bridge import PciHostBridge
    from .pci.windows import PciWindows
    from .record import Record, field
    from .resources import (
        DeviceResources,
        GenericIrqConstraint,
        KvmMemSlot,
        KvmMemSlotConstraint,
        LegacyIrq,
        LegacyIrqConstraint,
        MacAddress,
        MemAddressConstraint,
        MemAddressRange,
        MmioAddressConstraint,
        MmioAddressRange,
        MsiIrq,
        MsiIrqType,
        PciMsiIrqConstraint,
        PciMsixIrqConstraint,
        PioAddressConstraint,
        PioAddressRange,
        Resource,
        ResourceConstraint,
    )
    from .serial.events import SerialEvents, SerialMetrics
    from .serial.state import SerialState
    from .serial.uart import Serial
    from .sink import BinaryFile, BufferedSink, FileSink, LossySink, RoomySink, Sink
    from .state import Byte, Nanoseconds, State, Uint64
    from .trigger import Interrupt, InterruptLine, MsiInterrupt, Trigger
    from .virtio.chain import Chain
    from .virtio.device import VirtioDevice
    from .virtio.mmio import VirtioMmio
    from .virtio.pci import VirtioPci
    from .virtio.queue import Virtqueue

__all__ = [
    "AcpiDevice",
    "Adapter",
    "Bar",
    "BarDoorbell",
    "BarKind",
    "BinaryFile",
    "BufferedSink",
    "Byte",
    "Capability",
    "Chain",
    "Clock",
    "CmosRtc",
    "CmosRtcPio",
    "CmosRtcState",
    "DeviceError",
    "DeviceIo",
    "DeviceIoMut",
    "DeviceOverlap",
    "DeviceResources",
    "Dma",
    "Doorbell",
    "Exhausted",
    "FastPort",
    "FileSink",
    "FullFifo",
    "GenericIrqConstraint",
    "GuestRam",
    "I8042Device",
    "I8042Pio",
    "I8042State",
    "Interrupt",
    "InterruptLine",
    "InvalidAcpiId",
    "InvalidDevice",
    "InvalidRange",
    "InvalidState",
    "IoManager",
    "IoManagerContext",
    "IoTransaction",
    "IsaAdapter",
    "KeyboardState",
    "KvmMemSlot",
    "KvmMemSlotConstraint",
    "LegacyIrq",
    "LegacyIrqConstraint",
    "Locked",
    "LossySink",
    "MacAddress",
    "MemAddressConstraint",
    "MemAddressRange",
    "MmioAddressConstraint",
    "MmioAddressRange",
    "MsiInterrupt",
    "MsiIrq",
    "MsiIrqType",
    "Nanoseconds",
    "NoDevice",
    "NotRam",
    "PciBus",
    "PciDevice",
    "PciHostBridge",
    "PciMsiIrqConstraint",
    "PciMsixIrqConstraint",
    "PciState",
    "PciWindows",
    "PioAddressConstraint",
    "PioAddressRange",
    "PoolLayout",
    "Ps2Keyboard",
    "Record",
    "Resource",
    "ResourceConstraint",
    "ResourceError",
    "ResourceManager",
    "RoomySink",
    "Rtc",
    "RtcEvents",
    "RtcMetrics",
    "RtcMmio",
    "RtcState",
    "Serial",
    "SerialEvents",
    "SerialMetrics",
    "SerialPio",
    "SerialState",
    "Sink",
    "State",
    "SystemClock",
    "Timer",
    "TransactionConflict",
    "TransactionError",
    "Trigger",
    "TriggerError",
    "Uint64",
    "UnknownResource",
    "VirtioDevice",
    "VirtioMmio",
    "VirtioPci",
    "Virtqueue",
    "VirtualClock",
    "barrier",
    "field",
]

_NAMES = {
    "acpi_device": "AcpiDevice",
    "adapter": "Adapter",
    "arm.pl031": "Rtc RtcEvents RtcMetrics RtcState",
    "arm.platform": "RtcMmio",
    "bus.io_manager": "IoManager IoManagerContext IoTransaction",
    "bus.resource_manager": "PoolLayout ResourceManager",
    "clock": "Clock SystemClock Timer VirtualClock",
    "device_io": "DeviceIo DeviceIoMut Locked",
    "doorbell": "Doorbell",
    "errors": (
        "DeviceError DeviceOverlap Exhausted FullFifo InvalidAcpiId InvalidDevice "
        "InvalidRange InvalidState NoDevice NotRam ResourceError TransactionConflict "
        "TransactionError TriggerError UnknownResource"
    ),
    "fast_port": "FastPort",
    "guest_ram": "GuestRam barrier",
    "pc.cmos_rtc": "CmosRtc CmosRtcState",
    "pc.i8042": "I8042Device",
    "pc.i8042_state": "I8042State",
    "pc.keyboard": "KeyboardState Ps2Keyboard",
    "pc.platform": "CmosRtcPio I8042Pio IsaAdapter SerialPio",
    "pci.bar": "Bar BarKind",
    "pci.bus": "PciBus",
    "pci.config_space": "Capability",
    "pci.device": "BarDoorbell PciDevice PciState",
    "pci.dma": "Dma",
    "pci.host_bridge": "PciHostBridge",
    "pci.windows": "PciWindows",
    "record": "Record field",
    "resources": (
        "DeviceResources GenericIrqConstraint KvmMemSlot KvmMemSlotConstraint "
        "LegacyIrq LegacyIrqConstraint MacAddress MemAddressConstraint "
        "MemAddressRange MmioAddressConstraint MmioAddressRange MsiIrq MsiIrqType "
        "PciMsiIrqConstraint PciMsixIrqConstraint PioAddressConstraint "
        "PioAddressRange Resource ResourceConstraint"
    ),
    "serial.events": "SerialEvents SerialMetrics",
    "serial.state": "SerialState",
    "serial.uart": "Serial",
    "sink": "BinaryFile BufferedSink FileSink LossySink RoomySink Sink",
    "state": "Byte Nanoseconds State Uint64",
    "trigger": "Interrupt InterruptLine MsiInterrupt Trigger",
    "virtio.chain": "Chain",
    "virtio.device": "VirtioDevice",
    "virtio.mmio": "VirtioMmio",
    "virtio.pci": "VirtioPci",
    "virtio.queue": "Virtqueue",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}


if not TYPE_CHECKING:  # or type checkers would take any name

    def __getattr__(name: str) -> object:
        """Import it now: a run is to have no more modules than it needs."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
