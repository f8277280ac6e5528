"""MachineSettings: what MachineConfig takes, for type checkers; no run imports it.

`vmm.run(memroy="1G")` is an error to them then, before it runs.
"""

from collections.abc import Iterable, Mapping, Sequence

from .console.config import ConsoleConfig
from .console.settings import ConsoleSettings
from .disk.config import DiskConfig
from .field_types import (
    BootProtocol,
    ConsoleDevice,
    Policy,
    StrPath,
    WhichQuirks,
    WhichTransport,
)
from .guest.config import CommandConfig
from .guest.settings import AroundCommand
from .place import Place
from .share.config import ShareConfig
from .vsock.config import VsockConfig


class RunSettings(ConsoleSettings, AroundCommand, total=False):
    """The keywords that `vmm.run` passes on; MachineConfig says what they mean."""

    cmdline: str | None
    append: str
    boot_protocol: BootProtocol
    modules: str | Sequence[str]
    memory: int | str
    cpus: int
    timeout: float | None
    on_reset: Policy
    on_panic: Policy
    on_crash: Policy
    hang_s: float | None
    symbols: StrPath | None
    debug_exit: int | None
    debugcon: str | Place | None
    quirks: WhichQuirks
    console: ConsoleConfig
    command: CommandConfig | str | Sequence[str] | None
    console_device: ConsoleDevice
    ports: Mapping[str, str | Place] | Iterable[str | tuple[str, str | Place]]
    shares: StrPath | ShareConfig | Sequence[StrPath | ShareConfig]
    disks: StrPath | DiskConfig | Sequence[StrPath | DiskConfig]
    boot_from_disk: bool
    seed: StrPath | Sequence[StrPath]
    rng: bool
    balloon: int | str | None
    vsock: bool | StrPath | VsockConfig | None
    acpi: bool
    pci: bool | None
    transport: WhichTransport
    agent: bool


class MachineSettings(RunSettings, total=False):
    """All keywords."""

    kernel: StrPath | None
    initrd: StrPath | None
