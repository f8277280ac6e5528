"""SavedVm: a machine that stands still, but for its RAM; and how one goes on from it.

The order is KVM's: vCPUs, then what all share, then the clocks, devices last, whose
interrupts would be overwritten before. What fails today at others is in the tests.
"""

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from ..devices.record import Record
from ..errors import ConfigError
from ..host.quirks import Rescue
from ..kvm.abi import kvm_cpuid2
from ..kvm.kvm import Kvm
from ..kvm.vcpu import Vcpu
from ..kvm.vcpu_state import (
    IA32_TSC_DEADLINE,
    VcpuState,
    restore_vcpu,
    save_vcpu,
    set_msrs,
)
from ..kvm.vm import Vm
from ..kvm.vm_state import (
    ClockState,
    VmState,
    restore_vm,
    save_vm,
)
from .device_manager import DeviceManager
from .guest_time import continue_clocks
from .saved_devices import Kept, SavedDevice, as_state, restore_devices, save_devices

_WRAP: Final = 1 << 64


class SavedVm(Record):
    """All but RAM. `rescues` are the states of the host's quirks, one for each vCPU."""

    vm: VmState
    vcpus: tuple[VcpuState, ...]
    rescues: tuple[Kept, ...]
    devices: tuple[SavedDevice, ...]
    cpuid: int
    """What tells another CPUID from this one."""


class Parts(Record):
    """What of a VM isn't KVM's: the quirks' handlers, what CPUID says, the devices."""

    rescues: list[Rescue | None]
    cpuids: list[kvm_cpuid2]
    devices: DeviceManager

    def fingerprint(self) -> int:
        """Of what CPUID says, on all vCPUs."""
        return crc32(b"".join(map(bytes, self.cpuids)))


def save(
    kvm: Kvm, vm: Vm, vcpus: Sequence[Vcpu], parts: Parts, clock: ClockState
) -> SavedVm:
    """What has stood still since it was `clock`. Raises KvmError."""
    devices = save_devices(parts.devices)
    states = tuple(save_vcpu(kvm, vcpu) for vcpu in vcpus)
    state = save_vm(vm).replace(clock=clock)
    rescues = tuple(
        None if rescue is None else rescue.state() for rescue in parts.rescues
    )
    return SavedVm(state, states, rescues, devices, parts.fingerprint())


def restore(vm: Vm, vcpus: Sequence[Vcpu], parts: Parts, saved: SavedVm) -> None:
    """Make a VM go on from there, be it new or put back, as its devices say.

    Raises ConfigError or InvalidState where it is another kind of machine; KvmError.
    """
    if parts.fingerprint() != saved.cpuid:
        raise ConfigError(
            "the snapshot was taken where CPUID shows guests something else: on "
            "another CPU, or by another KVM"
        )
    for vcpu, state, rescue, told in zip(
        vcpus, saved.vcpus, parts.rescues, saved.rescues, strict=True
    ):
        restore_vcpu(vcpu, state)
        if (rescue is None) is not (told is None):
            raise ConfigError("the snapshot was taken where KVM needs other quirks")
        if rescue is not None:
            rescue.restore(as_state(told, rescue))
    restore_vm(vm, saved.vm)
    _restore_clocks(vm, vcpus, saved)
    restore_devices(parts.devices, saved.devices)


def _restore_clocks(vm: Vm, vcpus: Sequence[Vcpu], saved: SavedVm) -> None:
    """For the guest no time has passed; what is due at a TSC comes as late as that."""
    tscs = [(state.tsc, state.tsc_offset) for state in saved.vcpus]
    ahead = continue_clocks(vm, vcpus, saved.vm.clock, tscs)
    for vcpu, state, by in zip(vcpus, saved.vcpus, ahead, strict=True):
        index, deadline = state.msrs[-1]
        if index == IA32_TSC_DEADLINE and deadline:
            set_msrs(vcpu, ((index, (deadline + by) % _WRAP),))
