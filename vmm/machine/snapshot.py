"""Snapshot: a machine as it was at one moment, of which any number can go on."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from ..config import MachineConfig
from ..console.config import ConsoleConfig
from ..devices.device_io import DeviceIo, DeviceIoMut, Locked
from ..devices.record import Record
from ..errors import ConfigError, VmmError
from ..field_types import StrPath
from ..host.quirks import Quirks
from ..place import Place
from ..ram_image import RamImage
from .builder import SavedBoot
from .saved_vm import SavedVm

if TYPE_CHECKING:
    from typing import Unpack

    from ..devices.virtio.device import VirtioDevice
    from ..disk.overlay import FrozenDisk
    from ..settings import MachineSettings
    from ..vsock.config import VsockConfig
    from .machine import Machine

# What of a clone may be another than the machine's: what no device is made of.
FREE: Final = frozenset(
    {
        *("console", "timeout", "on_reset", "on_panic", "on_crash", "hang_s"),
        *("symbols", "debugcon", "ports", "vsock"),
        *ConsoleConfig.field_names,
    }
)


class Snapshot:
    """What `Machine.snapshot` gives; its clones don't need it any more once they run.

    `config` is that of the machine; `saved` all but its RAM.
    """

    def __init__(
        self,
        config: MachineConfig,
        ram: RamImage,
        saved: SavedVm,
        *,
        cmdline: bytes,
        is_ring3: bool,
        devices: Iterable[type | str] = (),
        disks: "Iterable[FrozenDisk]" = (),
    ) -> None:
        """`devices` are the classes of those that the user has plugged in, in order; of
        a snapshot from a file their names.
        """
        self.config = config
        self._ram: RamImage | None = ram
        self.saved = saved
        self.cmdline = cmdline
        self.is_ring3 = is_ring3
        self.devices = tuple(devices)
        self._disks = tuple(disks)
        self.name = ""
        """The file's that it is from, if it is."""

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """What `save` has written there; the files aren't needed any more then.

        The user's devices are known by their names alone: `clone` is to be given them.
        Raises ImageError for what is no such snapshot, or one of another version or
        host, and VmmError where there is no memory for it.
        """
        from .snapshot_file import load

        contents, ram, disks = load(path)
        values = Record.to_dict(contents)
        snapshot = cls(ram=ram, disks=disks, **values)  # type: ignore[arg-type]
        snapshot.name = os.fspath(path)
        return snapshot

    def save(self, path: StrPath, *, compress: bool = False) -> None:
        """Write it into a folder of its own, which only its user can read.

        A snapshot that is there is replaced; until the new one is complete it stays,
        whatever happens. `compress` needs `minivmm[zstd]`, or Python 3.14.
        Raises ConfigError if something else is there, and VmmError.
        """
        from .saved_devices import class_name
        from .snapshot_file import save
        from .snapshot_form import Contents

        names = tuple(map(class_name, self.devices))
        contents = Contents(self.config, self.saved, self.cmdline, self.is_ring3, names)
        _, ram, disks = self.base
        save(path, contents, ram, disks, compress=compress)

    @property
    def ram(self) -> RamImage:
        """Raises VmmError once it is closed."""
        if self._ram is None:
            raise VmmError("the snapshot is closed: take another")
        return self._ram

    @property
    def base(self) -> "tuple[SavedVm, RamImage, tuple[FrozenDisk, ...]]":
        """All that a machine is put back to. Raises VmmError once it is closed."""
        return self.saved, self.ram, self._disks

    def clone(
        self,
        *,
        devices: "Iterable[DeviceIo | VirtioDevice] | None" = None,
        start: bool = True,
        set_clock: bool = False,
        **settings: "Unpack[MachineSettings]",
    ) -> "Machine":
        """A machine of its own that goes on from here, at once if `start`.

        For its guest no time has passed; with `set_clock` its agent sets the real time
        to ours, once it runs. It shares the pages of RAM that nobody has
        written to since. Its console is captured, its debugcon, and its ports, and its
        sockets have no path, unless `settings`, which may change what is on the host's
        side, say where they go.

        The user's devices come along by their state: in `devices`, in the order in
        which they were plugged in, or made here where their class takes no arguments.
        Raises VmmError and what Machine does.
        """
        from .machine import Machine

        if set_clock and not (start and self.config.agent):
            raise ConfigError("set_clock: it takes agent=True, and a clone that starts")
        given = self._made() if devices is None else list(devices)
        machine = Machine(self.config_of_clone(settings), snapshot=self)
        try:
            for device in given:
                machine.plug(device)
            if start:
                machine.start()
            if set_clock:
                machine.guest.reconnect(set_clock=True)
        except BaseException:
            machine.close()
            raise
        return machine

    def config_of_clone(self, settings: "MachineSettings") -> MachineConfig:
        """Raises ConfigError for a setting that the snapshot determines."""
        for name, value in settings.items():
            if name not in FREE:
                raise ConfigError(
                    f"{name}: a clone has what the snapshot has, not {value!r}"
                )
        if (self.config.debugcon is None) is not (
            settings.get("debugcon", self.config.debugcon) is None
        ):
            raise ConfigError("debugcon: a clone has one if the snapshot has, else not")
        own: dict[str, object] = {"serial": "capture", "tee": ()}
        own["ports"] = {name: "capture" for name, _ in self.config.ports}
        if "console" in settings:
            own = {}
        own["vsock"] = self._own_vsock()
        if self.config.debugcon is not None:
            own["debugcon"] = "capture"  # the machine's file is not to be overwritten
        config = self.config.replace(**own | settings)
        self._check_vsock(config)
        return config.replace(ports=self._ports(dict(config.ports)))

    def _own_vsock(self) -> "VsockConfig | None":
        """Without a path, which is where the machine is met."""
        vsock = self.config.vsock
        return None if vsock is None else vsock.replace(path=None)

    def _check_vsock(self, config: MachineConfig) -> None:
        """Raises ConfigError if its guest wouldn't be at the address that it has."""
        had, has = self.config.vsock, config.vsock
        if (had and had.cid) != (has and has.cid):
            cid = "none" if had is None else f"one with cid {had.cid}"
            raise ConfigError(f"vsock: a clone has what the snapshot has, {cid}")

    def _ports(self, wanted: dict[str, Place]) -> list[tuple[str, Place]]:
        """In their order, which is that of the device's queues. Raises ConfigError."""
        names = [name for name, _ in self.config.ports]
        if set(names) != set(wanted):
            raise ConfigError(f"ports: a clone has those of the snapshot: {names}")
        return [(name, wanted[name]) for name in names]

    def _made(self) -> "list[DeviceIo | VirtioDevice]":
        return [_made(kind) for kind in self.devices]

    def boot(
        self, config: MachineConfig, quirks: Quirks, stack: ExitStack
    ) -> SavedBoot:
        """What a clone has of the boot, and what its quirks know of it."""
        quirks.restore(self.is_ring3)
        return SavedBoot(config, quirks, stack, self.cmdline, self.name)

    def close(self) -> None:
        """Let go of RAM and disks: no more clones. Those that there are go on."""
        self._ram = None
        self._disks = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _made(kind: type | str) -> "DeviceIo | VirtioDevice":
    if isinstance(kind, str):
        raise VmmError(
            f"the snapshot has {kind}, which was plugged in: pass all such devices, in "
            "their order, in devices="
        )
    device: DeviceIo | DeviceIoMut | VirtioDevice
    try:
        device = kind()
    except TypeError as error:
        raise VmmError(
            f"{kind.__name__}, which was plugged in, can't be made without arguments "
            f"({error}): pass the clone's own in devices="
        ) from None
    return Locked(device) if isinstance(device, DeviceIoMut) else device
