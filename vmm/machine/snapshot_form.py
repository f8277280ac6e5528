"""What a snapshot's `state.json` has: all but RAM, in a form that JSON has.

It is input from outside: each field is checked, and none may be missing or unknown.
"""

import json
import os
from typing import Any, Final
from zlib import crc32

from ..config import MachineConfig
from ..console.config import ConsoleConfig
from ..devices.record import Record
from ..devices.state import State
from ..errors import ConfigError, ImageError
from ..field_types import Checked
from ..host.identity import HostIdentity
from ..kvm.vcpu_state import VcpuState
from ..kvm.vm_state import VmState
from ..place import Place
from ..version import __version__
from .saved_devices import Kept, SavedDevice
from .saved_vm import SavedVm

FORMAT: Final = "minivmm snapshot"
VERSION: Final = 1
"""Of the format: it changes with whatever a file has or means."""
SIZE_MAX: Final = 16 << 20  # bytes of state.json; 254 vCPUs have 5 MB
START: Final = f'{{\n"format": "{FORMAT}",\n'.encode()
_CHECK: Final = b',\n"crc32": '  # of all that is before it

# Of the host's; `path` is a disk's or a vsock's, `cow` a disk's.
_PATHS: Final = ("kernel", "initrd", "symbols", "script", "path", "cow")
_SHOWN: Final = 60  # characters of a name in a message


class Contents(Record):
    """A snapshot without its RAM; `devices` are the classes of the user's, by name."""

    config: MachineConfig
    saved: SavedVm
    cmdline: bytes
    is_ring3: bool
    devices: tuple[str, ...]


def to_text(contents: Contents, host: HostIdentity) -> bytes:
    """All of the file. Raises ConfigError if there is too much of it."""
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "made_by": f"minivmm {__version__}",
        "host": host.to_json(),
        "config": config_to_json(contents.config),
        "cmdline": contents.cmdline.decode(errors="surrogateescape"),
        "is_ring3": contents.is_ring3,
        "user_devices": list(contents.devices),
        "saved": _saved_to_json(contents.saved),
    }
    lines = (f'"{name}": {json.dumps(value)}' for name, value in fields.items())
    text = ("{\n" + ",\n".join(lines)).encode()
    if len(text) > SIZE_MAX:
        raise ConfigError(
            f"its devices keep more than the {SIZE_MAX >> 20} MiB that it may have"
        )
    return sealed(text)


def sealed(text: bytes) -> bytes:
    """With its check sum, and the end."""
    return text + _CHECK + f"{crc32(text)}\n}}\n".encode()


