"""What a machine is made from, as its configuration says: images, quirks, symbols."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from .boot.image import ImageFile
from .boot.kernel import open_kernel
from .boot.linux import LinuxBoot
from .config import BUILD_DIR, MachineConfig
from .host import host_kind
from .quirks import Quirks, quirks_for

if TYPE_CHECKING:  # most runs don't import them
    from .symbols import Symbols


def asked_symbols(config: MachineConfig) -> "Symbols | None":
    """What the user has named for crash reports. Raises ConfigError."""
    if config.symbols is None:
        return None
    from .symbols import Symbols

    return Symbols.load(config.symbols)


def chosen_quirks(config: MachineConfig) -> Quirks:
    """The work-arounds for this host, or those asked for."""
    return quirks_for(host_kind() if config.quirks == "auto" else config.quirks)


def open_boot(config: MachineConfig, quirks: Quirks, stack: ExitStack) -> LinuxBoot:
    """Kernel, initrd and what is added to it; `stack` closes the files.

    Raises ConfigError, ImageError.
    """
    kernel_path, initrd_path = config.images()
    image = open_kernel(kernel_path)
    stack.callback(image.file.close)
    kernel = quirks.kernel(image)
    stack.callback(kernel.file.close)
    initrd = None
    if initrd_path is not None:
        initrd = stack.enter_context(ImageFile("initrd", initrd_path))
    added = b""
    if config.runs_command or config.files:
        from .guest_command import initramfs_segment

        added = initramfs_segment(config, BUILD_DIR)
    return LinuxBoot(
        kernel=kernel,
        initrd=initrd,
        cmdline=quirks.cmdline(config.full_cmdline).encode(errors="surrogateescape"),
        memory_size=config.memory_size,
        cpus=config.cpus,
        added=added,
    )
