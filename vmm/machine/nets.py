"""Nets: a machine's network cards, over its life."""

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ..devices.errors import ResourceError
from ..devices.virtio.net import NetLink, VirtioNet
from ..errors import ConfigError
from ..net.network import Port

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import MachineConfig
    from ..devices.clock import Clock
    from ..devices.virtio.device import VirtioDevice
    from ..event_loop import EventLoop
    from ..net.config import NetConfig


class Net:
    """One of a machine's cards, as `machine.nets` has them; for any thread."""

    def __init__(
        self, config: "NetConfig", device: VirtioNet, port: Port | None
    ) -> None:
        self.config: Final = config
        self.device: Final = device
        self.port: Final = port
        """Its port of a Network, if it is in one."""

    @property
    def mac(self) -> str:
        """Its address, as of now: the guest may have chosen another."""
        return self.device.mac.hex(":")

    @property
    def counters(self) -> dict[str, int]:
        """Frames and bytes that the guest has received (rx) and sent (tx), and frames
        that were dropped: "rx_frames", "tx_bytes", "tx_dropped" and so on."""
        return dict(self.device.counters)


class Nets:
    """All of them; `stack` closes what they are connected to. Raises ConfigError."""

    def __init__(
        self,
        config: "MachineConfig",
        owner: object,
        loop: "EventLoop",
        clock: "Clock",
        stack: ExitStack,
        warn: "Callable[[str], None]",
    ) -> None:
        self._warn = warn
        self._owner = owner
        self._loop = loop
        self._clock = clock
        self._stack = stack
        self.all: Final[list[Net]] = []
        for number, net in enumerate(config.nets):
            try:
                self.all.append(self._new(number, net))
            except ConfigError as error:
                raise ConfigError(f"nets: {error}") from None

    def _new(self, number: int, config: "NetConfig") -> Net:
        mac, port = config.mac_bytes, None
        link: NetLink | None = None
        if config.network is not None:
            link = port = config.network.join(self._clock, mac, self._owner)
            mac = port.mac
            self._stack.callback(port.close)
        elif config.kind == "user":
            from .user_link import UserLink

            user = link = UserLink(self._loop, self._clock, config.forward, self._warn)
            self._stack.callback(user.close)
        elif config.kind == "unix":
            from ..net.stream import UnixLink

            unix = link = UnixLink(self._loop, self._clock, config.where)
            self._stack.callback(unix.close)
        elif config.kind == "tap":
            from ..net.tap import TapLink

            tap = link = TapLink(self._loop, self._clock, config.where)
            self._stack.callback(tap.close)
        if mac is None:
            mac = b"\2" + os.urandom(5)  # locally administered, of one card
        return Net(config, NetworkCard(number, mac, link, config.mtu), port)

    def plug(self, plug: "Callable[[VirtioDevice], None]") -> None:
        """In their order. Raises ConfigError."""
        for net in self.all:
            try:
                plug(net.device)
            except ResourceError as error:
                name = net.device.name
                raise ConfigError(f"nets: {name} has no place: {error}") from None


class NetworkCard(VirtioNet):
    """By the name that it goes by here."""

    def __init__(
        self, number: int, mac: bytes, link: NetLink | None, mtu: int | None
    ) -> None:
        super().__init__(mac, link, mtu)
        self._number = number

    @property
    def name(self) -> str:
        return f"network card {self._number}"
