"""A vCPU whose kvm_run is a file in memory, and the exits that KVM_RUN leaves there."""

import os
import struct
from collections.abc import Callable

from vmm.kvm.abi import (
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_IO,
    KVM_EXIT_MMIO,
    KVM_EXIT_SYSTEM_EVENT,
    kvm_regs,
)
from vmm.kvm.vcpu import Vcpu

DATA = 4096  # where the data of port I/O is in kvm_run
SIZE = 3 * 4096

Exit = Callable[[memoryview], None]  # fills in kvm_run, or raises what KVM_RUN would


class FakeVcpu(Vcpu):
    """Answers RIP and translations as the test says."""

    def __init__(self) -> None:
        fd = os.memfd_create("kvm_run")
        os.truncate(fd, SIZE)
        super().__init__(fd, 0, SIZE)
        self.rip = 0x1000
        self.pages: dict[int, int] = {}

    def get_regs(self) -> kvm_regs:
        return kvm_regs(rip=self.rip)

    def translate(self, linear_addr: int) -> int | None:
        page = self.pages.get(linear_addr & ~0xFFF)
        return None if page is None else page | linear_addr & 0xFFF


def plain(reason: int) -> Exit:
    """An exit that has no data."""

    def fill(run: memoryview) -> None:
        struct.pack_into("<I", run, 8, reason)

    return fill


def io(
    port: int, size: int, *, data: bytes = b"", is_write: bool = False, count: int = 1
) -> Exit:
    """KVM_EXIT_IO; `data` is what an OUT writes."""

    def fill(run: memoryview) -> None:
        struct.pack_into("<I", run, 8, KVM_EXIT_IO)
        struct.pack_into("<BBHIQ", run, 32, is_write, size, port, count, DATA)
        run[DATA : DATA + len(data)] = data

    return fill


def mmio(address: int, size: int, *, data: bytes = b"", is_write: bool = False) -> Exit:
    """KVM_EXIT_MMIO; `data` is what a store writes."""

    def fill(run: memoryview) -> None:
        struct.pack_into("<I", run, 8, KVM_EXIT_MMIO)
        struct.pack_into("<Q8sIB", run, 32, address, data, size, is_write)

    return fill


def internal_error(suberror: int, words: bytes = b"") -> Exit:
    """KVM_EXIT_INTERNAL_ERROR with its 64-bit data words."""

    def fill(run: memoryview) -> None:
        struct.pack_into("<I", run, 8, KVM_EXIT_INTERNAL_ERROR)
        struct.pack_into("<II", run, 32, suberror, len(words) // 8)
        run[40 : 40 + len(words)] = words

    return fill


def fail_entry(reason: int, cpu: int) -> Exit:
    """KVM_EXIT_FAIL_ENTRY."""

    def fill(run: memoryview) -> None:
        struct.pack_into("<I", run, 8, KVM_EXIT_FAIL_ENTRY)
        struct.pack_into("<QI", run, 32, reason, cpu)

    return fill


def system_event(kind: int) -> Exit:
    """KVM_EXIT_SYSTEM_EVENT."""

    def fill(run: memoryview) -> None:
        struct.pack_into("<I", run, 8, KVM_EXIT_SYSTEM_EVENT)
        struct.pack_into("<I", run, 32, kind)

    return fill


def fails(error: OSError) -> Exit:
    """KVM_RUN itself fails."""

    def fill(run: memoryview) -> None:
        raise error

    return fill
