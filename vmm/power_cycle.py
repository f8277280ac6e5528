"""PowerCycle: a VM from power-on to its end. A machine that resets has several."""

import threading
from contextlib import ExitStack

from .boot import layout
from .boot.cpu_state import set_boot_cpu, set_boot_msrs
from .boot.cpuid import GuestCpuid
from .boot.linux import LinuxBoot
from .device_manager import DeviceManager
from .devices.io_manager import IoManager
from .kvm.kvm import Kvm
from .kvm.vcpu import Vcpu
from .kvm.vm import Vm
from .memory import GuestMemory
from .result import ExitReason
from .run_control import End, RunControl
from .run_loop import RunLoop


class PowerCycle:
    """A fresh VM over RAM that is zero, ready to run the kernel's first instruction.

    VM and vCPUs are made anew for each boot: a vCPU that is used again keeps a
    dozen MSRs of the old guest, and kvm-clock goes on writing to its memory.
    """

    def __init__(
        self,
        kvm: Kvm,
        memory: GuestMemory,
        boot: LinuxBoot,
        devices: DeviceManager,
        io_manager: IoManager,
        control: RunControl,
    ) -> None:
        with ExitStack() as stack:
            vm = kvm.create_vm()
            stack.callback(vm.close)
            _set_up_board(vm, memory)
            entry = boot.load(memory)
            cpuid = GuestCpuid(kvm, boot.cpus)
            self._loops: list[RunLoop] = []
            for index in range(boot.cpus):
                vcpu = vm.create_vcpu(index)
                stack.callback(vcpu.close)
                _set_up_vcpu(vcpu, cpuid, entry)
                self._loops.append(RunLoop(vcpu, memory, io_manager, control))
            stack.callback(devices.power_off)
            devices.power_on(vm)
            self._control = control
            self._cleanup = stack.pop_all()

    @property
    def exits(self) -> dict[str, int]:
        """Exits by kind, over all vCPUs."""
        kinds = self._loops[0].exits
        return {kind: sum(loop.exits[kind] for loop in self._loops) for kind in kinds}

    def run(self) -> None:
        """Run all vCPUs, the first on this thread, until the control has an end."""
        others = [
            threading.Thread(
                target=self._run_vcpu, args=(loop,), name=f"vmm-vcpu{loop.vcpu.index}"
            )
            for loop in self._loops[1:]
        ]
        for thread in others:
            thread.start()
        self._run_vcpu(self._loops[0])
        for thread in others:
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


def _set_up_board(vm: Vm, memory: GuestMemory) -> None:
    vm.set_tss_addr(layout.TSS)
    vm.set_identity_map_addr(layout.IDENTITY_MAP)
    vm.create_irqchip()
    vm.create_pit2()
    for slot, region in enumerate(memory.regions):
        vm.set_user_memory_region(
            slot, region.guest_addr, region.size, memory.host_addr(region)
        )


def _set_up_vcpu(vcpu: Vcpu, cpuid: GuestCpuid, entry: int) -> None:
    vcpu.set_cpuid2(cpuid.for_cpu(vcpu.index))
    set_boot_msrs(vcpu)
    if vcpu.index == 0:  # the others wait in KVM for INIT and SIPI
        set_boot_cpu(vcpu, entry)
