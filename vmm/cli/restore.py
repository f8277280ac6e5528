"""`vmm restore`: what it has of `vmm run`, and what it hasn't."""

from ..errors import ConfigError
from ..machine.snapshot import Snapshot
from .options import Options


def load(options: Options) -> Snapshot:
    """The snapshot, and the options of `vmm run` that there aren't here.

    Raises ImageError, and ConfigError for one that only a program can clone.
    """
    snapshot = Snapshot.load(options.snapshot)
    if snapshot.devices:
        names = ", ".join(map(str, snapshot.devices))
        raise ConfigError(
            f"snapshot {options.snapshot!r} has devices of a program's, {names}: use "
            "Snapshot.load and clone(devices=...) there"
        )
    command = snapshot.config.command
    options.profile, options.shell = None, False
    options.capture = None if command is None else command.capture
    return snapshot
