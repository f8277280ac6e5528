"""For each field of each device's state: how it comes to be another than at power-on,
and what shows then, to the guest or to the host, that it is.

A field that a device forgets looks the same on both sides until something asks for it,
which chance seldom does.
"""

from typing import Final

from support.device_worlds import MSIX_TABLE, MSIX_VIRTIO, NOW, VIRTIO_QUEUE, Step
from vmm.devices.arm.pl031 import RTCDR, RTCIMSC, RTCLR, RTCMR, RTCRIS
from vmm.devices.arm.platform import RtcMmio
from vmm.devices.device_io import DeviceIo, Locked
from vmm.devices.pc.command_exit import CommandExit
from vmm.devices.pc.pci_config_ports import PciConfigPorts
from vmm.devices.pc.platform import (
    AcpiPmPio,
    CmosRtcPio,
    CrtcPio,
    I8042Pio,
    SerialPio,
    SystemControlPio,
)
from vmm.devices.pc.post_code import PostCode
from vmm.devices.pci.device import PciDevice
from vmm.devices.pci.host_bridge import PciHostBridge
from vmm.devices.virtio.mmio import VirtioMmio
from vmm.devices.virtio.pci import VirtioPci

Example = tuple[list[Step], list[Step]]


def _write(*writes: tuple[int, int], size: int = 1) -> Step:
    return "drive", writes, size


def _read(at: int, size: int = 1) -> Step:
    return "read", at, size


def _tell(name: str, data: bytes = b"") -> Step:
    return "tell", name, data


def _wait(delta_ns: int) -> Step:
    return "wait", delta_ns


_SERIAL: Final[dict[str, Example]] = {
    "baud_divisor_low": (
        [_write((3, 0x83), (0, 0x34), (3, 0x03))],
        [_write((3, 0x83)), _read(0)],
    ),
    "baud_divisor_high": (
        [_write((3, 0x83), (1, 0x12), (3, 0x03))],
        [_write((3, 0x83)), _read(1)],
    ),
    "interrupt_enable": ([_write((1, 1))], [_read(1)]),
    "line_control": ([_write((3, 0x1B))], [_read(3)]),
    "line_status": ([_tell("overrun")], [_read(5)]),
    "modem_control": ([_write((4, 3))], [_read(4)]),
    "modem_status": ([_tell("lines", b"\0\1\0\1")], [_read(6)]),
    "scratch": ([_write((7, 0x5A))], [_read(7)]),
    "in_buffer": ([_tell("type", b"x")], [_read(0)]),
    "in_buffer_errors": (
        [_write((2, 1)), _tell("type", b"x"), _tell("error", b"12")],
        [_read(0), _read(5)],
    ),
    "fifo_control": ([_write((2, 1))], [_read(2)]),
    "tx_buffer": ([_write((0, 0x61))], [_read(5)]),
    "thre_pending": ([_write((1, 2))], [_read(2)]),
    "rx_timeout_pending": (
        [_write((2, 0xC1), (1, 1)), _tell("type", b"x"), _wait(30_000_000)],
        [_read(2)],
    ),
    "rx_timeout_ns": (
        [_write((2, 0xC1), (1, 1)), _tell("type", b"x"), _wait(1_000)],
        [_wait(30_000_000)],
    ),
    "modem_lines": (
        [_tell("lines", b"\0\1\0\1"), _read(6)],
        [_write((4, 0x10)), _write((4, 0)), _read(6)],
    ),
}
_I8042: Final[dict[str, Example]] = {
    "ram": ([_write((4, 0x61), (0, 0x5A))], [_write((4, 0x21)), _read(0)]),
    "output_port": ([_write((4, 0xD1), (0, 0xDD))], [_write((4, 0xD0)), _read(0)]),
    "status": ([_write((4, 0xA7))], [_read(4)]),
    "command": ([_write((4, 0xD1))], [_write((0, 0xDD)), _write((4, 0xD0)), _read(0)]),
    "responses": ([_write((4, 0xAA))], [_read(0)]),
    "latched": ([_write((0, 0xEE))], [_read(0)]),
    "last": ([_write((0, 0xEE)), _read(0)], [_read(0)]),
    "released": (
        [_write((4, 0xAE)), _tell("press", b"\xf0")],
        [_tell("press", b"\x1c"), _read(0)],
    ),
    "keyboard.replies": ([_write((0, 0xF2))], [_read(0), _read(0)]),
    "keyboard.scancodes": (
        [_write((4, 0xAE)), _tell("press", b"\x1c\x32")],
        [_read(0), _read(0)],
    ),
    "keyboard.last": ([_write((0, 0xEE)), _read(0)], [_write((0, 0xFE)), _read(0)]),
    "keyboard.command": ([_write((0, 0xED)), _read(0)], [_write((0, 5)), _read(0)]),
    "keyboard.scanning": ([_write((0, 0xF5))], [_tell("press", b"\x1c")]),
    "keyboard.scanset": (
        [_write((0, 0xF0), (0, 1))],
        [_write((0, 0xF0), (0, 0)), _read(0), _read(0), _read(0)],
    ),
    "keyboard.typematic": ([_write((0, 0xF3), (0, 0x10))], [_tell("typematic")]),
    "keyboard.leds": ([_write((0, 0xED), (0, 5))], [_tell("leds")]),
}
_CMOS_RTC: Final[dict[str, Example]] = {
    "ram": ([_write((0, 0x40), (1, 0x99))], [_read(1)]),
    "epoch_ns": ([_wait(3 * 10**9)], [_write((0, 0)), _read(1)]),
    "index": ([_write((0, 0x40))], [_read(1)]),
    "nmi_disabled": ([_write((0, 0x80))], [_tell("nmi disabled")]),
    "weekday_offset": ([_write((0, 6), (1, 5))], [_write((0, 6)), _read(1)]),
    "unseen_ns": ([_write((0, 0x0C)), _read(1), _wait(2 * 10**9)], [_read(1)]),
    "quiet_ns": (
        [  # 8192 a second, of which the first is taken
            _write((0, 0x0A), (1, 0x23), (0, 0x0B), (1, 0x42), (0, 0x0C)),
            _wait(200_000),
            _read(1),
        ],
        [_wait(500_000)],
    ),
}
_RTC: Final[dict[str, Example]] = {
    "lr": ([_write((RTCLR, 5), size=4)], [_read(RTCLR, 4)]),
    "mr": ([_write((RTCMR, 5), size=4)], [_read(RTCMR, 4)]),
    "imsc": ([_write((RTCIMSC, 1), size=4)], [_read(RTCIMSC, 4)]),
    "ris": ([_write((RTCMR, NOW), size=4)], [_read(RTCRIS, 4)]),
    "counter_ns": ([_wait(3 * 10**9)], [_read(RTCDR, 4)]),
}

