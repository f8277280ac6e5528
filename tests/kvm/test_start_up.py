"""`vmm run` imports what it needs, and nothing else."""

import ast
import subprocess
import sys

from support.guests import bare

# What a run of a vmlinux on a terminal, a pipe or a file has to have.
STANDARD = """
    __future__ _cffi_backend atexit bisect collections.abc contextlib ctypes enum
    errno fcntl functools gc heapq itertools mmap os re select selectors signal stat
    struct sys threading time types typing
""".split()
OURS = """
    boot boot.acpi boot.aml boot.bootparam boot.bzimage boot.cpu_state boot.cpuid
    boot.cpuid_time boot.elf boot.elf_kernel boot.firmware boot.image boot.kernel
    boot.layout boot.linux boot.mptable boot.pic boot.placement cli cli.main
    cli.messages cli.options cli.plain cli.run config console console.config
    console.console console.endpoint console.input console.opening console.output
    console.signals devices devices.acpi_device devices.adapter
    devices.buffered_sink devices.bus devices.bus.io_manager
    devices.bus.resource_manager devices.clock devices.device_io devices.doorbell
    devices.errors devices.fast_port devices.pc devices.pc.acpi_pm
    devices.pc.calendar_registers devices.pc.cmos_rtc devices.pc.cmos_setup
    devices.pc.crtc devices.pc.i8042 devices.pc.i8042_reg devices.pc.i8042_state
    devices.pc.keyboard devices.pc.pci_config_ports devices.pc.platform
    devices.pc.post_code devices.pc.pvpanic devices.pc.reset_control
    devices.pc.vm_generation_id devices.record devices.resources devices.serial
    devices.serial.events devices.serial.interrupts devices.serial.modem
    devices.serial.receiver devices.serial.reg devices.serial.state
    devices.serial.timeout devices.serial.transmitter devices.serial.uart
    devices.sink devices.soonest_timer devices.state devices.trigger errors
    event_loop eventfd field_types foreign_text host host.probe host.quirks
    host.report host.selection input_file installation kvm kvm._fd kvm._libc kvm.abi
    kvm.coalesced kvm.kvm kvm.stats kvm.vcpu kvm.vm machine machine.builder
    machine.device_manager machine.extras machine.kvm_wiring machine.legacy_devices
    machine.level_lines machine.lifecycle machine.machine machine.outcomes
    machine.plugboard machine.registry machine.state machine.verdict
    machine.video_window machine.vm_instance memory place result threads vcpu
    vcpu.control vcpu.entry vcpu.fatal_exit vcpu.run_loop watch watch.panic
""".split()
# On some hosts, or as VMM_RUN_LOOP says.
POSSIBLE = {
    "vmm.host.pvm",
    "vmm.vcpu.virtual_memory",
    "vmm.vcpu._run_loop",
    "vmm.vcpu._run_loop.lib",
}


def modules(script: str, *arguments: str) -> set[str]:
    """What is imported when `script` has run."""
    end = "import sys; print(list(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\n{end}", *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    names: list[str] = ast.literal_eval(done.stderr.decode().splitlines()[-1])
    return set(names)


def test_vmm_run_imports_only_what_is_listed_here() -> None:
    run = "import sys; from vmm.cli.main import main; main(['run', *sys.argv[1:]])"
    used = modules(run, "--kernel", str(bare("reset")), "--quiet", "--serial", "null")
    ours = {name for name in used if name.split(".")[0] == "vmm"}
    assert ours - POSSIBLE == {"vmm", *(f"vmm.{name}" for name in OURS)}
    allowed = modules("\n".join(f"import {name}" for name in STANDARD))
    assert used - ours - allowed == set()
