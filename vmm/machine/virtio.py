"""Virtio: how a machine's virtio devices come to its guest: by PCI, or by MMIO."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from ..devices.device_io import DeviceIo
from ..devices.errors import NoDevice, ResourceError
from ..devices.record import Record
from ..devices.virtio.device import VirtioDevice
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..config import MachineConfig
    from ..devices.clock import Clock
    from ..devices.guest_ram import GuestRam
    from ..devices.virtio.mmio import VirtioMmio
    from ..devices.virtio.pci import VirtioPci
    from .builder import Boot, SavedBoot
    from .saved_vm import SavedVm

MOST_TOLD: Final = 8  # troubles of one device, which a guest could have without end
_MMIO: Final = "vmm.devices.virtio.mmio."
_BUILT: Final = ("y", "m")


class Way(Record):
    """How virtio devices come to a guest: by PCI, by ACPI, or by its command line."""

    by_pci: bool
    by_acpi: bool


def way_to(config: "MachineConfig", boot: "Boot") -> Way:
    """What a kernel can have, as its own configuration says, if it has that in it.

    Raises ConfigError if that isn't what is asked for.
    """
    from ..boot.embedded_config import embedded_config

    options = embedded_config(boot.kernel.file)
    by_acpi = config.acpi and b"acpi=off" not in boot.cmdline.split()
    by_pci = config.transport != "mmio" and config.pci is not False
    if options is None:
        return Way(by_pci, by_acpi)
    way = Way(by_pci, by_acpi and _has(options, "ACPI"))
    if config.transport == "auto" and by_pci and _lacking(way, options):
        mmio = way.replace(by_pci=False)
        way = way if _lacking(mmio, options) else mmio
    lacking = _lacking(way, options)
    if lacking:
        name = "pci" if way.by_pci else "mmio"
        raise ConfigError(
            f"transport: kernel {boot.kernel.file.path!r} can't have virtio devices by "
            f"{name}: it was built without CONFIG_{lacking}"
        )
    return way


def way_of(saved: "SavedVm", boot: "SavedBoot") -> Way:
    """What a snapshot's guest has."""
    return Way(
        not any(device.kind.startswith(_MMIO) for device in saved.devices),
        b" virtio_mmio.device=" not in boot.cmdline,
    )


def _lacking(way: Way, options: Mapping[str, str]) -> str:
    """The first option that a kernel lacks for that, or ""."""
    needed = ["VIRTIO_MMIO"]
    if way.by_pci:
        needed = ["PCI", "VIRTIO_PCI"]
    elif not way.by_acpi:
        needed.append("VIRTIO_MMIO_CMDLINE_DEVICES")
    return next((name for name in needed if not _has(options, name)), "")


def _has(options: Mapping[str, str], name: str) -> bool:
    return options.get(name) in _BUILT


class Virtio:
    """A machine's virtio devices, each behind a transport. `tell` warns its user."""

    def __init__(
        self,
        ram: "GuestRam",
        clock: "Clock",
        tell: Callable[[str], None],
        way: Way,
    ) -> None:
        self._ram = ram
        self._clock = clock
        self._tell = tell
        self._way = way
        self._transports: dict[VirtioDevice, VirtioPci | VirtioMmio] = {}
        self._told: dict[VirtioDevice, int] = {}

    def plug(self, device: VirtioDevice, plug: Callable[[DeviceIo], None]) -> None:
        """`plug` in a transport for `device`.

        Raises ConfigError, and what `plug` raises, with the name of the device.
        """
        if device in self._transports:
            raise ConfigError(f"{device.name} is plugged in already")
        transport = self._transport(device)
        device.on_trouble = partial(self._has_trouble, device)
        self._transports[device] = transport
        try:
            plug(transport)
        except BaseException as error:
            self.forget(device)
            if isinstance(error, ResourceError) and not transport.is_pci:
                raise type(error)(f"{device.name}: {error}") from None
            raise

    def _transport(self, device: VirtioDevice) -> "VirtioPci | VirtioMmio":
        if self._way.by_pci:
            from ..devices.virtio.pci import VirtioPci

            return VirtioPci(device, self._ram, self._clock)
        from ..devices.virtio.mmio import VirtioMmio

        by_acpi = self._way.by_acpi
        return VirtioMmio(device, self._ram, self._clock, by_acpi=by_acpi)

    def transport_of(self, device: VirtioDevice) -> DeviceIo:
        """What is plugged in for it. Raises NoDevice if it isn't plugged in."""
        if device not in self._transports:
            raise NoDevice(f"{device.name} is not plugged in")
        return self._transports[device]

    def forget(self, device: VirtioDevice) -> None:
        """It isn't plugged in any more, or could not be."""
        self._transports.pop(device, None)
        self._told.pop(device, None)
        device.on_trouble = None

    def hints(self) -> list[str]:
        """Which of them no driver has looked for, and why that may be."""
        way = "on the PCI bus" if self._way.by_pci else "by MMIO"
        lacks = "CONFIG_VIRTIO_PCI" if self._way.by_pci else "CONFIG_VIRTIO_MMIO"
        return [
            f"{device.name}: no driver has looked for it {way}: has the kernel "
            f"{lacks}, or its initrd the module?"
            for device, transport in self._transports.items()
            if not transport.registers.was_found
        ]

    def _has_trouble(self, device: VirtioDevice, why: str) -> None:
        told = self._told[device] = self._told.get(device, 0) + 1
        if told <= MOST_TOLD:
            last = " (what more it has isn't told)" if told == MOST_TOLD else ""
            self._tell(f"{device.name}: {why}{last}")