_NEGOTIATE: Final = ((0x70, 1), (0x70, 3), (0x24, 1), (0x20, 0x101), (0x70, 11))
_VIRTIO_MMIO: Final[dict[str, Example]] = {
    "registers.device_feature_select": (
        [_write((0x14, 1), size=4)],
        [_read(0x10, 4)],
    ),
    "registers.driver_feature_select": (
        [_write((0x70, 1), (0x70, 3), (0x24, 1), size=4)],
        [_write((0x20, 1), (0x70, 11), size=4), _read(0x70, 4)],
    ),
    "registers.driver_features": (
        [_write((0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), size=4)],
        [_write((0x70, 11), size=4), _read(0x70, 4)],
    ),
    "registers.queue_select": ([_write((0x30, 1), size=4)], [_read(0x34, 4)]),
    "registers.status": ([_write((0x70, 1), size=4)], [_read(0x70, 4)]),
    "registers.generation": (
        [_read(0x100, 4), _tell("grow"), _read(0xFC, 4)],
        [_read(0xFC, 4)],
    ),
    "registers.config": ([_tell("grow"), _read(0x100, 4)], [_read(0xFC, 4)]),
    "registers.config_was_read": (
        [_read(0x100, 4)],
        [_tell("grow"), _read(0xFC, 4)],
    ),
    "registers.is_active": (
        [_write(*_NEGOTIATE, (0x70, 15), size=4)],
        [_tell("grow")],
    ),
    "registers.trouble": ([_tell("fail", b"x")], [_read(0x70, 4)]),
    "registers.queues": (
        [_write(*_NEGOTIATE, *VIRTIO_QUEUE, size=4)],
        [_read(0x44, 4)],
    ),
    "registers.reset_queues": (
        [_write(*_NEGOTIATE, *VIRTIO_QUEUE, (0x70, 15), (0xC0, 1), size=4)],
        [_write(*VIRTIO_QUEUE, size=4), _read(0x44, 4)],
    ),
    "interrupt_status": (
        [_write(*_NEGOTIATE, (0x70, 15), size=4), _tell("grow")],
        [_read(0x60, 4)],
    ),
    "device.capacity": ([_tell("grow")], [_read(0x100, 4)]),
    "device.tag": ([_write((0x108, 0x61626364), size=4)], [_read(0x108, 4)]),
}
_START_PCI: Final = [
    _tell("command"),
    _write((0x14, 1), (0x14, 3), size=1),
    _write((0x08, 1), (0x0C, 1), size=4),
    _write((0x14, 11), (0x14, 15), size=1),
]
_VIRTIO_PCI: Final[dict[str, Example]] = {
    "config": ([_tell("command")], [_read(0x12, 2)]),
    "decoded": ([_tell("command")], [_read(0x12, 2)]),
    "msix.table": (
        [_tell("command"), _write((MSIX_VIRTIO, 0xFEE0_0000), size=4)],
        [_read(MSIX_VIRTIO, 4)],
    ),
    "msix.pending": (
        [*_START_PCI, _tell("msix"), _write((0x10, 0), size=2), _tell("grow")],
        [_write((MSIX_VIRTIO, 0xFEE0_0000), (MSIX_VIRTIO + 12, 0), size=4)],
    ),
    "device.registers": (_START_PCI, [_read(0x14, 1)]),
    "device.config_vector": (
        [_tell("command"), _write((0x10, 1), size=2)],
        [_read(0x10, 2)],
    ),
    "device.queue_vectors": (
        [_tell("command"), _write((0x1A, 1), size=2)],
        [_read(0x1A, 2)],
    ),
    "device.isr": ([*_START_PCI, _tell("grow")], [_read(0x1000, 1)]),
    "device.device": ([_tell("grow")], [_tell("command"), _read(0x2000, 4)]),
}

