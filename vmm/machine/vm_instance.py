"""VmInstance: a VM from power-on to its end. A machine that resets has several."""

import os
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from ..boot import layout
from ..boot.cpu_state import set_boot_msrs
from ..boot.cpuid import GuestCpuid
from ..boot.firmware import COM_PORTS, firmware
from ..boot.pic import set_up_pics
from ..boot.placement import Block, check_room, write_blocks
from ..devices.pc.platform import SerialPio
from ..devices.pc.vm_generation_id import GENERATION_ID_SIZE
from ..devices.record import Record
from ..errors import ConfigError, KvmError
from ..host.quirks import Quirks
from ..kvm.abi import (
    KVM_CAP_BINARY_STATS_FD,
    KVM_CAP_COALESCED_MMIO,
    KVM_CAP_COALESCED_PIO,
    KVM_CAP_GET_TSC_KHZ,
    KVM_CAP_MAX_VCPUS,
    KVM_CAP_NR_VCPUS,
)
from ..kvm.kvm import Kvm
from ..kvm.vcpu import Vcpu
from ..kvm.vm import Vm
from ..memory import GuestMemory, Region
from ..result import ExitReason
from ..vcpu.control import End, RunControl, failure
from ..vcpu.entry import Entry, Kind, PythonEntry, entry_kind, new_entry
from ..vcpu.run_loop import Bus, RunLoop
from .builder import Boot, SavedBoot
from .device_manager import DeviceManager
from .video_window import VideoWindow

if TYPE_CHECKING:  # most runs don't import them
    from ..host.quirks import Rescue
    from ..kvm.abi import kvm_cpuid2
    from ..kvm.vm_state import ClockState
    from ..profile.recorder import Profile
    from .saved_vm import Parts, SavedVm

# 0 does without it, to measure what it is worth.
COALESCED_PIO: Final = "VMM_COALESCED_PIO"


class KvmSetup(Record):
    """What the host gives a machine: KVM, its quirks, and the way out of a guest.

    `posts`: KVM collects writes to posted ports.
    """

    kvm: Kvm
    quirks: Quirks
    entry: Kind
    posts: bool


class VmParts(Record):
    """What every boot of a machine is made of; `profile` records where time goes."""

    setup: KvmSetup
    memory: GuestMemory
    boot: "Boot | SavedBoot"
    devices: DeviceManager
    control: RunControl
    profile: "Profile | None"

    def with_images(self) -> Self:
        """For a boot, with kernel and initrd opened, which a clone hasn't got.

        Raises ConfigError, ImageError.
        """
        boot = self.boot
        return self.replace(boot=boot.open()) if isinstance(boot, SavedBoot) else self


def probe_kvm(kvm: Kvm, quirks: Quirks, cpus: int) -> KvmSetup:
    """Find out. Raises ConfigError where VMM_RUN_LOOP asks for what isn't there, or
    KVM doesn't take so many CPUs.

    The ring of collected writes is the VM's and has one reader, so that only a
    machine with one CPU has it.
    """
    _check_cpus(kvm, cpus)
    posts = (
        cpus == 1
        and os.environ.get(COALESCED_PIO) != "0"
        and kvm.check_extension(KVM_CAP_COALESCED_PIO) > 0
    )
    return KvmSetup(kvm, quirks, entry_kind(), posts)


def _check_cpus(kvm: Kvm, cpus: int) -> None:
    # Both are as old as SMP in KVM; what to assume without is in API 4.7.
    recommended = kvm.check_extension(KVM_CAP_NR_VCPUS) or 4
    most = kvm.check_extension(KVM_CAP_MAX_VCPUS) or recommended
    if cpus > most:
        raise ConfigError(
            f"cpus: {cpus} are more than the {most} that this host's KVM takes "
            f"(it recommends {recommended} at most)"
        )


