"""minivmm: a KVM virtual machine monitor in Python that boots real Linux.

>>> from vmm import Machine, MachineConfig
>>> with Machine(MachineConfig(kernel="vmlinux", initrd="initramfs.cpio")) as machine:
...     machine.start()
...     machine.console.expect("login: ", timeout=10)
...     machine.console.send("root\\n")
...     result = machine.wait(timeout=30)

Errors form one tree: `vmm.errors.VmmError`, and `vmm.devices.errors.DeviceError`
for the device model.
"""

import sys

TYPE_CHECKING = False  # typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from .config import MachineConfig
    from .console.config import ConsoleConfig
    from .disk.config import DiskConfig
    from .errors import (
        ConfigError,
        ExpectTimeout,
        GuestEnded,
        ImageError,
        KvmError,
        KvmUnavailable,
        RunFailed,
        VmmError,
    )
    from .guest.config import CommandConfig
    from .machine.machine import Machine
    from .machine.run import run
    from .machine.snapshot import Snapshot
    from .machine.state import MachineState
    from .place import Place
    from .result import ExitReason, RunResult
    from .share.config import ShareConfig
    from .version import __version__ as __version__
    from .vsock.config import VsockConfig

__all__ = [
    "CommandConfig",
    "ConfigError",
    "ConsoleConfig",
    "DiskConfig",
    "ExitReason",
    "ExpectTimeout",
    "GuestEnded",
    "ImageError",
    "KvmError",
    "KvmUnavailable",
    "Machine",
    "MachineConfig",
    "MachineState",
    "Place",
    "RunFailed",
    "RunResult",
    "ShareConfig",
    "Snapshot",
    "VmmError",
    "VsockConfig",
    "run",
]

_HOMES = {
    "__version__": "version",
    "MachineConfig": "config",
    "ConsoleConfig": "console.config",
    "CommandConfig": "guest.config",
    "DiskConfig": "disk.config",
    "ShareConfig": "share.config",
    "VsockConfig": "vsock.config",
    "Machine": "machine.machine",
    "MachineState": "machine.state",
    "Place": "place",
    "Snapshot": "machine.snapshot",
    "ExitReason": "result",
    "RunResult": "result",
    "run": "machine.run",
}


if not TYPE_CHECKING:  # or type checkers would take any name

    def __getattr__(name: str) -> object:
        """Import it now: the command `vmm` has SIGINT to see to before all that."""
        ours = name in __all__ or name in _HOMES
        home = f"{__name__}.{_HOMES.get(name, 'errors') if ours else name}"
        try:
            __import__(home)
        except ModuleNotFoundError as error:
            if error.name != home:
                raise
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message) from None
        if ours:
            globals()[name] = getattr(sys.modules[home], name)
            return globals()[name]
        return sys.modules[home]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
