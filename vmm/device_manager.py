"""DeviceManager: from a device object to one the guest can reach, and back.

The flow is dbs-device's: create the device, ask its constraints, allocate,
assign, ask which ranges it wants trapped, register.
"""

import threading
from contextlib import ExitStack
from typing import Final

from .devices.device_io import DeviceIo
from .devices.errors import NoDevice
from .devices.io_manager import IoManager, IoManagerContext
from .devices.resource_manager import ResourceManager
from .devices.resources import DeviceResources
from .errors import ConfigError
from .eventfd import EventFdTrigger
from .kvm.vm import Vm

IOAPIC_PINS: Final = 24
_Line = tuple[int, EventFdTrigger]  # GSI, and what raises it


class DeviceManager:
    """Owns the devices' resources and interrupt lines. Thread-safe.

    While a VM is powered on, a device's interrupt lines are irqfds in it.
    """

    def __init__(
        self, resource_manager: ResourceManager, io_manager: IoManager
    ) -> None:
        self._resource_manager = resource_manager
        self.io_manager = io_manager
        self._io_context = IoManagerContext(io_manager)
        self._lines: dict[DeviceIo, list[_Line]] = {}
        self._vm: Vm | None = None
        self._lock = threading.Lock()

    def add(self, device: DeviceIo) -> None:
        """Plug a device in; the guest sees all of its ranges at once.

        Raises ResourceError, DeviceOverlap or ConfigError; then nothing has
        changed.
        """
        with self._lock, ExitStack() as undo:
            if device in self._lines:
                raise ConfigError(f"{type(device).__name__} is plugged in already")

            constraints = device.get_resource_constraints()

            resources = self._resource_manager.allocate_device_resources(constraints)
            undo.callback(self._resource_manager.free_device_resources, resources)

            lines = self._make_lines(resources, undo)
            undo.callback(device.assign_resources, DeviceResources(), [])
            device.assign_resources(resources, [trigger for _, trigger in lines])

            trapped = device.get_trapped_io_resources()

            with self._io_context.transaction() as tx:
                self._io_context.register_device_io(tx, device, trapped)
            self._lines[device] = lines
            undo.pop_all()

    def remove(self, device: DeviceIo) -> None:
        """Unplug a device: off the bus, its lines cut, its resources free again.

        A vCPU that is inside the device at this moment finishes its access.
        Raises NoDevice if it isn't plugged in.
        """
        with self._lock:
            if device not in self._lines:
                raise NoDevice(f"{type(device).__name__} is not plugged in")
            with self._io_context.transaction() as tx:
                self._io_context.unregister_device_io(
                    tx, device.get_trapped_io_resources()
                )
            resources = device.get_assigned_resources()
            device.assign_resources(DeviceResources(), [])
            for line in self._lines.pop(device):
                self._disconnect(line)
                line[1].close()
            self._resource_manager.free_device_resources(resources)

    def power_on(self, vm: Vm) -> None:
        """Connect every interrupt line to a new VM."""
        with self._lock:
            self._vm = vm
            for lines in self._lines.values():
                for gsi, trigger in lines:
                    vm.assign_irqfd(trigger.eventfd.fd, gsi)

    def power_off(self) -> None:
        """Disconnect the lines: the VM is about to go."""
        with self._lock:
            for lines in self._lines.values():
                for line in lines:
                    self._disconnect(line)
            self._vm = None

    def reset(self) -> None:
        """Return every device to its power-on state."""
        with self._lock:
            for device in self._lines:
                device.reset()

    def close(self) -> None:
        """Close the interrupt lines; devices that trigger get TriggerError."""
        with self._lock:
            for lines in self._lines.values():
                for _, trigger in lines:
                    trigger.close()
            self._lines.clear()

    def _make_lines(self, resources: DeviceResources, undo: ExitStack) -> list[_Line]:
        lines: list[_Line] = []
        for gsi in resources.get_interrupts():
            if gsi >= IOAPIC_PINS:
                raise ConfigError(f"interrupt {gsi} is an MSI, which needs a PCI bus")
            trigger = EventFdTrigger()
            undo.callback(trigger.close)
            lines.append((gsi, trigger))
            if self._vm is not None:
                self._vm.assign_irqfd(trigger.eventfd.fd, gsi)
                undo.callback(self._disconnect, lines[-1])
        return lines

    def _disconnect(self, line: _Line) -> None:
        if self._vm is not None:
            gsi, trigger = line
            self._vm.deassign_irqfd(trigger.eventfd.fd, gsi)
