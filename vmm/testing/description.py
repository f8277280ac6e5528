"""Description: the guest that a test asks for; what it is known by in the cache."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from vmm.config import MachineConfig, merged
from vmm.devices.device_io import DeviceIo, DeviceIoMut
from vmm.errors import ConfigError
from vmm.expect.search import Pattern
from vmm.host.identity import HostIdentity
from vmm.installation import ROOT, is_checkout
from vmm.machine.builder import added_files
from vmm.machine.saved_devices import kind_of
from vmm.machine.snapshot import FREE
from vmm.version import __version__

Factory = Callable[[], DeviceIo]
"""What makes a device for each machine: its class, for one."""

_FILES: Final = 256  # whose hashes are kept
_RACY_NS: Final = 2 * 10**9  # a file so young may change again with the same times


class Description(NamedTuple):
    """A guest, booted until it is ready: its agent answers, or `ready` is printed."""

    config: MachineConfig
    ready: Pattern | None
    devices: tuple[Factory, ...]

    def key(self, files: "FileHashes") -> str:
        """What its snapshot is called: another name for all that would make another.

        Raises ConfigError, OSError.
        """
        config = self.config
        settings = {
            name: repr(value)
            for name, value in config.to_dict().items()
            if name not in FREE
        }
        kernel, initrd = config.images()
        modules = [module.split(" ", 1)[0] for module in config.modules]
        images = [
            str(path)
            for path in (kernel, initrd, *modules, *config.seed)
            if path is not None
        ]
        parts = {
            "settings": settings,
            "cmdline": config.full_cmdline,
            "debugcon": config.debugcon is not None,
            "ports": [name for name, _ in config.ports],
            "disks": list(_stamps(config)),
            "vsock": None if config.vsock is None else config.vsock.cid,
            "images": [[path, files.of(path)] for path in images],
            "added": hashlib.sha256(added_files(config)).hexdigest(),
            "ready": repr(self.ready),
            "devices": list(_described(self.devices, files)),
            "minivmm": [__version__, *_sources()],
            "host": _host(),
        }
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def described(marked: dict[str, Any], defaults: dict[str, Any]) -> Description:
    """What markers and options say: `defaults` has the options'. Raises ConfigError.

    There is an agent, unless something else is said to be ready, or it is left out.
    """
    chosen = merged(defaults, marked)
    ready = chosen.pop("ready", None)
    devices = tuple(chosen.pop("devices", ()))
    chosen.setdefault("agent", ready is None)
    config = MachineConfig(**chosen)
    if ready is None and not config.agent:
        raise ConfigError(
            "agent: without one, say what the guest prints when it is ready: "
            "pytest.mark.vmm(ready=...), --vmm-ready"
        )
    return Description(config, ready, devices)


def _described(devices: Iterable[Factory], files: "FileHashes") -> Iterator[list[str]]:
    """Each device's class, with its code, and what it is like at first."""
    for make in devices:
        device = make()
        if not isinstance(device, DeviceIo | DeviceIoMut):
            kind = type(device).__name__
            raise ConfigError(f"pytest.mark.vmm: devices: a {kind} is no DeviceIo")
        state = device.state()
        kind = kind_of(device)
        module = kind.removesuffix("." + type(device).__qualname__)
        yield [kind, repr(state), files.of_module(module)]


def _stamps(config: MachineConfig) -> Iterator[tuple[str, int, int]]:
    """What tells another image from each of these, which may be large."""
    for disk in config.disks:
        status = os.stat(disk.path)
        yield os.path.abspath(disk.path), status.st_size, status.st_mtime_ns


@cache
def _sources() -> tuple[str, ...]:
    """In a checkout, where the version doesn't tell one state from another."""
    if not is_checkout():
        return ()
    texts = []
    for folder in ("vmm", "devices"):
        for path in sorted(Path(ROOT, folder).rglob("*.py")):
            status = path.stat()
            texts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return (hashlib.sha256("\n".join(texts).encode()).hexdigest(),)


@cache
def _host() -> tuple[str, ...]:
    """What a snapshot needs to go on, as its own check has it."""
    here = HostIdentity.here().to_dict()
    if here["kvm"] != "pvm":
        del here["boot_id"]
    return tuple(f"{name}={value}" for name, value in here.items())


class FileHashes:
    """SHA-256 of files' contents: each is read once, as long as nobody changes it.

    With a `store` they are known to other processes, and in later sessions.
    """

    def __init__(self, store: Path | None = None) -> None:
        self._store = store
        self._known: dict[str, list[Any]] = {}  # [[size, times, inode], digest]
        if store is not None:
            # A damaged one is made anew.
            with suppress(OSError, ValueError, AttributeError):
                known = json.loads(store.read_text())
                self._known = {
                    path: entry
                    for path, entry in known.items()
                    if isinstance(entry, list) and len(entry) == 2
                }

    def of(self, path: str) -> str:
        """Raises OSError."""
        path = os.path.abspath(path)
        with open(path, "rb") as file:
            now = os.fstat(file.fileno())
            stamp = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]
            known = self._known.get(path)
            if known is not None and known[0] == stamp:
                return str(known[1])
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - max(now.st_mtime_ns, now.st_ctime_ns) > _RACY_NS:
            self._known.pop(path, None)
            self._known[path] = [stamp, digest]
            self._save()
        return digest

    def of_module(self, name: str) -> str:
        """Of a Python module's source; "" if it has none."""
        path = getattr(sys.modules.get(name), "__file__", None)
        return self.of(path) if path else ""

    def _save(self) -> None:
        if self._store is None:
            return
        own = self._store.with_name(f"{self._store.name}.{os.getpid()}")
        with suppress(OSError):  # a full disk: it is read again, then
            own.write_text(json.dumps(dict([*self._known.items()][-_FILES:])))
            own.replace(self._store)
