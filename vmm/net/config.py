"""NetConfig: what a user may choose for one network card, checked."""

from typing import Any, Final

from ..errors import ConfigError
from ..field_types import Checked, setting
from .network import Network

KINDS: Final = ("none", "unix", "tap", "network")
MTU_MIN: Final = 68
MTU_MAX: Final = 65535
NETS_MAX: Final = 8
TAP_NAME_MAX: Final = 15  # bytes
_WHERE: Final = ("unix", "tap")
_OPTIONS: Final = ("mac", "mtu")


def _kind(field: str, kind: str) -> str:
    if kind not in KINDS:
        raise ConfigError(f"{field}: {kind!r} is none of {', '.join(KINDS)}")
    return kind


def _where(field: str, where: str) -> str:
    if "/" in where and not where.strip("/"):
        raise ConfigError(f"{field}: {where!r} is a directory")
    return where


def _mac(field: str, text: str) -> str:
    try:
        mac = bytes.fromhex(text.replace(":", " "))
    except ValueError:
        mac = b""
    if len(mac) != 6 or mac[0] & 1 or not any(mac):
        raise ConfigError(f"{field}: {text!r} is no card's address: 02:00:00:00:00:01")
    return mac.hex(":")


def _mtu(field: str, value: int | str) -> int:
    mtu = value
    if isinstance(mtu, str):
        if not (mtu.isascii() and mtu.isdecimal() and len(mtu) <= 5):
            raise ConfigError(f"{field}: {mtu!r} is no number")
        mtu = int(mtu)
    if not MTU_MIN <= mtu <= MTU_MAX:
        raise ConfigError(f"{field}: {mtu} is not within {MTU_MIN}..{MTU_MAX}")
    return mtu


class NetConfig(Checked):
    """One network card of a guest's, by virtio-net: the first is eth0, the next eth1.

    Its text is "tap:NAME,mac=02:00:00:00:00:01,mtu=9000" and so on: what it is
    connected to, and each other field by its name.
    """

    kind: str = setting("none", str, _kind)
    """What it is connected to: nothing ("none"), a program by a unix socket ("unix"), a
    tap device of the host's ("tap"), or `network`."""
    where: str = setting("", str, _where)
    """Path of the unix socket, on which we listen for one that speaks as QEMU's stream
    does; or name of the tap device, which must be there."""
    network: Network | None = None
    """The Network, which joins machines of this program."""
    mac: str | None = setting(None, str | None, _mac)
    """The card's address. None: one that no other on its network has."""
    mtu: int | None = setting(None, int | str | None, _mtu)
    """Bytes of a packet, 68..65535, which the guest is told. None: nothing, which is
    1500."""

    def __post_init__(self) -> None:
        if (self.kind in _WHERE) is not bool(self.where):
            raise ConfigError("where: it is for unix and tap, which have it")
        if self.kind == "tap" and len(self.where.encode()) > TAP_NAME_MAX:
            raise ConfigError(f"where: {self.where!r} is no name of a device's")
        if (self.kind == "network") is (self.network is None):
            raise ConfigError("network: it goes with kind='network', and that with it")

    @property
    def mac_bytes(self) -> bytes | None:
        """Those of `mac`."""
        return None if self.mac is None else bytes.fromhex(self.mac.replace(":", " "))

    def unplugged(self) -> "NetConfig":
        """The same card, connected to nothing."""
        return NetConfig(mac=self.mac, mtu=self.mtu)

    @classmethod
    def parse(cls, text: str) -> "NetConfig":
        """What a text says. Raises ConfigError."""
        place, *options = text.split(",")
        kind, colon, where = place.partition(":")
        if place != "none" and not (kind in _WHERE and colon and where):
            raise ConfigError(f"{place!r} is not {_PLACES}")
        values: dict[str, Any] = {"kind": kind, "where": where}
        for option in options:
            name, equals, value = option.partition("=")
            if name not in _OPTIONS or not equals:
                known = ", ".join(f"{name}=" for name in _OPTIONS)
                raise ConfigError(f"{option!r} is no option, but one of {known}")
            if name in values:
                raise ConfigError(f"{name}: it is there twice")
            values[name] = value
        return cls(**values)


def nets(field: str, given: Any) -> tuple[NetConfig, ...]:  # noqa: ANN401
    """Those of a configuration's `field`. Raises ConfigError, which names the card."""
    several = given if isinstance(given, list | tuple) else (given,)
    found = tuple(_net(field, net) for net in several)
    if len(found) > NETS_MAX:
        raise ConfigError(f"{field}: {len(found)} are more than {NETS_MAX}")
    macs = [net.mac for net in found if net.mac is not None]
    for mac in macs:
        if macs.count(mac) > 1:
            raise ConfigError(f"{field}: {mac} is there twice")
    return found


def _net(field: str, net: object) -> NetConfig:
    if isinstance(net, NetConfig):
        return net
    if isinstance(net, Network):
        return NetConfig(kind="network", network=net)
    if not isinstance(net, str):
        raise ConfigError(f"{field}: {type(net).__name__} is no NetConfig")
    try:
        return NetConfig.parse(net)
    except ConfigError as error:
        raise ConfigError(f"{field}: {net!r}: {error}") from None


_PLACES: Final = "none, unix:PATH or tap:NAME"
__all__ = ["KINDS", "NETS_MAX", "NetConfig", "nets"]