class VmInstance:
    """A fresh VM over RAM that is zero, ready to run the kernel's first instruction;
    or over a snapshot's, ready to go on with what was `saved` along with it.

    VM and vCPUs are made anew for each boot: a vCPU that is used again keeps a
    dozen MSRs of the old guest, and kvm-clock goes on writing to its memory.
    """

    def __init__(self, parts: VmParts, saved: "SavedVm | None" = None) -> None:
        setup, memory, boot = parts.setup, parts.memory, parts.boot
        devices, control, profile = parts.devices, parts.control, parts.profile
        kvm, quirks = setup.kvm, setup.quirks
        with ExitStack() as stack:
            vm = kvm.create_vm()
            stack.callback(vm.close)
            video = _map_ram(vm, memory)
            quirks.prepare(vm)
            _set_up_board(vm, devices.level_irqs())
            enter = None
            self.cmdline = boot.cmdline
            """What its kernel was given."""
            if saved is None:
                assert not isinstance(boot, SavedBoot)
                boot = _with_parameters(boot, devices.kernel_parameters())
                self.cmdline = boot.cmdline
                enter = partial(boot.enter, entry=_load(boot, memory, devices))
            # One right after another: KVM takes TSCs that start within a second for
            # synchronised ones, and only then calls kvm-clock stable.
            vcpus: list[Vcpu] = []
            for index in range(boot.cpus):
                vcpus.append(vm.create_vcpu(index))
                stack.callback(vcpus[index].close)
            cpuid = GuestCpuid(kvm, boot.cpus, _tsc_khz(kvm, vcpus[0]))
            self._loops: list[RunLoop] = []
            self._rescues: list[Rescue | None] = []
            self._cpuids: list[kvm_cpuid2] = []
            for vcpu in vcpus:
                table = cpuid.for_cpu(vcpu.index)
                quirks.cpuid(table)
                vcpu.set_cpuid2(table)
                self._cpuids.append(table)
                rescue = quirks.rescue(vcpu, memory)
                self._rescues.append(rescue)
                if enter is not None:
                    set_boot_msrs(vcpu)
                    if vcpu.index == 0:  # the others wait in KVM for INIT and SIPI
                        enter(vcpu)
                if setup.posts:
                    vcpu.take_posted(kvm.check_extension(KVM_CAP_COALESCED_MMIO))
                bus: Bus = devices.io_manager
                if profile is None:
                    entry: Entry = new_entry(setup.entry, vcpu, devices.io_manager)
                else:
                    bus = entry = profile.vcpu(vcpu, bus, PythonEntry())
                self._loops.append(RunLoop(vcpu, memory, bus, control, rescue, entry))
            stack.callback(devices.power_off)
            devices.power_on(vm, video)
            self.vm = vm
            self._kvm = kvm
            self._devices = devices
            self._control = control
            if saved is not None:
                self.restore(saved)
            self._counts_instructions = kvm.check_extension(KVM_CAP_BINARY_STATS_FD)
            self._cleanup = stack.pop_all()

    def save(self, clock: "ClockState") -> "SavedVm":
        """All of it but RAM, which has stood still since `clock`. Raises KvmError."""
        from .saved_vm import save

        return save(self._kvm, self.vm, self.vcpus, self._parts(), clock)

    def restore(self, saved: "SavedVm") -> None:
        """Go on from there, while the vCPUs stand still. Raises VmmError, KvmError."""
        from .saved_vm import restore

        restore(self.vm, self.vcpus, self._parts(), saved)

    def _parts(self) -> "Parts":
        from .saved_vm import Parts

        return Parts(self._rescues, self._cpuids, self._devices)

    @property
    def vcpus(self) -> list[Vcpu]:
        """All vCPUs, by their index."""
        return [loop.vcpu for loop in self._loops]

    @property
    def exits(self) -> dict[str, int]:
        """Exits by kind, over all vCPUs."""
        kinds = self._loops[0].exits
        return {kind: sum(loop.exits[kind] for loop in self._loops) for kind in kinds}

    @property
    def insn_emulation(self) -> int:
        """Guest instructions that KVM emulated; 0 where it doesn't tell them.

        It takes a descriptor to ask, of which there may be none left.
        """
        if not self._counts_instructions:
            return 0
        try:
            counts = [loop.vcpu.stats() for loop in self._loops]
        except OSError:
            return 0
        return sum(stats.get("insn_emulation", 0) for stats in counts)

    def run(self) -> None:
        """Run all vCPUs, the first on this thread, until the control has an end.

        May be called again, to go on from there.
        """
        others = [
            threading.Thread(
                target=self._run_vcpu,
                args=(loop,),
                name=f"vmm-vcpu{loop.vcpu.index}",
                daemon=True,  # as the first's: see lifecycle.py
            )
            for loop in self._loops[1:]
        ]
        started = []
        try:
            for thread in others:
                thread.start()
                started.append(thread)
            self._run_vcpu(self._loops[0])
        except RuntimeError as error:  # no more threads: the others are to stop
            self._control.finish(failure(error))
        finally:
            for thread in started:
                thread.join()

    def _run_vcpu(self, loop: RunLoop) -> None:
        try:
            loop.run()
        except Exception as error:
            detail = loop.blame(error)
            self._control.finish(End(ExitReason.ERROR, detail, error=error))

    def close(self) -> None:
        """Release the VM. Idempotent."""
        self._cleanup.close()


