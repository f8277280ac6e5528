"""What PVH and multiboot are given, as the configuration says."""

import os
from contextlib import ExitStack

from ..boot.image import MULTIBOOT, ImageFile, KernelImage
from ..boot.modules import Module, ModuleBoot
from ..boot.multiboot import MultibootBoot
from ..boot.pvh import PvhBoot
from ..config import MachineConfig
from ..errors import ConfigError
from ..host.quirks import Quirks
from ..memory import Range


def module_boot(
    config: MachineConfig,
    quirks: Quirks,
    kernel: KernelImage,
    ram: list[Range],
    initrd: ImageFile | None,
    added: bytes,
    stack: ExitStack,
) -> ModuleBoot:
    """The initrd, with `added` after it, is the first module.

    Raises ConfigError, ImageError.

    A multiboot kernel isn't Linux: it has no init to replace, and gets no words
    but the user's after its own name, which comes first, as from QEMU and GRUB
    Legacy. So does a module's name in its string.
    """
    is_multiboot = kernel.protocol == MULTIBOOT
    if is_multiboot and config.command is not None:
        given = config.command.to_dict()
        field = next(name for name, value in given.items() if value)
        raise ConfigError(
            f"{field}: kernel {kernel.file.path!r} is booted by multiboot, and a "
            "command and added files need Linux: pass --module"
        )
    modules = []
    if initrd is not None or added:
        name = "" if initrd is None else initrd.path
        modules.append(Module(initrd, _encoded(name), added))
    for text in config.modules:
        path = text.split(" ", 1)[0]
        file = stack.enter_context(ImageFile("module", path))
        modules.append(Module(file, _encoded(text)))
    if is_multiboot:
        words = (kernel.file.path, config.cmdline or "", config.append)
        cmdline = " ".join(word for word in words if word)
    else:
        cmdline = quirks.cmdline(config.full_cmdline)
    return (MultibootBoot if is_multiboot else PvhBoot)(
        kernel=kernel,
        modules=modules,
        cmdline=_encoded(cmdline),
        ram=ram,
        cpus=config.cpus,
        acpi=config.acpi,
    )


def _encoded(text: str) -> bytes:
    return os.fsencode(text)
