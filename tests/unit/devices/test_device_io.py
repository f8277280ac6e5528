"""DeviceIo, DeviceIoMut and Locked."""

import threading
from collections.abc import Sequence

import pytest
from support.serial_rig import CountingTrigger

from vmm.devices.device_io import DeviceIo, DeviceIoMut, Locked
from vmm.devices.resources import (
    DeviceResources,
    LegacyIrq,
    LegacyIrqConstraint,
    PioAddressRange,
    ResourceConstraint,
)

RESOURCES = DeviceResources([PioAddressRange(0x500, 4), LegacyIrq(10)])


class Recorder(DeviceIoMut):
    """Tells which of its methods ran, and that the lock was held."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: list[str] = []

    def _note(self, name: str) -> None:
        assert self.lock.locked()
        self.calls.append(name)

    def read(self, base: int, offset: int, data: memoryview) -> None:
        self._note(f"read {base} {offset} {len(data)}")

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self._note(f"write {base} {offset} {len(data)}")

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        self._note(f"pio_read {base} {offset} {len(data)}")

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self._note(f"pio_write {base} {offset} {len(data)}")

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        self._note("constraints")
        return (LegacyIrqConstraint(irq=10),)

    def get_report(self) -> str:
        self._note("report")
        return "all is well"

    def reset(self) -> None:
        self._note("reset")


@pytest.mark.parametrize("device", [DeviceIo(), DeviceIoMut()])
def test_by_default_reads_are_ones_and_writes_are_ignored(
    device: DeviceIo | DeviceIoMut,
) -> None:
    data = bytearray(8)
    device.read(0, 0, memoryview(data)[:4])
    device.pio_read(0, 0, memoryview(data)[4:])
    device.write(0, 0, memoryview(data))
    device.pio_write(0, 0, memoryview(data))
    device.reset()
    assert data == b"\xff" * 8
    assert device.get_resource_constraints() == ()


def test_before_the_assignment_a_device_has_no_resources() -> None:
    assert DeviceIo().get_assigned_resources() == DeviceResources()
    assert DeviceIo().get_trapped_io_resources() == DeviceResources()


def test_what_is_assigned_is_kept_and_trapped() -> None:
    device, line = DeviceIo(), CountingTrigger()
    device.assign_resources(RESOURCES, [line])
    assert device.get_assigned_resources() is RESOURCES
    assert device.get_trapped_io_resources() is RESOURCES
    assert list(device.interrupts) == [line]


def test_locked_holds_the_lock_around_every_call() -> None:
    device = Recorder()
    locked, data = Locked(device, device.lock), memoryview(bytearray(2))
    locked.read(1, 2, data)
    locked.write(3, 4, data)
    locked.pio_read(5, 6, data)
    locked.pio_write(7, 8, data)
    locked.reset()
    assert locked.get_resource_constraints() == (LegacyIrqConstraint(irq=10),)
    assert device.calls == [
        "read 1 2 2",
        "write 3 4 2",
        "pio_read 5 6 2",
        "pio_write 7 8 2",
        "reset",
        "constraints",
    ]
    assert not device.lock.locked()


def test_locked_passes_resources_to_its_device() -> None:
    device = DeviceIoMut()
    locked = Locked(device)
    locked.assign_resources(RESOURCES, [])
    assert device.resources is RESOURCES
    assert locked.get_assigned_resources() is RESOURCES
    assert locked.get_trapped_io_resources() is RESOURCES


def test_locked_has_what_its_device_was_assigned() -> None:
    interrupts = [CountingTrigger()]
    locked = Locked(DeviceIoMut())
    locked.assign_resources(RESOURCES, interrupts)
    assert locked.resources is locked.device.resources is RESOURCES
    assert locked.interrupts is locked.device.interrupts is interrupts


def test_locked_lets_the_lock_go_when_its_device_raises() -> None:
    class Broken(DeviceIoMut):
        def reset(self) -> None:
            raise ZeroDivisionError

    lock = threading.Lock()
    with pytest.raises(ZeroDivisionError):
        Locked(Broken(), lock).reset()
    assert not lock.locked()


def test_the_default_lock_lets_a_device_call_what_calls_it_back() -> None:
    class Calling(DeviceIoMut):
        def reset(self) -> None:
            locked.pio_write(0, 0, memoryview(b"\x00"))

    locked = Locked(Calling())
    locked.reset()


def test_one_thread_at_a_time_is_inside_a_locked_device() -> None:
    class Counter(DeviceIoMut):
        count = 0

        def pio_write(self, base: int, offset: int, data: memoryview) -> None:
            count = self.count
            for _ in range(10):
                pass
            self.count = count + 1

    device = Counter()
    locked = Locked(device)

    def write() -> None:
        for _ in range(2_000):
            locked.pio_write(0, 0, memoryview(b"\x00"))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert device.count == 8_000


def test_a_report_is_empty_by_default_and_passes_through_a_lock() -> None:
    assert DeviceIo().get_report() == ""
    device = Recorder()
    locked = Locked(device, device.lock)
    assert locked.get_report() == "all is well"
    assert device.calls == ["report"]
