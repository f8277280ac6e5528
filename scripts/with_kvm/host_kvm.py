"""Tell which kind of KVM this host has, from outside any virtual machine."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

KVM_GET_API_VERSION: Final = 0xAE00  # _IO(KVMIO, 0x00), API 4.1
KVM_API_VERSION: Final = 12

Kind = Literal["hardware", "pvm", "none"]


@dataclass(frozen=True, slots=True)
class HostKvm:
    """What /dev/kvm is here, and the reason in words fit for a message."""

    kind: Kind
    reason: str


def host_kvm(device: str = "/dev/kvm", modules: str = "/sys/module") -> HostKvm:
    """Return the kind of KVM behind `device`; never raises OSError.

    "hardware" boots stock kernels, "pvm" small ones only, "none" cannot be used.
    """
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return HostKvm("none", _open_failure(device, error))
    try:
        version = fcntl.ioctl(fd, KVM_GET_API_VERSION)
    except OSError as error:
        return HostKvm("none", f"{device} is no KVM: {error.strerror}")
    finally:
        os.close(fd)
    if version != KVM_API_VERSION:
        return HostKvm("none", f"{device} has KVM API {version}, not 12")
    if Path(modules, "kvm_pvm").exists():
        return HostKvm("pvm", f"{device} is PVM, which emulates kernels")
    return HostKvm("hardware", f"{device} is hardware KVM")


def _open_failure(device: str, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission on {device} (join group kvm?)"
    return f"no usable {device}: {error.strerror}"
