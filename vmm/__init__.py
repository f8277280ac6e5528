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

from .config import MachineConfig
from .errors import (
    ConfigError,
    ExpectTimeout,
    GuestEnded,
    ImageError,
    KvmError,
    KvmUnavailable,
    VmmError,
)
from .machine import Machine
from .result import ExitReason, RunResult
from .run_once import run

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "ExitReason",
    "ExpectTimeout",
    "GuestEnded",
    "ImageError",
    "KvmError",
    "KvmUnavailable",
    "Machine",
    "MachineConfig",
    "RunResult",
    "VmmError",
    "run",
]
