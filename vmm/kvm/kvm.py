"""/dev/kvm itself: its version, its capabilities, and the VMs made from it."""

import os
from collections.abc import Mapping
from typing import Final

from ..errors import KvmUnavailable
from ..installation import script
from ._fd import KvmFd
from ._libc import ioctl
from .abi import (
    KVM_API_VERSION,
    KVM_CAP_EXT_CPUID,
    KVM_CAP_IMMEDIATE_EXIT,
    KVM_CAP_IRQCHIP,
    KVM_CAP_IRQFD,
    KVM_CAP_PIT2,
    KVM_CAP_SET_IDENTITY_MAP_ADDR,
    KVM_CAP_SET_TSS_ADDR,
    KVM_CAP_USER_MEMORY,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_MAX_CPUID_ENTRIES,
    kvm_cpuid2,
)
from .vm import Vm

DEV_KVM: Final = "/dev/kvm"

REQUIRED_CAPABILITIES: Final = {
    "KVM_CAP_IRQCHIP": KVM_CAP_IRQCHIP,
    "KVM_CAP_USER_MEMORY": KVM_CAP_USER_MEMORY,
    "KVM_CAP_SET_TSS_ADDR": KVM_CAP_SET_TSS_ADDR,
    "KVM_CAP_EXT_CPUID": KVM_CAP_EXT_CPUID,
    "KVM_CAP_IRQFD": KVM_CAP_IRQFD,
    "KVM_CAP_PIT2": KVM_CAP_PIT2,
    "KVM_CAP_SET_IDENTITY_MAP_ADDR": KVM_CAP_SET_IDENTITY_MAP_ADDR,
    "KVM_CAP_IMMEDIATE_EXIT": KVM_CAP_IMMEDIATE_EXIT,
}


class Kvm(KvmFd):
    """The KVM subsystem, opened and found fit.

    Raises KvmUnavailable when the device is missing, may not be opened, has an
    API version other than 12, or lacks a capability that every guest needs.
    """

    def __init__(
        self,
        path: str = DEV_KVM,
        required: Mapping[str, int] = REQUIRED_CAPABILITIES,
    ) -> None:
        super().__init__(open_device(path))
        try:
            check_api_version(path, ioctl(self.fd, KVM_GET_API_VERSION))
            self._check_capabilities(required)
            self.vcpu_mmap_size = ioctl(self.fd, KVM_GET_VCPU_MMAP_SIZE)
        except BaseException:
            self.close()
            raise

    def _check_capabilities(self, required: Mapping[str, int]) -> None:
        lacking = [
            name
            for name, capability in required.items()
            if not self.check_extension(capability)
        ]
        if lacking:
            raise KvmUnavailable(
                f"this host's KVM lacks {', '.join(lacking)}: a newer host kernel "
                "has it ('vmm doctor' lists what is there)"
            )

    def check_extension(self, capability: int) -> int:
        """The value of a KVM_CAP_* on the system: 0 means absent."""
        return ioctl(self.fd, KVM_CHECK_EXTENSION, capability)

    def create_vm(self) -> Vm:
        """A new, empty VM of the default type."""
        return Vm(ioctl(self.fd, KVM_CREATE_VM), self.vcpu_mmap_size)

    def supported_cpuid(self) -> kvm_cpuid2:
        """All CPUID leaves that KVM and the host's CPU can give a guest."""
        if not _SUPPORTED:  # KVM takes 0.3 ms to collect them
            cpuid = kvm_cpuid2(nent=KVM_MAX_CPUID_ENTRIES)
            ioctl(self.fd, KVM_GET_SUPPORTED_CPUID, cpuid)
            _SUPPORTED.append(bytes(cpuid))
        return kvm_cpuid2.from_buffer_copy(_SUPPORTED[0])


_SUPPORTED: list[bytes] = []
"""Of this process, once somebody has asked."""


def open_device(path: str) -> int:
    """Open /dev/kvm; raises KvmUnavailable with the remedy."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KvmUnavailable(
            f"there is no {path}: load kvm_intel or kvm_amd, enable virtualisation "
            "in the firmware (or nested virtualisation in the cloud), or use "
            f"{script('with-kvm')}, which brings a machine that has it"
        ) from None
    except PermissionError:
        raise KvmUnavailable(
            f"no permission to open {path}: add yourself to its group "
            f"('sudo usermod -aG kvm $USER', then log in again) or run as root"
        ) from None
    except OSError as error:
        raise KvmUnavailable(
            f"{path} can't be opened: {error.strerror}; is it the KVM device?"
        ) from None


def check_api_version(path: str, version: int) -> None:
    """Raises KvmUnavailable unless `version` is the only one there ever was, 12."""
    if version != KVM_API_VERSION:
        raise KvmUnavailable(
            f"{path} speaks KVM API {version}, we need {KVM_API_VERSION}: "
            "a host kernel of 2.6.22 or later has it"
        )
