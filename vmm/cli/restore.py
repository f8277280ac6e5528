"""`vmm restore`: what it has of `vmm run`, and what it hasn't."""

from ..errors import ConfigError
from ..machine.snapshot import Snapshot
from ..place import Place
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
    if options.shell and not snapshot.config.agent:
        raise ConfigError(
            "shell: there was no agent in the machine: it is to be saved with --agent"
        )
    options.saved = snapshot.config
    command = snapshot.config.command
    if options.serial is None and command is not None and command.capture is not None:
        options.serial = Place("null")  # as in the run that was saved
    if options.debugcon is None and snapshot.config.debugcon is not None:
        options.debugcon = Place("null")  # not over what the run that was saved wrote
    given = [port.partition("=")[0] for port in options.ports or ()]
    unsaid = [name for name, _ in snapshot.config.ports if name not in given]
    options.ports = [*(options.ports or ()), *(f"{name}=null" for name in unsaid)]
    options.profile = options.capture = None
    return snapshot
