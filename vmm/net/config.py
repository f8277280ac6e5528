"""NetConfig: what a user may choose for one network card, checked."""

from collections.abc import Sequence
from typing import Any, Final

from ..errors import ConfigError
from ..field_types import Checked, setting
from .network import Network

KINDS: Final = ("none", "user", "unix", "tap", "network")
MTU_MIN: Final = 68
MTU_MAX: Final = 65535
NETS_MAX: Final = 8
TAP_NAME_MAX: Final = 15  # bytes
_WHERE: Final = ("unix", "tap")
_OPTIONS: Final = ("forward", "mac", "mtu")
_PLAIN: Final = ("user", "none")
_PORTS: Final = range(1, 1 << 16)


def _kind(field: str, kind: str) -> str:
    if kind not in KINDS:
        raise ConfigError(f"{field}: {kind!r} is none of {', '.join(KINDS)}")
    return kind


def _where(field: str, where: str) -> str:
    if "/" in where and not where.strip("/"):
        raise ConfigError(f"{field}: {where!r} is a directory")
    return where


_Forward = str | Sequence[str | tuple[int, int]]


def _forward(field: str, given: _Forward) -> tuple[tuple[int, int], ...]:
    several = (given,) if isinstance(given, str) else given
    ports = tuple(_ports(field, pair) for pair in several)
    hosts = [host for host, _ in ports]
    for host in hosts:
        if hosts.count(host) > 1:
            raise ConfigError(f"{field}: port {host} is there twice")
    return ports


def _ports(field: str, pair: str | tuple[int, int]) -> tuple[int, int]:
    text = pair if isinstance(pair, str) else f"{pair[0]}:{pair[1]}"
    words = text.split(":")
    if len(words) == 2 and all(map(_is_port, words)):
        return int(words[0]), int(words[1])
    raise ConfigError(f"{field}: {text!r} is not HOST:GUEST, two ports: 8080:80")


def _is_port(word: str) -> bool:
    is_number = word.isascii() and word.isdecimal() and len(word) <= 5
    return is_number and int(word) in _PORTS


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

    Its text is "user,forward=8080:80,mac=02:00:00:00:00:01" and so on: what it is
    connected to, and each other field by its name.
    """

    kind: str = setting("none", str, _kind)
    """What it is connected to: nothing ("none"), the host's network by passt ("user"),
    a program by a unix socket ("unix"), a tap device of the host's ("tap"), or
    `network`."""
    where: str = setting("", str, _where)
    """Path of the unix socket, on which we listen for one that speaks as QEMU's stream
    does; or name of the tap device, which must be there."""
    network: Network | None = None
    """The Network, which joins machines of this program."""
    forward: tuple[tuple[int, int], ...] = setting((), _Forward, _forward)
    """Of "user": "8080:80" has a connection to port 8080 of the host's loopback be one
    to the guest's port 80; there may be several, of TCP."""
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
        if self.forward and self.kind != "user":
            raise ConfigError("forward: it is for user, which has the host's network")
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
        if place not in _PLAIN and not (kind in _WHERE and colon and where):
            raise ConfigError(f"{place!r} is not {_PLACES}")
        values: dict[str, Any] = {"kind": kind, "where": where}
        for option in options:
            name, equals, value = option.partition("=")
            if name not in _OPTIONS or not equals:
                known = ", ".join(f"{name}=" for name in _OPTIONS)
                raise ConfigError(f"{option!r} is no option, but one of {known}")
            if name == "forward":
                values[name] = [*values.get(name, ()), value]
                continue
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
        raise ConfigError(f"{field}: {net!r:.60} is not a NetConfig, Network or text")
    try:
        return NetConfig.parse(net)
    except ConfigError as error:
        raise ConfigError(f"{field}: {net!r}: {error}") from None


_PLACES: Final = "user, none, unix:PATH or tap:NAME"
__all__ = ["KINDS", "NETS_MAX", "NetConfig", "nets"]
