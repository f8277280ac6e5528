"""A machine's PCI bus, as guests find it, and interrupts of devices that are in it."""

import re
import threading

import pytest
from support.guests import (
    DEADLINE,
    Shell,
    bare_machine,
    built,
    kernel,
    wait_until,
)

from vmm import ExitReason, Machine
from vmm.devices.errors import DeviceOverlap, Exhausted, InvalidRange
from vmm.devices.pci.bar import Bar, BarKind
from vmm.devices.pci.device import BarDoorbell, PciDevice
from vmm.errors import ConfigError
from vmm.testing import VmFactory

MEM32, IO = 0xE010_0000, 0xC000
MEM64 = 0x60_0000_0000


class Ringer(PciDevice):
    """The device of guest/bare/msi.S: its ports read as `value`, one is a bell."""

    vendor_id, device_id = 0x1234, 0x0001
    bars = (Bar(0, 16, BarKind.IO),)
    msi_vectors = 1
    value = 0x2A

    def __init__(self) -> None:
        super().__init__()
        self.rings: list[str] = []
        self.writes = 0

    def get_bar_doorbells(self) -> list[BarDoorbell]:
        return [BarDoorbell(0, 8, 1, self.ring)]

    def ring(self) -> None:
        self.rings.append(threading.current_thread().name)

    def write_bar(self, bar: int, offset: int, data: memoryview) -> None:
        self.writes += 1

    def read_bar(self, bar: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([self.value]) * len(data)


class Card(PciDevice):
    """One BAR of each kind, and all kinds of interrupts."""

    vendor_id, device_id, class_code = 0x1234, 0x11E8, 0xFF0000
    bars = (
        Bar(0, 0x1000),
        Bar(2, 1 << 20, BarKind.MEM64, prefetchable=True),
        Bar(4, 64, BarKind.IO),
    )
    msix_vectors = 4
    msi_vectors = 2
    uses_intx = True

    def read_bar(self, bar: int, offset: int, data: memoryview) -> None:
        data[:] = bytes([bar + 1]) * len(data)


# Messages, by KVM's routes


def hear(machine: Machine, device: Ringer, number: int, value: int) -> None:
    device.value = value
    device.interrupt()
    machine.console.expect(f"msi {number:02x} {value:02x}\n", timeout=DEADLINE)


def test_a_message_reaches_the_guest_by_no_exit_of_ours() -> None:
    device = Ringer()
    with bare_machine("msi") as machine:
        machine.plug(device)
        machine.start()
        machine.console.expect("ready\n", timeout=DEADLINE)
        for number in range(1, 9):
            hear(machine, device, number, 0x30 + number)
        hear(machine, device, 9, 0xFF)
        assert machine.wait(DEADLINE).reason is ExitReason.RESET


def wait_for_rings(device: Ringer, times: int) -> None:
    wait_until(lambda: len(device.rings) == times, "the doorbell")


class OwnRinger(Ringer):
    own_thread = True


@pytest.mark.parametrize(
    ("kind", "thread"), [(Ringer, "vmm-events"), (OwnRinger, "vmm-OwnRinger")]
)
def test_a_doorbell_follows_its_bar_and_rings_without_an_exit(
    kind: type[Ringer], thread: str
) -> None:
    device = kind()
    with bare_machine("msi", on_reset="restart") as machine:
        machine.plug(device)
        machine.start()
        for boot in (1, 2):  # each of which moves the BAR
            machine.console.expect("ready\n", timeout=DEADLINE)
            hear(machine, device, 1, 0x2A)
            wait_for_rings(device, 2 * boot - 1)
            hear(machine, device, 2, 0xFF)
            wait_for_rings(device, 2 * boot)
        machine.stop()
    assert set(device.rings) == {thread}
    assert device.writes == 0


@pytest.mark.parametrize("cpus", [2, 4])
def test_ports_move_while_other_cpus_are_in_them(cpus: int) -> None:
    device = Ringer()
    with bare_machine("pci-move", cpus=cpus, timeout=DEADLINE) as machine:
        machine.plug(device)
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read() == b"moved\n"
    assert device.rings


def test_a_guest_that_boots_again_routes_again() -> None:
    device = Ringer()
    with bare_machine("msi", on_reset="restart") as machine:
        machine.plug(device)
        machine.start()
        for _ in range(3):
            machine.console.expect("ready\n", timeout=DEADLINE)
            hear(machine, device, 1, 0x2A)
            hear(machine, device, 2, 0xFF)
        machine.stop()
        assert machine.wait(DEADLINE).resets == 3


@pytest.mark.parametrize("kind", [Ringer, OwnRinger])
def test_clones_go_on_with_their_routes_and_bars_where_they_were(
    kind: type[Ringer],
) -> None:
    device = kind()
    with bare_machine("msi") as machine:
        machine.plug(device)
        machine.start()
        machine.console.expect("ready\n", timeout=DEADLINE)
        hear(machine, device, 1, 0x2A)
        with machine.snapshot() as snapshot:
            for value in (0x41, 0x42):
                own = kind()
                with snapshot.clone(devices=[own]) as clone:
                    hear(clone, own, 2, value)
                    hear(clone, own, 3, value + 1)
                    wait_for_rings(own, 2)
                    clone.reset()
                    hear(clone, own, 2, value + 2)
                    wait_for_rings(own, 3)
        hear(machine, device, 2, 0x2B)
        wait_for_rings(device, 2)
    assert not [thread for thread in threading.enumerate() if "Ringer" in thread.name]


def test_an_edge_just_before_a_snapshot_is_in_it() -> None:
    device = Ringer()
    with bare_machine("msi") as machine:
        machine.plug(device)
        machine.start()
        machine.console.expect("ready\n", timeout=DEADLINE)
        machine.pause()
        device.interrupt()
        with machine.snapshot() as snapshot, snapshot.clone() as clone:
            clone.console.expect("msi 01 2a\n", timeout=DEADLINE)
        machine.resume()
        machine.console.expect("msi 01 2a\n", timeout=DEADLINE)


def test_a_clone_with_its_device_in_another_slot_is_refused() -> None:
    with bare_machine("msi") as machine:
        machine.plug(Ringer())
        machine.start()
        machine.console.expect("ready\n", timeout=DEADLINE)
        other = Ringer()
        other.slot = 7
        with (
            machine.snapshot() as snapshot,
            pytest.raises(ConfigError, match=r"PCI slot 7, .* PCI slot 1, "),
        ):
            snapshot.clone(devices=[other])


def test_a_bus_that_everybody_has_left_is_in_a_snapshot() -> None:
    device = Card()
    with bare_machine("ticks") as machine:
        machine.plug(device)
        machine.unplug(device)
        machine.start()
        machine.console.expect("tick", timeout=DEADLINE)
        with machine.snapshot() as snapshot, snapshot.clone() as clone:
            assert [row.slot for row in clone.devices_table() if row.slot == 0] == [0]


# What is refused


def test_there_is_no_hotplug() -> None:
    device = Ringer()
    with bare_machine("msi") as machine:
        machine.plug(device)
        machine.start()
        with pytest.raises(ConfigError, match=r"Card .* plugged in before .* no hotpl"):
            machine.plug(Card())
        with pytest.raises(ConfigError, match=r"Ringer .* unplugged before .* no hot"):
            machine.unplug(device)


def test_a_device_may_be_taken_out_again_before_the_start() -> None:
    device, other = Ringer(), Card()
    with bare_machine("msi", timeout=DEADLINE) as machine:
        machine.plug(other)
        machine.unplug(other)
        machine.plug(device)
        assert device.slot == 1
        machine.start()
        machine.console.expect("ready\n", timeout=DEADLINE)
        machine.stop()


def test_the_table_of_a_machine_has_slots_bars_and_interrupts() -> None:
    with bare_machine("msi") as machine:
        machine.plug(Ringer())
        machine.plug(Card())
        *_, ringer, card = machine.devices_table()
        assert (ringer.device, ringer.slot, ringer.messages) == ("Ringer", 1, 1)
        assert ringer.ports == ((IO, IO + 15),)
        assert (card.slot, card.lines, card.messages) == (2, (11,), 6)
        assert card.ports == ((IO + 0x40, IO + 0x7F),)
        assert card.addresses == (
            (MEM32, MEM32 + 0xFFF),
            (MEM32 + 0x1000, MEM32 + 0x1FFF),
            (MEM64, MEM64 + 0xF_FFFF),
        )


def test_a_machine_may_be_told_to_have_no_bus() -> None:
    with (
        bare_machine("msi", pci=False) as machine,
        pytest.raises(ConfigError, match=r"^pci: it is False, and Ringer is a PCI dev"),
    ):
        machine.plug(Ringer())


def test_a_bus_with_nobody_in_it_has_its_host_bridge() -> None:
    with bare_machine("msi", pci=True, timeout=DEADLINE) as machine:
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read() == b"no msi\n"


def test_a_slot_that_is_taken_is_refused_with_both_names() -> None:
    with bare_machine("msi") as machine:
        machine.plug(Card())
        device = Ringer()
        device.slot = 1
        with pytest.raises(DeviceOverlap, match="slot 1 of Ringer is Card's"):
            machine.plug(device)


def test_32_slots_and_no_more() -> None:
    with bare_machine("msi") as machine:
        for _ in range(31):
            machine.plug(Ringer())
        with pytest.raises(Exhausted, match="Ringer finds none of the 32 PCI slots"):
            machine.plug(Ringer())


def test_more_vectors_than_kvm_has_are_refused_and_leave_the_slot_free() -> None:
    greedy, device = Card(), Ringer()
    greedy.msix_vectors = 1025
    with bare_machine("msi", timeout=DEADLINE) as machine:
        with pytest.raises(InvalidRange, match=r"^Card: MSIs: 0x401 .* can't be"):
            machine.plug(greedy)
        machine.plug(device)
        assert device.slot == 1


@pytest.mark.parametrize(
    "bar", [Bar(0, 1 << 30), Bar(0, 1 << 39, BarKind.MEM64)], ids=["32", "64"]
)
def test_a_bar_that_fits_no_window_is_refused_with_its_size(bar: Bar) -> None:
    device = Ringer()
    device.bars = (bar,)
    with (
        bare_machine("msi") as machine,
        pytest.raises(
            InvalidRange, match=rf"^Ringer: .* has no room for {bar.size:#x}$"
        ),
    ):
        machine.plug(device)


# Linux

DEVICE = "/sys/bus/pci/devices/0000:00:02.0"


@pytest.fixture(scope="class", params=["ecam", "ports", "mptable"])
def linux(request: pytest.FixtureRequest, vm_class: VmFactory) -> Shell:
    """By ACPI with and without the ports, and by ports and the MP table alone."""
    no_ports = " pci=noconf1" if request.param == "ecam" else ""
    machine = vm_class(
        kernel=kernel("full"),
        initrd=built("initramfs-busybox.cpio"),
        append=f"quiet guest.shell{no_ports}",
        memory="256M",
        acpi=request.param != "mptable",
        devices=[Card(), Card()],
    )
    machine.start()
    return Shell(machine)


@pytest.mark.linux
class TestLinux:
    """Our full kernel, which boots once for each way."""

    def test_linux_finds_every_device_by_its_numbers(self, linux: Shell) -> None:
        found = linux.ask(
            "cd /sys/bus/pci/devices; for d in *; do echo $d; "
            "cat $d/vendor $d/device $d/class; done"
        ).split()
        assert found == [
            *("0000:00:00.0", "0x1b36", "0x0008", "0x060000"),
            *("0000:00:01.0", "0x1234", "0x11e8", "0xff0000"),
            *("0000:00:02.0", "0x1234", "0x11e8", "0xff0000"),
        ]

    def test_linux_leaves_the_bars_where_they_are(self, linux: Shell) -> None:
        lines = linux.ask(f"cat {DEVICE}/resource").splitlines()
        places = [
            tuple(int(word, 16) for word in line.split()[:2]) for line in lines[:6]
        ]
        assert places == [
            (MEM32 + 0x2000, MEM32 + 0x2FFF),
            (MEM32 + 0x3000, MEM32 + 0x3FFF),  # the MSI-X table
            (MEM64 + 0x10_0000, MEM64 + 0x1F_FFFF),
            (0, 0),
            (IO + 0x40, IO + 0x7F),
            (0, 0),
        ]

    def test_linux_wires_inta_to_the_shared_line(self, linux: Shell) -> None:
        assert linux.ask(f"echo 1 >{DEVICE}/enable; cat {DEVICE}/irq").split() == ["11"]

    def test_linux_complains_of_nothing(self, linux: Shell) -> None:
        said = linux.ask("dmesg | grep -i -e pci -e mmconfig -e ecam")
        assert said
        assert not re.search(r"(?i)warn|error|fail|bug:|can't|conflict|invalid", said)

    def test_linux_reads_the_registers(self, linux: Shell) -> None:
        linux.ask(f"echo 1 >{DEVICE}/enable")
        assert linux.ask(f"devmem {MEM32 + 0x2000:#x} 32").split() == ["0x01010101"]
        assert linux.ask(f"devmem {MEM64 + 0x10_0000:#x} 32").split() == ["0x03030303"]
