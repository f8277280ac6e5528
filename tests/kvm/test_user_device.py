"""Devices of a user's own, on a machine that runs."""

import re
import threading
import time

import pytest
from support.guests import DEADLINE, bare_machine, wait_until

from vmm import ExitReason, Machine
from vmm.devices.device_io import DeviceIo, DeviceIoMut, Locked
from vmm.devices.errors import (
    DeviceOverlap,
    InvalidDevice,
    InvalidRange,
    NoDevice,
    ResourceError,
)
from vmm.devices.guest_ram import GuestRam
from vmm.devices.resources import (
    LegacyIrqConstraint,
    MmioAddressConstraint,
    PioAddressConstraint,
    ResourceConstraint,
)
from vmm.errors import GuestAddressError

POLLED_PORT = 0x500  # by guest/bare/poll.S
MMIO_PAGE = 0xE800_0000  # used by guest/bare/mmio.S


class Register(DeviceIo):
    """A port that reads as `value`."""

    def __init__(self, value: int, port: int = POLLED_PORT) -> None:
        self.value = value
        self.port = port

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [PioAddressConstraint.at(self.port, 1)]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[0] = self.value


class Ram(DeviceIo):
    """A page of MMIO that keeps what is written."""

    def __init__(self) -> None:
        self.page = bytearray(0x1000)

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [MmioAddressConstraint.at(MMIO_PAGE, len(self.page))]

    def read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = self.page[offset : offset + len(data)]

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self.page[offset : offset + len(data)] = data


class Broken(DeviceIoMut):
    """Raises at the first access."""

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [PioAddressConstraint.at(POLLED_PORT, 1)]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        raise ZeroDivisionError("division by zero")


def test_mmio_of_every_width_reaches_the_device() -> None:
    ram = Ram()
    with bare_machine("mmio") as machine:
        machine.plug(ram)
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read().decode().splitlines() == [
            "mmio 1 11",
            "mmio 2 2222",
            "mmio 4 44444444",
            "mmio 8 8888888888888888",
        ]
    assert ram.page[24:32] == b"\x88" * 8


def test_plug_and_unplug_while_the_guest_polls() -> None:
    with bare_machine("poll") as machine:
        machine.start()
        machine.console.expect("poll ff\n", timeout=DEADLINE)
        device = Register(0x42)
        machine.plug(device)
        machine.console.expect("poll 42\n", timeout=DEADLINE)
        machine.unplug(device)
        machine.console.expect("poll ff\n", timeout=DEADLINE)
        machine.plug(Register(ord("q")))
        assert machine.wait(DEADLINE).reason is ExitReason.RESET


def test_a_thousand_plugs_under_a_polling_guest_show_no_torn_view() -> None:
    """Two devices change places in the guest's sight; it never sees a third value."""
    with bare_machine("poll", serial_policy="drop") as machine:
        machine.start()
        machine.console.expect("poll ff\n", timeout=DEADLINE)
        for turn in range(1000):
            device = Register(0x10 + turn % 2)
            machine.plug(device)
            machine.unplug(device)
        machine.plug(Register(ord("q")))
        assert machine.wait(DEADLINE).reason is ExitReason.RESET
        seen = set(re.findall(r"poll (\w\w)", machine.console.read().decode()))
    assert seen <= {"ff", "10", "11", "71"}


class Buzzer(DeviceIo):
    """Interrupts on each write of its first port, some time after; counts both ports.

    The guest tells of the interrupts that it takes by its second.
    """

    def __init__(self) -> None:
        self.struck = self.taken = 0

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [PioAddressConstraint.at(POLLED_PORT, 2), LegacyIrqConstraint(irq=5)]

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        if offset == 1:
            self.taken += 1
            return
        time.sleep(50e-6)
        self.interrupts[0].trigger()
        self.struck += 1


