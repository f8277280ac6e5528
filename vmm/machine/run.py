"""run: a machine's whole run in one call, for any thread and any process."""

from collections.abc import Iterable, Mapping, Sequence

from ..config import MachineConfig, StrPath
from ..result import RunResult
from .machine import Machine


def run(
    kernel: StrPath | None = None,
    initrd: StrPath | None = None,
    *,
    command: str | Sequence[str] | None = None,
    files: Mapping[str, StrPath] | Iterable[StrPath | tuple[StrPath, str]] = (),
    timeout: float | None = None,
    check: bool = False,
    **settings: object,
) -> RunResult:
    """Run a machine to its end, and `command` in it, if there is one.

    The result is picklable: `guest_status` is the command's, `output` what it printed.
    `settings` are MachineConfig's others; the console goes nowhere unless `serial`
    says so. For any thread, and for workers of other processes. With `check`, raises
    RunFailed unless the result is a `success`.
    """
    runs_command = command is not None or settings.get("script") is not None
    capture = "capture" if runs_command else None
    settings = {"serial": "null", "capture": capture} | settings
    config = MachineConfig(
        kernel=kernel,
        initrd=initrd,
        command=command,
        files=files,
        timeout=timeout,
        **settings,  # type: ignore[arg-type]
    )
    with Machine(config) as machine:
        result = machine.run()
    return result.check() if check else result
