"""TestMachine: a machine whose console and result stay after a test."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vmm.config import MachineConfig
from vmm.foreign_text import printable
from vmm.machine.machine import Machine

from .artifacts import new_folder

if TYPE_CHECKING:
    from vmm.machine.snapshot import Snapshot

LAST_LINES: Final = 30
LAST_BYTES: Final = 64 << 10  # of a console, in a report


class TestMachine(Machine):
    """A Machine that leaves its console and its result in a folder of its own.

    It is called `folder`, or `folder`-2 and so on. With a `snapshot` it is a clone.
    """

    __test__ = False  # no class of tests

    def __init__(
        self, config: MachineConfig, folder: Path, *, snapshot: "Snapshot | None" = None
    ) -> None:
        """Raises what Machine does, and OSError where there can be no folder."""
        super().__init__(config, snapshot=snapshot)
        self.folder = new_folder(folder)
        self.transcript_path = self.folder / "console.log"
        self._result_path = self.folder / "result.json"
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

    def discard(self) -> None:
        """Close it, and leave nothing in its folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def picture(self) -> "Snapshot":
        """As `snapshot`, without a change to what `reset` goes back to."""
        before = self._base
        try:
            return self.snapshot()
        finally:
            self._base = before

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
