"""The error tree of the VMM. Each class knows the exit code that it leads to."""

from typing import TYPE_CHECKING, Final, Self

from .devices.errors import NotRam
from .foreign_text import printable

if TYPE_CHECKING:
    from .result import RunResult

_TAIL_LINES: Final = 20  # of what was printed, in RunFailed's message
_TAIL_BYTES: Final = 4096


class VmmError(Exception):
    """The VMM or its host can't do what was asked. Root of all errors here."""

    exit_code = 1

    def __str__(self) -> str:
        """The message; what it quotes of a guest or an image is safe to show."""
        return printable(super().__str__())


class ConfigError(VmmError):
    """The user asked for something impossible; the message names the field."""

    exit_code = 2


class ImageError(ConfigError):
    """A kernel, an initrd or a saved snapshot can't be used; the message says which,
    and what is wrong with it."""


class KvmError(VmmError, OSError):
    """A KVM ioctl failed. Carries errno; the message names the ioctl."""


class KvmUnavailable(VmmError):
    """/dev/kvm is missing, forbidden or too old; the message has the remedy."""


class GuestAddressError(VmmError, NotRam):
    """An access of ours to guest memory lies outside of RAM."""


class WorkerDied(VmmError):
    """The process of a run died; the message names the signal or exit code."""


class RunFailed(VmmError):
    """A run that was to succeed did not, as `result` tells; by `check`.

    The message has reason, exit code and detail, and the end of what the guest's
    command printed or, without that, of the kernel's oops.
    """

    def __init__(self, result: "RunResult") -> None:
        head = f"{result.reason.value}, exit code {result.exit_code}"
        lines = [": ".join(filter(None, [head, result.detail]))]
        told = result.output or result.oops.encode()
        lines += printable(told[-_TAIL_BYTES:]).splitlines()[-_TAIL_LINES:]
        super().__init__("\n".join(lines))
        self.result = result
        self.exit_code = result.exit_code

    def __reduce__(self) -> "tuple[type[Self], tuple[RunResult]]":
        """So that it may come back from another process."""
        return type(self), (self.result,)


class ExpectTimeout(VmmError, TimeoutError):
    """The pattern did not come in time; the message shows the last lines."""


class GuestEnded(VmmError):
    """What was waited for can't come any more: the run is over, as `result` tells."""

    def __init__(self, message: str, result: "RunResult") -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> "tuple[type[Self], tuple[str, RunResult]]":
        """So that it may come back from another process."""
        return type(self), (str(self), self.result)
