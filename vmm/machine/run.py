"""run: a machine's whole run in one call, for any thread and any process."""

from typing import TYPE_CHECKING, Any

from ..config import MachineConfig
from ..field_types import Checked, StrPath
from ..place import Place
from ..result import RunResult
from .machine import Machine

if TYPE_CHECKING:  # for type checkers alone
    from collections.abc import Mapping
    from typing import Unpack

    from ..settings import RunSettings


def capturing(settings: "Mapping[str, Any]") -> dict[str, Any]:
    """Settings of a machine: what its command prints is kept, unless they say where.

    `capture=None` does, to the console; in a CommandConfig it is what nobody has said.
    """
    command = settings.get("command")
    if isinstance(command, Checked):
        return {**settings, "command": _capturing_part(command)}
    runs = command is not None or settings.get("script") is not None
    return {"capture": "capture", **settings} if runs else dict(settings)


def _capturing_part(command: Checked) -> Checked:
    from ..guest.config import CommandConfig

    if not isinstance(command, CommandConfig) or not command.runs:
        return command
    return command if command.capture else command.replace(capture="capture")


def run(
    kernel: StrPath | None = None,
    initrd: StrPath | None = None,
    *,
    check: bool = False,
    **settings: "Unpack[RunSettings]",
) -> RunResult:
    """Run a machine to its end, and `command` in it, if there is one.

    The result is picklable: `guest_status` is the command's, `output` what it printed.
    `settings` are MachineConfig's others, such as `command`, `files` and `timeout`; the
    console goes nowhere unless `serial` or `console` says where: nobody could read one
    that is "capture". For any thread, and for workers of other processes. With `check`,
    raises RunFailed unless the result is a `success`.
    """
    config = MachineConfig(kernel=kernel, initrd=initrd, **capturing(settings))
    if config.console.serial == Place("capture"):
        config = config.replace(serial="null")
    with Machine(config) as machine:
        result = machine.run()
    return result.check() if check else result