EXAMPLES: Final[dict[type[DeviceIo], dict[str, Example]]] = {
    SerialPio: _SERIAL,
    I8042Pio: _I8042,
    CmosRtcPio: _CMOS_RTC,
    RtcMmio: _RTC,
    AcpiPmPio: {
        "enable": ([_write((2, 0x21))], [_read(2)]),
        "control": ([_write((5, 0x04))], [_read(5)]),
    },
    SystemControlPio: {"value": ([_write((0, 0))], [_read(0)])},
    PciConfigPorts: {"value": ([_write((1, 2))], [_read(1)])},
    PciHostBridge: {
        "config": ([_write((0, 0x8000_0004), (4, 0x144), size=4)], [_read(4, 4)]),
        "device.address": ([_write((0, 0x8000_0004), size=4)], [_read(0, 4)]),
        "device.reset_control": ([_write((1, 2))], [_read(1)]),
    },
    VirtioMmio: _VIRTIO_MMIO,
    VirtioPci: _VIRTIO_PCI,
    PciDevice: {
        "config": ([_tell("command")], [_read(0)]),
        "decoded": ([_tell("command")], [_read(0)]),
        "msix.table": (
            [_tell("command"), _write((MSIX_TABLE, 0xFEE0_0000), size=4)],
            [_read(MSIX_TABLE, 4)],
        ),
        "msix.pending": (
            [_tell("command"), _tell("msix"), _tell("interrupt")],
            [_write((MSIX_TABLE, 0xFEE0_0000), (MSIX_TABLE + 12, 0), size=4)],
        ),
        "device.last": ([_tell("command"), _write((4, 5))], [_tell("last")]),
    },
    CrtcPio: {
        "index": ([_write((0, 0x0E))], [_read(0)]),
        "registers": ([_write((0, 0x0E), (1, 3))], [_read(1)]),
        "in_retrace": ([_read(6)], [_read(6)]),
    },
    PostCode: {"last": ([_write((0, 0x42))], [_read(0)])},
    CommandExit: {"high": ([_write((1, 0x12))], [_write((0, 3))])},
    Locked: {"value": ([_write((0, 5))], [_read(0)])},
}
COMPUTED: Final = {
    (SerialPio, "interrupt_identification"),  # for the reader: others say it
    (PciHostBridge, "decoded"),  # it has no BARs
    (PciHostBridge, "msix"),
}
"""Those that nobody would miss."""
