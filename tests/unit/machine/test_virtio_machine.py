"""Virtio devices of a machine: their way to the guest, and who is told of what."""

import gzip
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from support.fake_machine import fake_machine, replace_kvm
from support.virtio_echo import Echo

from vmm import ConfigError, MachineConfig
from vmm.boot.image import ImageFile
from vmm.devices.errors import Exhausted, InvalidDevice, NoDevice
from vmm.devices.virtio.mmio import VirtioMmio
from vmm.devices.virtio.pci import VirtioPci
from vmm.machine.builder import Boot
from vmm.machine.machine import Machine
from vmm.machine.virtio import MOST_TOLD, Virtio, Way, way_to
from vmm.machine.vm_instance import _with_parameters

PCI = Way(True, True)
MMIO = Way(False, True)
CMDLINE = Way(False, False)

EVERYTHING = "ACPI PCI VIRTIO_PCI VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES"


def boot(folder: Path, options: str | None, cmdline: bytes = b"") -> Boot:
    """Of a kernel that has these, and says so; or that doesn't say."""
    text = "".join(f"CONFIG_{name}=y\n" for name in (options or "").split())
    path = folder / "kernel"
    mark = b"" if options is None else b"IKCFG_ST"
    path.write_bytes(b"a kernel" + mark + gzip.compress(text.encode()))
    file = ImageFile("kernel", path)
    os.close(file.fd)
    file.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    kernel = SimpleNamespace(file=file)
    return cast("Boot", SimpleNamespace(kernel=kernel, cmdline=cmdline))


@pytest.mark.parametrize(
    ("options", "settings", "way"),
    [
        (None, {}, PCI),
        (EVERYTHING, {}, PCI),
        ("ACPI VIRTIO_MMIO", {}, MMIO),
        ("ACPI PCI VIRTIO_MMIO", {}, MMIO),
        (EVERYTHING, {"transport": "mmio"}, MMIO),
        (None, {"transport": "mmio"}, MMIO),
        (EVERYTHING, {"pci": False}, MMIO),
        (EVERYTHING, {"transport": "mmio", "acpi": False}, CMDLINE),
        (None, {"transport": "mmio", "acpi": False}, CMDLINE),
        ("VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES", {}, CMDLINE),
        (EVERYTHING, {"acpi": False}, Way(True, False)),
    ],
)
def test_way_is_one_that_kernel_and_user_agree_about(
    tmp_path: Path, options: str | None, settings: dict[str, object], way: Way
) -> None:
    config = MachineConfig(**settings)  # type: ignore[arg-type]
    asked = boot(tmp_path, options)
    with asked.kernel.file:
        assert way_to(config, asked) == way


def test_acpi_off_on_the_command_line_is_heard(tmp_path: Path) -> None:
    asked = boot(tmp_path, EVERYTHING, b"console=ttyS0 acpi=off")
    with asked.kernel.file:
        assert way_to(MachineConfig(transport="mmio"), asked) == CMDLINE


@pytest.mark.parametrize(
    ("options", "settings", "lacking"),
    [
        ("ACPI", {}, "pci: .*CONFIG_PCI$"),
        ("ACPI PCI", {}, "pci: .*CONFIG_VIRTIO_PCI$"),
        ("ACPI VIRTIO_MMIO", {"transport": "pci"}, "pci: .*CONFIG_PCI$"),
        ("ACPI PCI VIRTIO_PCI", {"transport": "mmio"}, "mmio: .*CONFIG_VIRTIO_MMIO$"),
        (
            "ACPI VIRTIO_MMIO",
            {"acpi": False},
            "pci: .*CONFIG_PCI$",
        ),
        (
            "ACPI VIRTIO_MMIO",
            {"transport": "mmio", "acpi": False},
            "mmio: .*CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES$",
        ),
    ],
)
def test_a_kernel_that_cannot_is_told_by_its_configuration(
    tmp_path: Path, options: str, settings: dict[str, object], lacking: str
) -> None:
    config = MachineConfig(**settings)  # type: ignore[arg-type]
    asked = boot(tmp_path, options)
    with (
        asked.kernel.file,
        pytest.raises(ConfigError, match=rf"transport: kernel .* by {lacking}"),
    ):
        way_to(config, asked)


def test_transport_that_the_machine_has_no_bus_for() -> None:
    with pytest.raises(ConfigError, match="transport: it is pci, and pci=False"):
        MachineConfig(transport="pci", pci=False)
    with pytest.raises(ConfigError, match="transport"):
        MachineConfig(transport="isa")  # type: ignore[arg-type]


