"""SavedDevice: what a snapshot has of a device, and how another one goes on from it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from ..devices.device_io import DeviceIo, Locked
from ..devices.errors import InvalidState
from ..devices.record import Record
from ..devices.state import State
from ..errors import ConfigError
from .device_manager import DeviceManager

if TYPE_CHECKING:  # most machines have none
    from ..devices.pci.device import PciDevice, PciState

Kept: TypeAlias = State | dict[str, Any] | None
"""What something keeps; from a file as JSON has it, which its own class can read."""


class SavedDevice(Record):
    """A device's class by its name, the resources it had, and what it keeps."""

    kind: str
    resources: str
    state: Kept


def save_devices(manager: DeviceManager) -> tuple[SavedDevice, ...]:
    """What all of them keep, while the guest stands still.

    Afterwards KVM has what they have raised.
    """
    saved = tuple(_save(device) for device in manager.plugged())
    manager.flush()
    return saved


def _save(device: DeviceIo) -> SavedDevice:
    return SavedDevice(kind_of(device), _place_of(device), device.state())


def _place_of(device: DeviceIo) -> str:
    """Where the guest finds it at power-on."""
    where = repr(device.get_assigned_resources())
    if device.is_pci:
        return f"PCI slot {cast('PciDevice', device).slot}, {where}"
    return where


def restore_devices(manager: DeviceManager, saved: Sequence[SavedDevice]) -> None:
    """Have the same devices as those that were saved go on from there.

    Raises ConfigError or InvalidState, with none of them changed, where they differ.
    """
    devices = manager.plugged()
    check_devices(devices, saved)
    states = [
        as_state(each.state, device)
        for device, each in zip(devices, saved, strict=True)
    ]
    with manager.routing_together():
        for device, state in zip(devices, states, strict=True):
            device.restore(state)
    for device, state in zip(devices, states, strict=True):
        if device.is_pci:  # nobody is in the way of its BARs any more
            cast("PciDevice", device).decode_again(cast("PciState", state))


def class_of(device: DeviceIo) -> type:
    """What its author has written."""
    return type(device.get_author_device())


def kind_of(device: DeviceIo) -> str:
    """The name of a device's class, with that of its module, and how it is reached."""
    name, own = class_name(type(device)), class_name(class_of(device))
    return own if isinstance(device, Locked) or name == own else f"{name}, {own}"


def class_name(kind: type | str) -> str:
    """Likewise, of a class; a name is one already."""
    if isinstance(kind, str):
        return kind
    return f"{kind.__module__}.{kind.__qualname__}"


def check_devices(devices: Sequence[DeviceIo], saved: Sequence[SavedDevice]) -> None:
    """Raises ConfigError unless they are those that were saved, and where they were."""
    for device, each in zip(devices, saved, strict=False):
        kind, where = kind_of(device), _place_of(device)
        if kind != each.kind:
            raise ConfigError(
                f"the snapshot has {each.kind} where the clone has {kind}"
            )
        if where != each.resources:
            raise ConfigError(
                f"{kind} has {where} in the clone, and {each.resources} in the snapshot"
            )
    more = [each.kind for each in saved[len(devices) :]]
    if more:
        raise ConfigError(
            f"the clone lacks the snapshot's {more[0]}: pass it in devices="
        )
    more = [kind_of(device) for device in devices[len(saved) :]]
    if more:
        raise ConfigError(f"the snapshot has no {more[0]}, which the clone has")


class _HasState(Protocol):
    def state(self) -> State | None: ...


def as_state(kept: Kept, owner: _HasState) -> State | None:
    """What is to be given to `owner`, as a State. Raises InvalidState."""
    if not isinstance(kept, dict):
        return kept
    form = owner.state()
    if form is None:
        raise InvalidState(f"{type(owner).__name__} keeps no state, and had one then")
    return type(form).from_json(kept)
