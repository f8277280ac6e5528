"""Guests that find a PCI device of a user's own, and drive it."""

from pathlib import Path

import pytest
from support.guests import (
    DEADLINE,
    Shell,
    bare_machine,
    built,
    follow,
    with_script,
)
from support.pci_example import DRIVER, IDENTITY, build_program, summer

from vmm import ExitReason, Machine, MachineConfig
from vmm.devices.pci.bar import Bar, BarKind
from vmm.devices.pci.device import PciDevice
from vmm.guest import cpio

SUMMED = (
    b"slot 00 00081b36\n"
    b"slot 01 0c321234\n"
    b"bar fffff000\n"
    b"moved ffffffff 00000000\n"
    b"sum cbf43926\n"
)
RUN_DRIVER = "pci_driver 0000:00:01.0"
HOLDER = "1234:0002"
VFIO_INTX = Path(__file__).parents[1] / "support/vfio_intx.c"
SUM = "08abe288"  # of what the driver fills its page with


def config(
    folder: Path, image: Path, source: Path = DRIVER, **settings: object
) -> MachineConfig:
    """A Linux that has VFIO for the devices here, with a program in /bin."""
    program = cpio.file(f"bin/{source.stem}", build_program(source, folder), 0o755)
    initrd = folder / "with-program.cpio"
    initrd.write_bytes(image.read_bytes() + cpio.write([program]))
    vfio = f"vfio.enable_unsafe_noiommu_mode=1 vfio-pci.ids={IDENTITY},{HOLDER}"
    return MachineConfig(
        kernel=built("vmlinux-full-ring3"),
        initrd=initrd,
        append=f"quiet {vfio}",
        timeout=DEADLINE,
        **settings,  # type: ignore[arg-type]
    )


def test_a_bare_guest_drives_it_by_ports() -> None:
    with bare_machine("pci", timeout=DEADLINE) as machine:
        machine.plug(summer())
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read() == SUMMED


def test_a_bare_guest_finds_it_where_it_was_put() -> None:
    device = summer()
    device.slot = 31
    with bare_machine("pci", timeout=DEADLINE) as machine:
        machine.plug(device)
        assert machine.run().reason is ExitReason.RESET
        output = machine.console.read()
    assert output == SUMMED.replace(b"slot 01", b"slot 1f")


def test_a_bus_alone_has_its_bridge() -> None:
    with bare_machine("pci", pci=True, timeout=DEADLINE) as machine:
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read() == b"slot 00 00081b36\nno device\n"


def test_without_a_bus_there_is_nothing() -> None:
    with bare_machine("pci", timeout=DEADLINE) as machine:
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read() == b"no device\n"


@pytest.mark.both
def test_it_is_there_again_after_a_reset() -> None:
    """With its BAR where it was at power-on, and a message that was routed anew."""
    with bare_machine("pci", timeout=DEADLINE, on_reset="restart") as machine:
        machine.plug(summer())
        machine.start()
        for _ in range(3):
            machine.console.expect(SUMMED.decode(), timeout=DEADLINE)
        machine.stop()


class Broken(PciDevice):
    """One that the guest takes for the example's, and that can't be read."""

    vendor_id, device_id = 0x1234, 0x0C32
    bars = (Bar(0, 0x1000),)

    def read_bar(self, bar: int, offset: int, data: memoryview) -> None:
        raise ZeroDivisionError("division by zero")


def test_a_device_that_raises_ends_the_run_and_is_named() -> None:
    with bare_machine("pci", timeout=DEADLINE) as machine:
        machine.plug(Broken())
        result = machine.run()
    assert (result.reason, result.exit_code) == (ExitReason.ERROR, 1)
    assert result.detail == (
        "device Broken raised ZeroDivisionError: division by zero "
        "during a 4-byte read of address 0xe0200014"
    )


class Holder(PciDevice):
    """Holds its line while what was written to its port isn't 0."""

    vendor_id, device_id = 0x1234, 0x0002
    bars = (Bar(0, 4, BarKind.IO),)
    uses_intx = True

    def write_bar(self, bar: int, offset: int, data: memoryview) -> None:
        if data[0]:
            self.interrupt()
        else:
            self.set_intx(False)


@pytest.mark.hardware  # a local APIC on PVM ends an interrupt as its handler begins
def test_a_line_is_held_until_each_of_both_lets_go() -> None:
    with bare_machine("intx", timeout=DEADLINE) as machine:
        for _ in range(2):
            machine.plug(Holder())
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read().decode().splitlines() == [
            "irq 1 88",
            "irq 2 08",
            "quiet 08",
            "irq 3 08",
            "quiet 00",
        ]


@pytest.mark.linux
@pytest.mark.both
def test_a_driver_in_linux_has_dma_and_an_interrupt(tmp_path: Path) -> None:
    """It sleeps on an eventfd until MSI-X wakes it."""
    initrd = with_script(tmp_path, f"{RUN_DRIVER} && {RUN_DRIVER}; echo status $?")
    with Machine(config(tmp_path, initrd)) as machine:
        machine.plug(summer())
        result = machine.run()
        output = machine.console.read().decode().replace("\r", "")
    assert result.reason is ExitReason.RESET, output
    assert output.count(f"{SUM}\nok\n") == 2
    assert "status 0\n" in output


@pytest.mark.linux
@pytest.mark.both
def test_a_driver_in_linux_has_a_line_that_it_shares(tmp_path: Path) -> None:
    script = """
    vfio_intx 0000:00:01.0 && vfio_intx 0000:00:02.0; echo status $?
    dmesg | grep "nobody cared"
    """
    settings = config(tmp_path, with_script(tmp_path, script), VFIO_INTX)
    with Machine(settings) as machine:
        for _ in range(2):
            machine.plug(Holder())
        result = machine.run()
        output = machine.console.read().decode().replace("\r", "")
    assert result.reason is ExitReason.RESET, output
    assert output.count("irq 1 8 0\n") == 6
    assert "status 0\n" in output
    assert "nobody" not in output


@pytest.mark.linux
def test_a_clone_goes_on_with_the_device(tmp_path: Path) -> None:
    """With the BAR, the driver's bindings and, in a new VM, its messages."""
    initrd = built("initramfs-busybox.cpio")
    settings = config(tmp_path, initrd).replace(timeout=None)
    settings = settings.replace(append=f"{settings.append} guest.shell")
    with Machine(settings) as machine:
        machine.plug(summer())
        machine.start()
        shell = Shell(machine)
        assert shell.ask(RUN_DRIVER).split()[-2:] == [SUM, "ok"]
        with (
            machine.snapshot() as snapshot,
            snapshot.clone(devices=[summer()]) as clone,
        ):
            assert follow(clone).ask(RUN_DRIVER).split()[-2:] == [SUM, "ok"]
        assert shell.ask(RUN_DRIVER).split()[-2:] == [SUM, "ok"]
