"""How a run ended: a typed reason, an exit code, and what was counted."""

from enum import Enum
from typing import Self

from .devices.record import Record, field
from .errors import RunFailed
from .foreign_text import one_line, printable


class ExitReason(Enum):
    """Why a run ended. Values are what `--result` writes."""

    RESET = "reset"
    POWEROFF = "poweroff"
    EXITED = "exited"
    CRASH = "crash"
    PANIC = "panic"
    HANG = "hang"
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    ERROR = "error"


EXIT_CODES = {
    ExitReason.RESET: 0,
    ExitReason.POWEROFF: 0,
    ExitReason.EXITED: 0,
    ExitReason.ERROR: 1,
    ExitReason.CRASH: 33,
    ExitReason.PANIC: 34,
    ExitReason.HANG: 35,
    ExitReason.TIMEOUT: 124,
    ExitReason.STOPPED: 130,
}
NOT_THE_COMMANDS = 125  # as env, timeout and docker end where it isn't the command's
DEBUG_EXIT_SUCCESS = 1  # 0 was written, by QEMU's value << 1 | 1
_NOT_DEBUG_EXITS = {1: 4, 33: 32, 35: 36}


def told_apart(code: int, *, command: bool, debug_exit: bool) -> int:
    """What to end with instead of `code`, an end of ours, where a guest has its say.

    A command's status may be anything: all but success and bad usage, after which
    nothing has run, is 125. What is written to a debug-exit port gives an odd one: ours
    are even.
    """
    if code in (0, 2):
        return code
    if command:
        return NOT_THE_COMMANDS
    return _NOT_DEBUG_EXITS.get(code, code & ~1) if debug_exit else code


class RunResult(Record):
    """The outcome of one run; picklable. Times are in seconds, sizes in bytes.

    `exit_code` is what `vmm run` ends with. `guest_status` is the status of a
    guest's command, or of its write to `debug_exit` (value << 1 | 1), where one is
    passed on, and None where the code is ours: no code of ours is such a status'
    (`told_apart`).
    `success`: the guest reset or powered off, its command's status was 0, or it wrote 0
    to `debug_exit`, which is exit code 1 as from QEMU; see `check`.
    `resets` counts the guest's own, and those by which a policy restarted it.
    `exits` counts exits to us by kind, over all vCPUs and boots;
    `console_dropped` is output that the sink's limits threw away;
    `unclaimed_accesses` went to ports and addresses where there is no device.
    `insn_emulation` is how many instructions KVM emulated, `quirks` how often each
    work-around for this host was applied, `cmdline` what the kernel was given;
    `snapshot` is the saved one that the run went on from.
    `oops` is the console's log from the first line on that tells of an oops, a BUG
    or a panic; `report` shows registers, code and stack after a crash or a hang.
    `output` is what a guest's command printed, where it was captured, as it is;
    `detail`, `oops` and `report` are printable, whatever a guest has put into them.
    """

    reason: ExitReason
    exit_code: int
    guest_status: int | None = None
    success: bool | None = None  # by default, whether the exit code is 0
    detail: str = ""
    resets: int = 0
    wall_s: float = 0.0
    first_output_s: float | None = None
    exits: dict[str, int] = field(default_factory=dict)
    console_bytes: int = 0
    console_dropped: int = 0
    unclaimed_accesses: int = 0
    insn_emulation: int = 0
    quirks: dict[str, int] = field(default_factory=dict)
    cmdline: str = ""
    snapshot: str = ""
    oops: str = ""
    report: str = ""
    output: bytes | None = None

    def __post_init__(self) -> None:
        if self.success is None:
            object.__setattr__(self, "success", self.exit_code == 0)
        object.__setattr__(self, "detail", one_line(self.detail))
        for name in ("oops", "report"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def check(self) -> Self:
        """This result, if it is a success. Raises RunFailed if not."""
        if not self.success:
            raise RunFailed(self)
        return self

    def to_dict(self) -> dict[str, object]:
        """The contents of `--result FILE.json`."""
        output = self.output
        text = None if output is None else output.decode(errors="backslashreplace")
        return super().to_dict() | {"reason": self.reason.value, "output": text}
