"""VmFactory: what the fixtures are; builds machines that end with their scope."""

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vmm.config import MachineConfig, merged
from vmm.devices.device_io import DeviceIo
from vmm.errors import VmmError
from vmm.foreign_text import printable
from vmm.machine.machine import Machine
from vmm.machine.run import capturing

from .artifacts import new_folder
from .settings import check_names

if TYPE_CHECKING:
    from typing import Unpack

    from vmm.settings import MachineSettings

LAST_LINES: Final = 30
LAST_BYTES: Final = 64 << 10  # of a console, in a report


class TestMachine(Machine):
    """A Machine that leaves its console and its result in a folder of its own.

    It is called `folder`, or `folder`-2 and so on.
    """

    __test__ = False  # no class of tests

    def __init__(self, config: MachineConfig, folder: Path) -> None:
        """Raises what Machine does, and OSError where there can be no folder."""
        super().__init__(config)
        own = new_folder(folder)
        self.transcript_path = own / "console.log"
        self._result_path = own / "result.json"
        self.tail = ""
        """The end of the console's output, as of the last `keep`."""
        self._is_kept = False

    def keep(self) -> None:
        """Write both files: how it is now, or was when it was closed."""
        if self._is_kept:
            return
        if self.console.is_captured:
            transcript = self.console.transcript
            self.tail = printable(transcript[-LAST_BYTES:])
            self.transcript_path.write_bytes(transcript)
        if self.result is not None:
            text = json.dumps(self.result.to_dict(), indent=2)
            self._result_path.write_text(f"{text}\n")

    def close(self) -> None:
        """Stop, keep what there is to be seen, and release everything. Idempotent."""
        self.stop("the machine was closed")
        self.join()
        try:
            self.keep()
        finally:
            self._is_kept = True
            super().close()

    def describe(self) -> str:
        """How it ended, or what its state is, and the last lines of its console."""
        return printable("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        lines = [f"result: {_outcome(self)}"]
        lines += [f"warning: {warning}" for warning in self.warnings]
        if not self.console.is_captured:
            return [*lines, f"console: {self.config.console.serial}"]
        shown = (
            self.tail.removesuffix("\n").split("\n")[-LAST_LINES:] if self.tail else []
        )
        lines.append(f"console, its last {len(shown)} lines:" if shown else "no output")
        lines += [f"  {line}" for line in shown]
        result = self.result
        if result is not None and result.report:
            lines.append(result.report)
        return [*lines, f"transcript: {self.transcript_path}"]


def _outcome(machine: Machine) -> str:
    result = machine.result
    if result is None:
        return f"none: it is {machine.state.value}"
    detail = f": {result.detail}" if result.detail else ""
    return (
        f"{result.reason.value}, exit code {result.exit_code}{detail} "
        f"({result.wall_s:.2f} s)"
    )


class VmFactory:
    """Builds machines: `vm(kernel=..., initrd=..., append=..., memory=...)`.

    All of MachineConfig can be given; what isn't comes from `--vmm-*` and the ini file.
    The machines are closed at the end of the test, the class or the session, in the
    opposite order of their making.
    """

    def __init__(self, name: str, defaults: Mapping[str, Any], folder: Path) -> None:
        self._name = name
        self._defaults = dict(defaults)
        self._folder = folder
        self._lock = threading.Lock()
        self._closed = False
        self.machines: list[TestMachine] = []
        """All that were built, the oldest first."""

    def __call__(
        self, *, devices: Iterable[DeviceIo] = (), **settings: "Unpack[MachineSettings]"
    ) -> TestMachine:
        """A machine, with `devices` plugged in; `start` or `run` it.

        The output of a `command` is captured unless `capture` says otherwise. Raises
        what Machine does, and VmmError after the fixture's end.
        """
        check_names(settings, f"{self._name}()")
        chosen = capturing(merged(self._defaults, settings))
        with self._lock:
            if self._closed:
                raise VmmError(
                    f"{self._name}: this fixture's scope is over, and its machines are "
                    "closed: a longer one is vm_class or vm_session"
                )
            machine = TestMachine(MachineConfig(**chosen), self._folder)
            self.machines.append(machine)
        for device in devices:
            machine.plug(device)
        return machine

    def stop(self, detail: str) -> None:
        """End all that run."""
        for machine in self.machines:
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
