"""The board's small ports: POST codes, pvpanic, chipset resets, the missing PCI bus."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.devices.bus.io_manager import IoManager
from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.device_io import DeviceIo
from vmm.devices.fast_port import RING_SIZE
from vmm.devices.pc.isa_debug_exit import IsaDebugExit, exit_status
from vmm.devices.pc.pci_config_ports import PciConfigPorts
from vmm.devices.pc.platform import PvpanicPio, SystemControlPio
from vmm.devices.pc.post_code import PostCode
from vmm.devices.pc.pvpanic import Pvpanic
from vmm.devices.pc.reset_control import SystemControlPortA


class Resets:
    """A Trigger that counts."""

    def __init__(self) -> None:
        self.count = 0

    def trigger(self) -> None:
        self.count += 1


class Bus:
    """One device where a guest would find it."""

    def __init__(self, device: DeviceIo) -> None:
        self.device = device
        self.manager = IoManager()
        constraints = device.get_resource_constraints()
        resources = ResourceManager().allocate_device_resources(constraints)
        device.assign_resources(resources, [])
        self.manager.register_device_io(device, resources)

    def read(self, port: int, size: int = 1) -> int:
        data = bytearray(size)
        self.manager.pio_read(port, memoryview(data))
        return int.from_bytes(data, "little")

    def write(self, port: int, value: int, size: int = 1) -> None:
        data = bytearray(value.to_bytes(size, "little"))
        self.manager.pio_write(port, memoryview(data))

    @contextmanager
    def all_claimed(self) -> Iterator[None]:
        yield
        assert self.manager.unclaimed_accesses == self.manager.crossing_accesses == 0


@pytest.fixture
def resets() -> Resets:
    return Resets()


# POST codes


def test_post_code_reads_back_what_was_written_last() -> None:
    bus = Bus(PostCode())
    assert bus.read(0x80) == 0
    bus.write(0x80, 0x12)
    bus.write(0x80, 0x34)
    assert bus.read(0x80) == 0x34


def test_post_code_takes_what_a_run_loop_has_served() -> None:
    device = PostCode()
    fast = device.get_fast_ports()[0x80]
    assert fast.posted
    assert fast.write(0xAA)
    assert fast.write(0x55)
    assert device.last == 0x55


def test_post_code_written_past_a_full_ring_is_the_last_and_makes_room() -> None:
    bus = Bus(PostCode())
    fast = bus.device.get_fast_ports()[0x80]
    assert all(fast.write(1) for _ in range(RING_SIZE))
    assert not fast.write(2)
    bus.write(0x80, 2)
    assert bus.read(0x80) == 2
    assert all(fast.write(3) for _ in range(RING_SIZE))
    assert bus.read(0x80) == 3


def test_post_code_is_reported_unless_there_is_none() -> None:
    bus = Bus(PostCode())
    assert bus.device.get_report() == ""
    bus.write(0x80, 0)
    assert bus.device.get_report() == "POST code (port 0x80): 0x00"


def test_post_code_is_forgotten_by_a_reset_in_the_ring_too() -> None:
    device = PostCode()
    device.get_fast_ports()[0x80].write(0xAA)
    device.reset()
    assert device.last is None


# pvpanic


@pytest.fixture
def told() -> list[str]:
    """What the host was told."""
    return []


@pytest.fixture
def pvpanic(told: list[str]) -> Bus:
    chip = Pvpanic(lambda: told.append("panic"), lambda: told.append("crash loaded"))
    return Bus(PvpanicPio(chip))


def test_pvpanic_reads_the_events_that_it_knows(pvpanic: Bus) -> None:
    assert pvpanic.read(0x505) == 0x03
    fast = pvpanic.device.get_fast_ports()[0x505]
    assert fast.read() == 0x03
    assert not fast.write(0x01)  # for the device itself


@pytest.mark.parametrize(
    ("value", "events"),
    [
        (0x00, []),
        (0x01, ["panic"]),
        (0x02, ["crash loaded"]),
        (0x03, ["crash loaded", "panic"]),
        (0xFC, []),
    ],
)
def test_pvpanic_tells_of_each_event_it_knows(
    pvpanic: Bus, told: list[str], value: int, events: list[str]
) -> None:
    pvpanic.write(0x505, value)
    assert told == events


def test_pvpanic_is_the_same_after_a_reset(pvpanic: Bus) -> None:
    pvpanic.device.reset()
    assert pvpanic.read(0x505) == 0x03


# Port 0x92


@pytest.fixture
def port_a(resets: Resets) -> Bus:
    return Bus(SystemControlPio(SystemControlPortA(resets)))


def test_a20_is_on_and_keeps_what_is_written(port_a: Bus, resets: Resets) -> None:
    assert port_a.read(0x92) == 0x02
    port_a.write(0x92, 0xFC)
    assert port_a.read(0x92) == 0x00
    port_a.write(0x92, 0xFE)
    assert port_a.read(0x92) == 0x02
    assert resets.count == 0


def test_port_a_publishes_what_a_read_gives(port_a: Bus) -> None:
    fast = port_a.device.get_fast_ports()[0x92]
    assert fast.read() == 0x02
    port_a.write(0x92, 0x00)
    assert fast.read() == 0x00
    port_a.device.reset()
    assert fast.read() == 0x02


def test_fast_reset_acts_when_bit_0_rises(port_a: Bus, resets: Resets) -> None:
    port_a.write(0x92, 0x03)
    assert resets.count == 1
    port_a.write(0x92, 0x01)
    assert resets.count == 1
    port_a.write(0x92, 0x02)
    port_a.write(0x92, 0x03)
    assert resets.count == 2


def test_fast_reset_can_act_again_after_a_reset(port_a: Bus, resets: Resets) -> None:
    port_a.write(0x92, 0x01)
    port_a.device.reset()
    port_a.write(0x92, 0x01)
    assert resets.count == 2


# Ports 0xCF8 to 0xCFF


@pytest.fixture
def config_ports(resets: Resets) -> Bus:
    return Bus(PciConfigPorts(resets))


def test_pci_type_1_probe_finds_no_bus(config_ports: Bus) -> None:
    with config_ports.all_claimed():
        config_ports.write(0xCFB, 0x01)
        config_ports.write(0xCF8, 0x80000000, 4)
        assert config_ports.read(0xCF8, 4) == 0xFFFF_FFFF


def test_pci_type_2_probe_finds_no_bus(config_ports: Bus) -> None:
    with config_ports.all_claimed():
        for port in (0xCFB, 0xCF8, 0xCFA):
            config_ports.write(port, 0)
        assert config_ports.read(0xCF8) == config_ports.read(0xCFA) == 0xFF


@pytest.mark.parametrize(("port", "size"), [(0xCFC, 4), (0xCFE, 2), (0xCFF, 1)])
def test_pci_config_data_of_no_device_is_all_ones(
    config_ports: Bus, port: int, size: int
) -> None:
    with config_ports.all_claimed():
        config_ports.write(port, 0, size)
        assert config_ports.read(port, size) == (1 << 8 * size) - 1


@pytest.mark.parametrize("kind", [0x04, 0x06, 0x0E])
def test_reset_control_resets_when_rst_cpu_rises(
    config_ports: Bus, resets: Resets, kind: int
) -> None:
    config_ports.write(0xCF9, kind & ~0x04)
    assert resets.count == 0
    config_ports.write(0xCF9, kind)
    config_ports.write(0xCF9, kind)
    assert resets.count == 1
    assert config_ports.read(0xCF9) == kind


def test_reset_control_keeps_three_bits_and_loses_them_by_a_reset(
    config_ports: Bus,
) -> None:
    config_ports.write(0xCF9, 0xFF)
    assert config_ports.read(0xCF9) == 0x0E
    config_ports.device.reset()
    assert config_ports.read(0xCF9) == 0x00


def test_reset_control_is_one_byte_within_config_address(
    config_ports: Bus, resets: Resets
) -> None:
    config_ports.write(0xCF8, 0xFFFF_FFFF, 4)
    config_ports.write(0xCF9, 0xFFFF, 2)
    assert resets.count == 0
    assert config_ports.read(0xCF9, 2) == 0xFFFF


# Debug exit


@pytest.mark.parametrize(("value", "size"), [(0x10, 1), (0x1234, 2), (0x12345678, 4)])
def test_any_write_to_the_debug_exit_ports_is_a_value(value: int, size: int) -> None:
    values: list[int] = []
    bus = Bus(IsaDebugExit(values.append, 0xF4))
    bus.write(0xF4, value, size)
    bus.write(0xF8 - size, value, size)
    assert values == [value, value]


def test_debug_exit_reads_zero_and_is_where_qemu_has_it() -> None:
    bus = Bus(IsaDebugExit(lambda _: None))
    assert bus.read(0x501, 4) == bus.read(0x504) == 0


@pytest.mark.parametrize(
    ("value", "status"), [(0, 1), (1, 3), (0x10, 0x21), (0x7F, 0xFF), (0x80, 1)]
)
def test_exit_status_is_what_qemu_ends_with(value: int, status: int) -> None:
    assert exit_status(value) == status


# Whatever a guest does


@given(
    accesses=st.lists(
        st.tuples(
            st.integers(0xCF0, 0xD04) | st.sampled_from([0x80, 0x92, 0x505]),
            st.sampled_from([1, 2, 4]),
            st.none() | st.integers(0, 0xFFFF_FFFF),
        )
    )
)
def test_no_access_to_any_of_them_raises(
    accesses: list[tuple[int, int, int | None]],
) -> None:
    told: list[str] = []
    chips = (
        PostCode(),
        PvpanicPio(Pvpanic(lambda: told.append("panic"), lambda: told.append("dump"))),
        SystemControlPio(SystemControlPortA(Resets())),
        PciConfigPorts(Resets()),
    )
    bus = Bus(chips[0])
    for chip in chips[1:]:
        resources = ResourceManager().allocate_device_resources(
            chip.get_resource_constraints()
        )
        chip.assign_resources(resources, [])
        bus.manager.register_device_io(chip, resources)
    for port, size, value in accesses:
        if value is None:
            assert 0 <= bus.read(port, size) < 1 << 8 * size
        else:
            bus.write(port, value % (1 << 8 * size), size)