def let_it_strike(machine: Machine, device: Buzzer) -> None:
    more = device.struck + 1
    wait_until(lambda: device.struck >= more or machine.result is not None, "a strike")


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("loop", ["python", "compiled"])
def test_a_thousand_unplugs_take_nothing_from_a_device_in_use(
    loop: str, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMM_RUN_LOOP", loop)
    device = Buzzer()
    with bare_machine("hammer", cpus=cpus, timeout=DEADLINE) as machine:
        machine.start()
        machine.console.expect("hammer\n", timeout=DEADLINE)
        for turn in range(1000):
            machine.plug(device)
            if turn % 10 == 0:  # let it strike now and then: else it is out at once
                let_it_strike(machine, device)
            machine.unplug(device)
            assert len(device.get_assigned_resources()) == 0
            assert machine.result is None, machine.result
        struck = device.struck
        machine.plug(Register(ord("q")))
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.RESET, result.detail
    assert device.struck == struck  # it was out when it was said to be
    assert device.taken > 100


class Leaving(Register):
    """Unplugs itself when it is read, and interrupts then."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(0x42)
        self.machine = machine

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [*super().get_resource_constraints(), LegacyIrqConstraint(irq=5)]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        self.machine.unplug(self)
        self.interrupts[0].trigger()
        super().pio_read(base, offset, data)


def test_a_device_unplugs_itself_in_an_access() -> None:
    with bare_machine("poll") as machine:
        machine.start()
        machine.console.expect("poll ff\n", timeout=DEADLINE)
        device = Leaving(machine)
        for _ in range(20):
            machine.plug(device)
            machine.console.expect("poll 42\npoll ff\n", timeout=DEADLINE)
            wait_until(lambda: not device.interrupts, "it has nothing any more")
        machine.plug(Register(ord("q")))
        assert machine.wait(DEADLINE).reason is ExitReason.RESET


def test_a_device_is_unplugged_by_another_thread_than_plugged_it() -> None:
    device = Register(0x42)
    with bare_machine("poll") as machine:
        machine.start()
        machine.plug(device)
        machine.console.expect("poll 42", timeout=DEADLINE)
        thread = threading.Thread(target=machine.unplug, args=(device,))
        thread.start()
        thread.join(DEADLINE)
        machine.console.expect("poll ff", timeout=DEADLINE)


def test_a_device_that_raises_ends_the_run_and_is_named() -> None:
    with bare_machine("poll") as machine:
        machine.plug(Locked(Broken()))
        result = machine.run()
        assert isinstance(machine.error, ZeroDivisionError)
    assert result.reason is ExitReason.ERROR
    assert result.exit_code == 1
    assert result.detail == (
        "device Broken raised ZeroDivisionError: division by zero "
        "during a 1-byte read of port 0x500"
    )


def test_a_taken_port_is_refused() -> None:
    with bare_machine("spin") as machine, pytest.raises((ResourceError, DeviceOverlap)):
        machine.plug(Register(0, port=0x3F8))


def test_what_is_no_device_is_refused_with_what_is() -> None:
    with (
        bare_machine("hello") as machine,
        pytest.raises(InvalidDevice, match=r"no device: .* a DeviceIoMut in Locked"),
    ):
        machine.plug(DeviceIoMut())  # type: ignore[arg-type]


def test_unplugging_what_is_not_plugged_in_is_refused() -> None:
    with bare_machine("spin") as machine, pytest.raises(NoDevice, match="Register"):
        machine.unplug(Register(0))


# DMA


class Copier(DeviceIo):
    """Answers a read of its port by what is at `SOURCE` in the guest's RAM."""

    SOURCE = 0x8_0000

    def __init__(self, memory: GuestRam) -> None:
        self.cell = memory.view(self.SOURCE, 1)

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [PioAddressConstraint.at(POLLED_PORT, 1)]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = self.cell


def test_a_device_reaches_the_guests_ram_over_resets_and_after_the_end() -> None:
    with bare_machine("poll", on_reset="restart") as machine:
        device = Copier(machine.memory)
        machine.plug(device)
        machine.start()
        for _ in range(3):
            machine.console.expect("poll 00\n", timeout=DEADLINE)  # zeroed RAM
            machine.memory.write(Copier.SOURCE, b"q")
            machine.console.expect("poll 71\n", timeout=DEADLINE)
        assert machine.exits["io"] > 0
        with pytest.raises(GuestAddressError, match="is not RAM"):
            machine.memory.view(1 << 40, 1)
    assert bytes(device.cell) == b"\0"
    with pytest.raises(GuestAddressError, match="the machine is closed"):
        machine.memory.read(Copier.SOURCE, 1)


def test_before_the_start_there_are_no_exits() -> None:
    with bare_machine("spin") as machine:
        assert machine.exits == {}


# Level-triggered interrupts


class Holder(DeviceIo):
    """Holds an interrupt line that it shares, as long as a guest has it so."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [
            PioAddressConstraint.at(self.port, 1),
            LegacyIrqConstraint(irq=5, shared=True, level=True),
        ]

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.interrupts[0].set_level(bool(data[0]))


# A local APIC on PVM has ended an interrupt by the time that its handler runs, so that
# one comes too often there.
@pytest.mark.parametrize(
    "name", ["level", pytest.param("level-ioapic", marks=pytest.mark.hardware)]
)
def test_a_level_interrupts_again_until_all_who_share_it_let_go(name: str) -> None:
    with bare_machine(name, timeout=DEADLINE) as machine:
        machine.plug(Holder(POLLED_PORT))
        machine.plug(Holder(POLLED_PORT + 1))
        result = machine.run()
        output = machine.console.read().decode()
    assert output == "irq 1\nirq 2\nirq 3\nquiet\nirq 4\nquiet\n"
    assert result.reason is ExitReason.RESET


# Addresses of a PC's devices


class Inverter(DeviceIo):
    """Gives the complement of what was written."""

    def __init__(self, base: int, size: int) -> None:
        self.range = base, size
        self.value = b""

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [MmioAddressConstraint.at(*self.range)]

    def read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = bytes(value ^ 0xFF for value in self.value)

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self.value = bytes(data)


def test_mmio_may_lie_wherever_a_pc_has_devices() -> None:
    with bare_machine("ranges", timeout=DEADLINE) as machine:
        machine.plug(Inverter(0xA0000, 0x20000))
        machine.plug(Inverter(0xFED00000, 0x400))
        machine.plug(Inverter(0xFED40000, 0x5000))
        machine.plug(Inverter(0xFF000000, 0x1000000))
        result = machine.run()
        lines = machine.console.read().decode().splitlines()
    assert [line.split()[1] for line in lines] == ["a5a55a5a"] * 5
    assert result.unclaimed_accesses == 0


def test_video_memory_that_no_device_has_is_ram() -> None:
    with bare_machine("ranges", timeout=DEADLINE) as machine:
        machine.run()
        lines = machine.console.read().decode().splitlines()
    assert [line.split()[1] for line in lines] == ["5a5aa5a5"] * 2 + ["ffffffff"] * 3


@pytest.mark.parametrize("base", [0, 0xC0000, 0xFEC00000, 0xFEE00000, 0xFEFFC000])
def test_mmio_in_ram_or_in_kvms_own_is_refused(base: int) -> None:
    with (
        bare_machine("spin") as machine,
        pytest.raises(InvalidRange, match=r"can't be: the pool has 0xa0000\.\."),
    ):
        machine.plug(Inverter(base, 0x1000))


def test_a_device_takes_video_memory_and_gives_it_back_while_the_guest_runs() -> None:
    device = Inverter(0xB8000, 0x1000)
    with bare_machine("spin") as machine:
        machine.start()
        machine.console.expect("spin", timeout=DEADLINE)
        for _ in range(3):
            machine.plug(device)
            machine.unplug(device)