def test_parameters_come_before_what_is_for_init() -> None:
    def with_cmdline(cmdline: bytes) -> bytes:
        before = SimpleNamespace(
            cmdline=cmdline, replace=lambda cmdline: SimpleNamespace(cmdline=cmdline)
        )
        return _with_parameters(cast("Boot", before), ["a=1", "b=2"]).cmdline

    assert with_cmdline(b"console=ttyS0") == b"console=ttyS0 a=1 b=2"
    assert with_cmdline(b"quiet -- --init") == b"quiet a=1 b=2 -- --init"


# In a machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    replace_kvm(monkeypatch)
    made, _ = fake_machine()
    return made


def with_way(machine: Machine, way: Way) -> Machine:
    machine._plugboard._virtio = Virtio(machine._ram, machine.clock, machine.warn, way)
    return machine


@pytest.mark.parametrize(("way", "kind"), [(PCI, VirtioPci), (MMIO, VirtioMmio)])
def test_a_device_is_plugged_in_and_out(machine: Machine, way: Way, kind: type) -> None:
    echo = Echo()
    with with_way(machine, way):
        machine.plug(echo)
        assert type(machine._devices.plugged()[-1]) is kind
        with pytest.raises(ConfigError, match="Echo is plugged in already"):
            machine.plug(echo)
        machine.unplug(echo)
        assert type(machine._devices.plugged()[-1]) is not kind
        with pytest.raises(NoDevice, match="Echo is not plugged in"):
            machine.unplug(echo)
        machine.plug(echo)


def fill(machine: Machine) -> None:
    for _ in range(100):
        machine.plug(Echo())


def test_what_is_no_device_is_told_so(machine: Machine) -> None:
    for way in machine.plug, machine.unplug:
        with pytest.raises(InvalidDevice, match="'echo' is no device: derive it from"):
            way("echo")  # type: ignore[arg-type]


def test_too_many_are_told_by_the_devices_name(machine: Machine) -> None:
    with with_way(machine, MMIO), pytest.raises(Exhausted, match="Echo: no IRQ"):
        fill(machine)


def test_too_many_slots_are_told_likewise(machine: Machine) -> None:
    with with_way(machine, PCI), pytest.raises(Exhausted, match=r"Echo.* PCI slots"):
        fill(machine)


def test_parameters_are_those_of_what_is_plugged_in(machine: Machine) -> None:
    with with_way(machine, CMDLINE):
        machine.plug(Echo())
        machine.plug(Echo())
        first, second = machine._devices.kernel_parameters()
        assert first.startswith("virtio_mmio.device=512@0x")
        assert second != first
        described = machine._devices.acpi_devices()
    assert "LNRO0005" not in [device.hid for device in described]


def test_troubles_are_warnings_and_come_to_an_end(machine: Machine) -> None:
    echo = Echo()
    with with_way(machine, PCI):
        machine.plug(echo)
        for number in range(100):
            echo.report(f"queue 0: {number}")
    assert machine.warnings[0] == "Echo: queue 0: 0"
    assert len(machine.warnings) == MOST_TOLD
    assert machine.warnings[-1].endswith("(what more it has isn't told)")


def test_a_device_that_nobody_has_looked_for_is_a_hint(machine: Machine) -> None:
    echo = Echo()
    assert machine.hints() == []
    with with_way(machine, MMIO):
        machine.plug(echo)
        (hint,) = machine.hints()
        assert hint.startswith("Echo: no driver has looked for it by MMIO")
        transport = machine._devices.plugged()[-1]
        before = transport.state()
        transport.write(0, 0x70, memoryview(b"\1\0\0\0"))
        assert machine.hints() == []
        found, other = transport.state(), Echo()
        machine.plug(other)
        restored = machine._devices.plugged()[-1]
        restored.restore(before)
        assert len(machine.hints()) == 1
        restored.restore(found)  # in a clone
        assert machine.hints() == []


def test_a_device_that_is_plugged_in_anew_has_new_troubles(machine: Machine) -> None:
    echo = Echo()
    with with_way(machine, PCI):
        for _ in range(2):
            machine.plug(echo)
            for _ in range(100):
                echo.report("queue 0 is broken")
            machine.unplug(echo)
    assert len(machine.warnings) == 2 * MOST_TOLD