def _map_ram(vm: Vm, memory: GuestMemory) -> VideoWindow:
    """Give the VM its RAM, before the interrupt controllers.

    After them KVM waits for a grace period with each memory slot: 7 ms on PVM.
    """
    low, *high = memory.regions
    at, size = layout.VIDEO
    parts = [
        Region(low.guest_addr, at, low.offset),
        Region(at + size, low.size - at - size, low.offset + at + size),
        *high,
    ]
    for slot, region in enumerate(parts):
        address = memory.host_addr(region)
        vm.set_user_memory_region(slot, region.guest_addr, region.size, address)
    region = Region(at, size, low.offset + at)
    return VideoWindow(vm, len(parts), region, memory.host_addr(region))


def _set_up_board(vm: Vm, level_irqs: set[int]) -> None:
    vm.set_tss_addr(layout.TSS)
    vm.set_identity_map_addr(layout.IDENTITY_MAP)
    vm.create_irqchip()
    vm.create_pit2()
    set_up_pics(vm, level_irqs)


def _tsc_khz(kvm: Kvm, vcpu: Vcpu) -> int:
    """0 where KVM doesn't say, as with an unstable TSC."""
    if not kvm.check_extension(KVM_CAP_GET_TSC_KHZ):
        return 0
    try:
        return vcpu.get_tsc_khz()
    except KvmError:
        return 0


def _with_parameters(boot: Boot, words: list[str]) -> Boot:
    """With more for the kernel, before what is its init's. Raises ConfigError."""
    if not words:
        return boot
    ours, dashes, for_init = boot.cmdline.partition(b" -- ")
    more = " ".join(words).encode()
    return boot.replace(cmdline=ours + b" " + more + dashes + for_init)


def _load(boot: Boot, memory: GuestMemory, devices: DeviceManager) -> int:
    """Fill RAM; the entry point. Tables have what is plugged in by now."""
    level_irqs = devices.level_irqs()
    at_port = devices.io_manager.device_at_port
    com_ports = [port for port in COM_PORTS if isinstance(at_port(port), SerialPio)]
    pci = devices.pci
    lines = None if pci is None else pci.lines()
    blocks = firmware(boot.cpus, com_ports, level_irqs, lines)
    check_room(boot.kernel, blocks[:-1])
    write_blocks(memory, blocks)
    start = boot.load(memory)
    if boot.acpi:
        from ..boot.acpi import acpi_tables

        tables = acpi_tables(boot.cpus, devices.acpi_devices(), level_irqs, pci)
        generation = bytes(GENERATION_ID_SIZE)
        ours = [
            Block("the ACPI tables", layout.ACPI, tables),
            Block("the VM generation ID", layout.VM_GENERATION_ID, generation),
        ]
        check_room(boot.kernel, ours)
        memory.write(layout.ACPI, tables)
    return start
