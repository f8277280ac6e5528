"""A snapshot that no machine was ever like, for tests of its files."""

import ctypes
import json
import os
from typing import Any

from vmm.config import MachineConfig
from vmm.devices.pc.post_code import PostCode
from vmm.devices.state import State
from vmm.host.identity import HostIdentity
from vmm.kvm import abi
from vmm.kvm.vcpu_state import VcpuState
from vmm.kvm.vm_state import ClockState, VmState
from vmm.machine.saved_devices import SavedDevice
from vmm.machine.saved_vm import SavedVm
from vmm.machine.snapshot_form import Contents, sealed
from vmm.page_runs import PAGE_SIZE
from vmm.ram_image import RamImage

HOST = HostIdentity(
    kvm="hardware",
    cpu_vendor="GenuineIntel",
    cpu_family="6",
    cpu_model="143",
    cpu_name="Intel(R) Xeon(R)",
    kernel="6.1.0",
    page_size=4096,
    boot_id="fe1e3f0c-6a6e-4b7e-9d7c-7d0e7d8f0a01",
)


class OwnState(State):
    """A device's of the user's."""

    word: str


def _structure(kind: type[ctypes.Structure], filling: int) -> bytes:
    return bytes([filling]) * ctypes.sizeof(kind)


def _chip(number: int) -> bytes:
    return bytes(abi.kvm_irqchip(chip_id=number))


def _vcpu(number: int) -> VcpuState:
    return VcpuState(
        mp_state=number,
        regs=_structure(abi.kvm_regs, 1),
        sregs=_structure(abi.kvm_sregs, 2),
        xcrs=_structure(abi.kvm_xcrs, 3),
        xsave=bytes(4096),
        debugregs=_structure(abi.kvm_debugregs, 4),
        lapic=_structure(abi.kvm_lapic_state, 5),
        msrs=((0x10, 1), (0x6E0, (1 << 64) - 1)),
        events=_structure(abi.kvm_vcpu_events, 6),
        tsc=7,
        tsc_offset=None if number else (1 << 64) - 8,
    )


def contents(**settings: Any) -> Contents:  # noqa: ANN401
    """Of two vCPUs, and 16 MiB of RAM."""
    config = MachineConfig(**{"memory": "16M", "cpus": 2, **settings})
    devices = (
        SavedDevice("one.Device", "[]", None),
        SavedDevice("two.Device", "[1]", OwnState("a\n\"'\x00ü")),
        SavedDevice("clock.Device", "[2]", PostCode().state()),
    )
    saved = SavedVm(
        vm=VmState(_chip(0), _chip(1), _chip(2), bytes(112), ClockState(5, None)),
        vcpus=(_vcpu(0), _vcpu(1)),
        rescues=(None, OwnState("quirk")),
        devices=devices,
        cpuid=99,
    )
    return Contents(config, saved, b"console=ttyS0 \xff", False, ("my.Device",))


def ram(mark: bytes = b"mark", pages: int = 64) -> RamImage:
    """16 MiB with `mark` in so many pages, behind each of which is a hole."""

    def fill(fd: int) -> None:
        for page in range(pages):
            os.pwrite(fd, mark, 2 * page * PAGE_SIZE)
        os.pwrite(fd, mark, (16 << 20) - len(mark))

    return RamImage.made(16 << 20, fill)


def resealed(state: dict[str, Any]) -> bytes:
    """The text of a state.json, with the check sum that belongs to it."""
    lines = (f'"{name}": {json.dumps(value)}' for name, value in state.items())
    return sealed(("{\n" + ",\n".join(lines)).encode())


def unsealed(text: bytes) -> dict[str, Any]:
    """The fields of a state.json, but for the check sum."""
    fields: dict[str, Any] = json.loads(text)
    del fields["crc32"]
    return fields
