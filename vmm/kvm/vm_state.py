"""What KVM keeps of a VM beside its vCPUs: interrupt controllers, timer, clock."""

import ctypes
from typing import Annotated, Final

from ..devices.state import Nanoseconds, State, Uint64
from ._libc import ioctl
from .abi import (
    KVM_CLOCK_HOST_TSC,
    KVM_GET_CLOCK,
    KVM_GET_IRQCHIP,
    KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_SET_IRQCHIP,
    kvm_clock_data,
    kvm_irqchip,
    kvm_pit_state2,
)
from .vm import Vm

_CHIPS: Final = (KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC)
_CHIP_SIZE: Final = ctypes.sizeof(kvm_irqchip)
_PIT_SIZE: Final = ctypes.sizeof(kvm_pit_state2)


class ClockState(State):
    """kvm-clock, and what the host's clocks were at that moment, if KVM tells."""

    clock_ns: Nanoseconds
    host_tsc: Uint64 | None


class VmState(State):
    """The structures are KVM's, as they are in memory."""

    pic_master: Annotated[bytes, range(_CHIP_SIZE, _CHIP_SIZE + 1)]
    pic_slave: Annotated[bytes, range(_CHIP_SIZE, _CHIP_SIZE + 1)]
    ioapic: Annotated[bytes, range(_CHIP_SIZE, _CHIP_SIZE + 1)]
    pit: Annotated[bytes, range(_PIT_SIZE, _PIT_SIZE + 1)]
    clock: ClockState

    def __post_init__(self) -> None:
        super().__post_init__()
        for number, chip in zip(_CHIPS, self._chips(), strict=True):
            given = kvm_irqchip.from_buffer_copy(chip).chip_id
            self.require(given == number, f"chip {given} is not in {number}'s place")

    def _chips(self) -> tuple[bytes, bytes, bytes]:
        return self.pic_master, self.pic_slave, self.ioapic


def save_vm(vm: Vm) -> VmState:
    """What it is like, while its vCPUs stand still."""
    master, slave, ioapic = (_get_chip(vm, number) for number in _CHIPS)
    return VmState(master, slave, ioapic, bytes(vm.get_pit2()), get_clock(vm))


def restore_vm(vm: Vm, state: VmState) -> None:
    """Make it go on from there; the vCPUs' LAPICs are restored already.

    An IOAPIC's pending interrupts go to them at once. The clock is its caller's, as it
    goes with the TSCs. Raises KvmError.
    """
    for chip in state._chips():
        ioctl(vm.fd, KVM_SET_IRQCHIP, kvm_irqchip.from_buffer_copy(chip))
    vm.set_pit2(kvm_pit_state2.from_buffer_copy(state.pit))


def get_clock(vm: Vm) -> ClockState:
    """kvm-clock now."""
    data = kvm_clock_data()
    ioctl(vm.fd, KVM_GET_CLOCK, data)
    has_tsc = data.flags & KVM_CLOCK_HOST_TSC
    return ClockState(data.clock, data.host_tsc if has_tsc else None)


def _get_chip(vm: Vm, number: int) -> bytes:
    chip = kvm_irqchip(chip_id=number)
    ioctl(vm.fd, KVM_GET_IRQCHIP, chip)
    return bytes(chip)