def from_text(text: bytes, here: HostIdentity) -> Contents:
    """Raises ConfigError or InvalidState for what `to_text` hasn't made, of another
    version, or on a host where the guest can't go on.
    """
    data = _parsed(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ImageError("it is no minivmm snapshot")
    made_by = str(data.get("made_by"))[:_SHOWN]
    if data.get("version") != VERSION or type(data["version"]) is not int:
        raise ImageError(
            f"it was made by {made_by}, in version {str(data.get('version'))[:_SHOWN]} "
            f"of the format, and this is minivmm {__version__}, which knows version "
            f"{VERSION} alone: take it anew"
        )
    if sealed(text.rpartition(_CHECK)[0]) != text:
        raise ImageError("it was changed, or damaged: its check sum is another one")
    names = ["format", "version", "made_by", "host", "config", "cmdline", "is_ring3"]
    fields = _exact("state", data, [*names, "user_devices", "saved", "crc32"])
    obstacle = HostIdentity.from_json(fields["host"]).obstacle(here)
    if obstacle is not None:
        raise ConfigError(f"it can't go on here: {obstacle}")
    config = config_from_json(fields["config"])
    saved = _saved_from_json(fields["saved"])
    if not len(saved.vcpus) == len(saved.rescues) == config.cpus:
        raise ImageError(f"it has {len(saved.vcpus)} vCPUs, and cpus {config.cpus}")
    devices = fields["user_devices"]
    return Contents(
        config=config,
        saved=saved,
        cmdline=_cmdline(fields["cmdline"]),
        is_ring3=_typed("is_ring3", fields["is_ring3"], bool),
        devices=tuple(
            _typed("user_devices", name, str)
            for name in _typed("user_devices", devices, list)
        ),
    )


def _cmdline(text: object) -> bytes:
    try:
        line: bytes = _typed("cmdline", text, str).encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise ImageError(f"cmdline: {error}") from None
    return line


def config_to_json(config: Checked) -> dict[str, Any]:
    """Its fields, those of its parts below theirs; paths are absolute."""
    return {name: _encoded(name, getattr(config, name)) for name in config.field_names}


def _encoded(name: str, value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Checked):
        return config_to_json(value)
    if isinstance(value, Place):
        path = os.path.abspath(value.path) if value.path else ""
        return str(Place(value.kind, path))
    if name in _PATHS and not isinstance(value, bool | None):
        return os.path.abspath(os.fspath(value))
    if name == "modules":  # FILE STRING
        words = (module.partition(" ") for module in value)
        return [os.path.abspath(file) + gap + rest for file, gap, rest in words]
    if name == "seed":
        return [os.path.abspath(path) for path in value]
    if name == "files":
        return [[os.path.abspath(host), guest] for host, guest in value]
    if isinstance(value, tuple):
        return [_encoded("", item) for item in value]
    return value


def config_from_json(data: object) -> MachineConfig:
    """Raises ConfigError for what `config_to_json` hasn't made."""
    values = _exact("config", data, MachineConfig.field_names)
    console = _exact("console", values["console"], ConsoleConfig.field_names)
    parts: dict[str, Any] = {"console": ConsoleConfig(**console)}
    if values["command"] is not None:
        from ..guest.config import CommandConfig

        names = CommandConfig.field_names
        command = dict(_exact("command", values["command"], names))
        files = _typed("files", command["files"], list)
        command["files"] = [tuple(_typed("files", pair, list)) for pair in files]
        parts["command"] = CommandConfig(**command)
    ports = _typed("ports", values["ports"], list)
    parts["ports"] = [tuple(_typed("ports", port, list)) for port in ports]
    if values["disks"]:
        from ..disk.config import DiskConfig

        parts["disks"] = [
            DiskConfig(**_exact("disk", disk, DiskConfig.field_names))
            for disk in _typed("disks", values["disks"], list)
        ]
    if values["vsock"] is not None:
        from ..vsock.config import VsockConfig

        vsock = _exact("vsock", values["vsock"], VsockConfig.field_names)
        parts["vsock"] = VsockConfig(**vsock)
    config = MachineConfig(**values | parts)
    if config_to_json(config) != values:
        raise ImageError("config: it isn't in the form that we write")
    return config


def _saved_to_json(saved: SavedVm) -> dict[str, Any]:
    return {
        "vm": saved.vm.to_json(),
        "vcpus": [vcpu.to_json() for vcpu in saved.vcpus],
        "rescues": [_kept_to_json(rescue) for rescue in saved.rescues],
        "devices": [
            device.to_dict() | {"state": _kept_to_json(device.state)}
            for device in saved.devices
        ],
        "cpuid": saved.cpuid,
    }


def _saved_from_json(data: object) -> SavedVm:
    fields = _exact("saved", data, SavedVm.field_names)
    return SavedVm(
        vm=VmState.from_json(fields["vm"]),
        vcpus=tuple(map(VcpuState.from_json, _typed("vcpus", fields["vcpus"], list))),
        rescues=tuple(map(_kept, _typed("rescues", fields["rescues"], list))),
        devices=tuple(map(_device, _typed("devices", fields["devices"], list))),
        cpuid=_typed("cpuid", fields["cpuid"], int),
    )


def _device(data: object) -> SavedDevice:
    fields = _exact("device", data, SavedDevice.field_names)
    return SavedDevice(
        kind=_typed("kind", fields["kind"], str),
        resources=_typed("resources", fields["resources"], str),
        state=_kept(fields["state"]),
    )


def _kept_to_json(kept: Kept) -> dict[str, Any] | None:
    return kept.to_json() if isinstance(kept, State) else kept


def _kept(data: object) -> Kept:
    return None if data is None else _typed("state", data, dict)


def _exact(where: str, data: object, names: Any) -> dict[str, Any]:  # noqa: ANN401
    """`data`, if it has exactly these fields."""
    found: dict[str, Any] = _typed(where, data, dict)
    for wrong, odd in (
        ("lacks", set(names) - found.keys()),
        ("has no field", found.keys() - set(names)),
    ):
        if odd:
            raise ImageError(f"{where} {wrong} {min(odd)[:_SHOWN]}")
    return found


def _typed(where: str, value: Any, kind: type) -> Any:  # noqa: ANN401
    if type(value) is not kind:
        shown = repr(value)[:_SHOWN]
        raise ImageError(f"{where}: {shown} is no {kind.__name__}")
    return value


def _parsed(text: bytes) -> Any:  # noqa: ANN401
    try:
        return json.loads(
            text.decode(), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except RecursionError:
        raise ImageError("its state.json is no state: it is too deep") from None
    except ValueError as error:
        raise ImageError(f"its state.json is no state: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is there twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")
