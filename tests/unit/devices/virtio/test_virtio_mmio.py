"""VirtioMmio: its registers, and how a kernel is told where they are."""

from typing import Any

import pytest
from support.virtio_echo import ECHO, Echo
from support.virtio_transports import VERSION_1, MmioDriver

from vmm.devices.bus.resource_manager import ResourceManager
from vmm.devices.virtio.mmio import VirtioMmio

STATUS = 0x70


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def driver(echo: Echo) -> MmioDriver:
    return MmioDriver(echo)


def word(driver: MmioDriver, offset: int) -> int:
    return int.from_bytes(driver.load(offset, 4), "little")


def test_it_says_what_it_is(driver: MmioDriver) -> None:
    assert driver.load(0x000, 4) == b"virt"
    assert word(driver, 0x004) == 2
    assert word(driver, 0x008) == ECHO
    assert driver.load(0x00C, 4) == b"MVMM"


def test_there_is_no_shared_memory(driver: MmioDriver) -> None:
    """All ones, or Linux would map it: virtio_mmio.c, vm_get_shm_region."""
    for offset in (0xB0, 0xB4, 0xB8, 0xBC):
        assert word(driver, offset) == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        *((STATUS, 1), (STATUS, 2), (STATUS, 8), (STATUS + 1, 1), (STATUS + 2, 2)),
        *((0x072, 4), (0x03C, 4), (0x028, 4), (0x0F8, 4), (0x0FC, 8)),
    ],
)
def test_case_26_other_accesses_read_ones_and_write_nothing(
    driver: MmioDriver, offset: int, size: int
) -> None:
    driver.start()
    before = driver.transport.state()
    assert driver.load(offset, size) == b"\xff" * size
    driver.store(offset, bytes(size))
    assert driver.transport.state() == before


def test_a_queue_is_let_go_of_by_ready_0(driver: MmioDriver, echo: Echo) -> None:
    """As Linux does before it frees a ring: vm_del_vq."""
    driver.start()
    driver.set("queue_select", 1)
    driver.set("queue_enable", 0)
    assert driver.get("queue_enable") == 0
    assert "reset queue 1" in echo.calls
    driver.kick(1)
    assert echo.calls[-1] == "reset queue 1"
    driver.send(0, [b"x"], [8])
    assert driver.rings[0].collect()


def test_interrupt_status_is_acknowledged_bit_by_bit(
    driver: MmioDriver, echo: Echo
) -> None:
    driver.start()
    driver.send(0, [b"x"], [8])
    echo.config_changed()
    assert word(driver, 0x60) == 3
    driver.store(0x64, b"\1\0\0\0")
    assert word(driver, 0x60) == 2
    driver.store(0x64, b"\xff\xff\xff\xff")
    assert word(driver, 0x60) == 0
    assert driver.lines[0].edges == 2


def test_interrupt_status_does_not_wait_for_the_device(
    driver: MmioDriver, echo: Echo
) -> None:
    """A device may be at work for long, on a thread that its driver's CPU isn't on."""
    import threading

    driver.start()
    answers: list[int] = []
    with echo.lock:
        thread = threading.Thread(target=lambda: answers.append(word(driver, 0x60)))
        thread.start()
        thread.join(10)
    assert answers == [0]


def test_each_queue_has_a_doorbell_with_its_number(
    driver: MmioDriver, echo: Echo
) -> None:
    ((base, _),) = driver.transport.get_assigned_resources().get_mmio_address_ranges()
    bells = driver.transport.get_doorbells()
    assert [(bell.base - base, bell.size, bell.value) for bell in bells] == [
        (0x50, 4, 0),
        (0x50, 4, 1),
    ]
    driver.start()
    driver.rings[1].send([b"x"], [8])
    bells[1].on_ring()
    assert echo.calls[-1] == "handle 1"


def test_acpi_has_it(driver: MmioDriver) -> None:
    (described,) = driver.transport.get_acpi_devices()
    assert described.hid == "LNRO0005"
    assert described.resources == driver.transport.get_assigned_resources()
    assert driver.transport.get_kernel_parameters() == []


def test_or_the_command_line_has(driver: MmioDriver, echo: Echo) -> None:
    transport = VirtioMmio(echo, driver.ram, driver.clock, by_acpi=False)
    constraints = transport.get_resource_constraints()
    resources = ResourceManager().allocate_device_resources(constraints)
    transport.assign_resources(resources, driver.lines)
    ((base, size),) = resources.get_mmio_address_ranges()
    assert transport.get_acpi_devices() == []
    assert transport.get_kernel_parameters() == [
        f"virtio_mmio.device={size}@{base:#x}:{resources.get_legacy_irq()}"
    ]


def test_a_large_configuration_space_has_room() -> None:
    class Large(Echo):
        def config(self) -> bytes:
            return bytes(range(256)) * 2

    driver = MmioDriver(Large())
    ((base, size),) = (
        driver.transport.get_assigned_resources().get_mmio_address_ranges()
    )
    assert (size, base % size) == (0x400, 0)
    assert driver.read_config(0x1FC, 4) == b"\xfc\xfd\xfe\xff"


def test_what_is_due_later_is_on_the_devices_own_thread(
    driver: MmioDriver, echo: Echo
) -> None:
    driver.start(VERSION_1)
    calls: list[Any] = []
    driver.transport.call_soon = calls.append
    driver.rings[0].send([b"x"], [8])
    echo.transport.serve_again(echo.queues[0])
    assert calls == []
    driver.clock.advance(1)
    assert "handle 0" not in echo.calls
    (call,) = calls
    call()
    assert echo.calls[-1] == "handle 0"
