"""What a machine is made from, as its configuration says: images, quirks, symbols."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeAlias

from ..boot.image import LINUX32, LINUX64, ImageFile, KernelImage
from ..boot.kernel import open_kernel, parse_kernel
from ..boot.layout import ANY_MMIO, device_addresses, ram_ranges
from ..boot.linux import LinuxBoot
from ..config import BUILD_DIR, MachineConfig
from ..devices.bus.resource_manager import PoolLayout, ResourceManager
from ..devices.record import Record
from ..errors import ConfigError
from ..host.quirks import Quirks
from ..host.report import host_kind
from ..host.selection import quirks_for
from ..memory import Range

if TYPE_CHECKING:  # most runs don't import them
    from ..boot.modules import ModuleBoot
    from ..debug.symbols import Symbols

IOAPIC_IRQS: Final = tuple(range(16, 23))  # the next is the VM generation ID's

Boot: TypeAlias = "LinuxBoot | ModuleBoot"
"""What a machine loads at each of its boots, and how it enters it."""


class SavedBoot(Record):
    """The boot that a snapshot's guest has behind it, in a clone's place of a Boot.

    Its images are opened only when the clone boots again; `stack` closes them then.
    """

    config: MachineConfig
    quirks: Quirks
    stack: ExitStack
    cmdline: bytes
    snapshot: str = ""
    """The name of the one that it goes on from, if that is a file."""

    @property
    def ram(self) -> list[Range]:
        return ram_ranges(self.config.memory)

    @property
    def cpus(self) -> int:
        return self.config.cpus

    def open(self) -> Boot:
        """Raises ConfigError, ImageError."""
        return open_boot(self.config, self.quirks, self.stack)


def asked_symbols(config: MachineConfig) -> "Symbols | None":
    """What the user has named for crash reports. Raises ConfigError."""
    if config.symbols is None:
        return None
    from ..debug.symbols import Symbols

    return Symbols.load(config.symbols)


def chosen_quirks(config: MachineConfig) -> Quirks:
    """The work-arounds for this host, or those asked for."""
    return quirks_for(host_kind() if config.quirks == "auto" else config.quirks)


def open_boot(config: MachineConfig, quirks: Quirks, stack: ExitStack) -> Boot:
    """Kernel, initrd and what is added to it; `stack` closes the files.

    Raises ConfigError, ImageError.
    """
    ram = ram_ranges(config.memory)
    config, image, initrd = _open_images(config, ram[0].size, stack)
    kernel = quirks.kernel(image)
    stack.callback(kernel.file.close)
    if kernel.ring3 and config.cpus > 1:
        raise ConfigError(
            f"cpus: {config.cpus}, and kernel {kernel.file.path!r}, which runs in ring "
            "3, has one: pass --cpus 1, or a stock kernel (--kernel)"
        )
    if kernel.protocol not in (LINUX64, LINUX32):
        from .module_boot import module_boot  # most runs have no use for it

        added = added_files(config)
        return module_boot(config, quirks, kernel, ram, initrd, added, stack)
    if config.modules:
        raise ConfigError(
            f"modules: {len(config.modules)} given, and kernel "
            f"{kernel.file.path!r} is booted by {kernel.protocol}, which knows an "
            "initrd alone: pass --initrd, or --boot-protocol pvh or multiboot"
        )
    return LinuxBoot(
        kernel=kernel,
        initrd=initrd,
        cmdline=quirks.cmdline(config.full_cmdline).encode(errors="surrogateescape"),
        ram=ram,
        cpus=config.cpus,
        added=added_files(config),
        acpi=config.acpi,
    )


def _open_images(
    config: MachineConfig, ram_end: int, stack: ExitStack
) -> tuple[MachineConfig, KernelImage, ImageFile | None]:
    """Kernel and initrd, and `config` with the command line that belongs to them."""
    if config.boot_from_disk:
        from ..cloud.disk_boot import read_disk_boot  # most machines don't

        found = read_disk_boot(config.disks[0], config.memory, stack)
        image = parse_kernel(found.kernel, config.boot_protocol, ram_end)
        if config.cmdline is None:
            config = config.replace(cmdline=found.cmdline)
        return config, image, found.initrd
    kernel_path, initrd_path = config.images()
    image = open_kernel(kernel_path, config.boot_protocol, ram_end)
    stack.callback(image.file.close)
    initrd = None
    if initrd_path is not None:
        initrd = stack.enter_context(ImageFile("initrd", initrd_path))
    return config, image, initrd


def resource_pools(ram: list[Range], *, acpi: bool) -> ResourceManager:
    """What there is for devices, beside RAM.

    Pins of the IOAPIC that no ISA bus has are known by ACPI alone; the line that PCI
    devices share is the last that one gets who asks for any.
    """
    layout = PoolLayout(addresses=device_addresses(ram), any_mmio=ANY_MMIO)
    any_irqs = tuple(irq for irq in layout.any_irqs if irq != layout.shared_level_irq)
    if acpi:
        any_irqs += IOAPIC_IRQS
        layout = layout.replace(irqs=tuple(sorted(layout.irqs + IOAPIC_IRQS)))
    any_irqs += (layout.shared_level_irq,)
    return ResourceManager(layout.replace(any_irqs=any_irqs))


def added_files(config: MachineConfig) -> bytes:
    """The archive with what the user adds to the initrd."""
    added = b""
    if config.agent:
        from ..agent.image import agent_segment

        added = agent_segment(BUILD_DIR)
    if config.command is not None:
        from ..guest.command import initramfs_segment

        added += initramfs_segment(config.command, config.memory, BUILD_DIR)
    return added
