"""What the fixtures build machines with, that end with their scope."""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmm.config import MachineConfig, merged
from vmm.devices.device_io import DeviceIo
from vmm.errors import VmmError
from vmm.machine.run import capturing

from .description import Factory
from .settings import check_names
from .test_machine import TestMachine

if TYPE_CHECKING:
    from typing import Unpack

    from vmm.machine.snapshot import Snapshot
    from vmm.settings import MachineSettings


class Scope:
    """The machines of one fixture, which are closed at the end of its scope.

    Then in the opposite order of their making.
    """

    noun = "machine"

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.machines: list[TestMachine] = []
        """All that were built, the oldest first."""
        self._folder = folder
        self._lock = threading.Lock()
        self._closed = False

    def _make(
        self,
        config: MachineConfig,
        devices: Iterable[DeviceIo],
        snapshot: "Snapshot | None" = None,
    ) -> TestMachine:
        with self._lock:
            if self._closed:
                raise VmmError(
                    f"{self.name}: this fixture's scope is over, and its machines are "
                    f"closed: a longer one is {self.name.partition('_')[0]}_class or "
                    f"{self.name.partition('_')[0]}_session"
                )
            machine = TestMachine(config, self._folder, snapshot=snapshot)
            self.machines.append(machine)
        for device in devices:
            machine.plug(device)
        return machine

    def look(self, machine: TestMachine) -> list[tuple[str, str]]:
        """More for the report of a test that has failed: titles and texts."""
        return []

    def look_again(self) -> None:
        """Another test begins."""

    def stop(self, detail: str) -> None:
        """End all that run."""
        for machine in list(self.machines):
            machine.stop(detail)

    def close(self) -> None:
        """Close all; the first error is raised after that."""
        with self._lock:
            self._closed = True
        errors = []
        for machine in reversed(self.machines):
            try:
                machine.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


class VmFactory(Scope):
    """Builds machines: `vm(kernel=..., initrd=..., append=..., memory=...)`.

    All of MachineConfig can be given; what isn't comes from `--vmm-*` and the ini file.
    The machines are closed at the end of the test, the class or the session, in the
    opposite order of their making.
    """

    def __init__(
        self,
        name: str,
        defaults: Mapping[str, Any],
        folder: Path,
        devices: Iterable[Factory] = (),
    ) -> None:
        super().__init__(name, folder)
        self._defaults = dict(defaults)
        self._devices = tuple(devices)

    def __call__(
        self,
        *,
        devices: Iterable[DeviceIo] | None = None,
        **settings: "Unpack[MachineSettings]",
    ) -> TestMachine:
        """A machine, with `devices` plugged in; `start` or `run` it.

        Without, they are those that the marker `vmm` names. The output of a `command`
        is captured unless `capture` says otherwise. Raises what Machine does, and
        VmmError after the fixture's end.
        """
        check_names(settings, f"{self.name}()")
        chosen = capturing(merged(self._defaults, settings))
        given = [make() for make in self._devices] if devices is None else devices
        return self._make(MachineConfig(**chosen), given)
