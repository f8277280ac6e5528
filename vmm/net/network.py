"""Network: a switch for the machines of a program, as bad as a test wants it to be."""

import heapq
import random
import threading
from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from .pcap import Pcap

if TYPE_CHECKING:
    from ..devices.clock import Clock, Timer
    from ..devices.virtio.net import VirtioNet
    from ..field_types import StrPath

NS_PER_S: Final = 1_000_000_000
BACKLOG: Final = 4 << 20
"""Bytes that may be on their way to one port; what comes then is lost."""
ADDRESSES_MAX: Final = 1024
"""Addresses that a switch remembers where they are: a guest may make up any number."""
REORDER_S: Final = 0.005
"""How much later a frame comes that others are to overtake."""
_FIRST_MAC: Final = 0x02_00_00_00_00_01


class Conditions:
    """What becomes of frames on their way to a port. May be set at any time."""

    def __init__(
        self,
        latency: float = 0.0,
        loss: float = 0.0,
        reorder: float = 0.0,
        bandwidth: float | None = None,
    ) -> None:
        self._set(latency, loss, reorder, bandwidth)

    def _set(
        self, latency: float, loss: float, reorder: float, bandwidth: float | None
    ) -> None:
        if not 0 <= latency <= 3600:
            raise ConfigError(f"latency: {latency} is not within 0..3600 s")
        for name, share in (("loss", loss), ("reorder", reorder)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name}: {share} is not within 0..1")
        if bandwidth is not None and bandwidth <= 0:
            raise ConfigError(f"bandwidth: {bandwidth} is not above 0")
        self.latency, self.loss = latency, loss
        self.reorder, self.bandwidth = reorder, bandwidth

    def change(self, **values: float | None) -> None:
        """Set some of them. Raises ConfigError, with nothing changed."""
        known = {
            name: getattr(self, name)
            for name in ("latency", "loss", "reorder", "bandwidth")
        }
        unknown = values.keys() - known.keys()
        if unknown:
            raise ConfigError(f"{min(unknown)}: it is none of {', '.join(known)}")
        self._set(**known | values)


class Network:
    """Joins the network cards of machines, each by a port: ``nets=[network]``.

    It carries frames of any protocol and knows no addresses but the cards': machines
    have IP addresses that their guests give themselves. What comes to each takes
    `latency` seconds, but for the share `loss` of it, which never comes; the share
    `reorder` is overtaken by others; and `bandwidth` bytes a second come at most. All
    of that may be changed while machines run, by `set`, or for one by its port's.
    What is left to chance is the same for the same `seed` and frames. Thread-safe.

    >>> network = Network(latency=0.01)
    >>> network.set(loss=0.5)
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        loss: float = 0.0,
        reorder: float = 0.0,
        bandwidth: float | None = None,
        seed: int = 0,
    ) -> None:
        """Raises ConfigError."""
        self._conditions = Conditions(latency, loss, reorder, bandwidth)
        self._random = random.Random(seed)
        self.lock: Final = threading.Lock()
        """For its ports, too; within it only clocks are asked."""
        self._ports: list[Port] = []
        self._where: dict[bytes, Port] = {}

    @property
    def ports(self) -> "tuple[Port, ...]":
        """Those of machines that there are, in the order in which they were made."""
        with self.lock:
            return tuple(self._ports)

    def set(self, **conditions: float | None) -> None:
        """Change `latency`, `loss`, `reorder` or `bandwidth` for all, now and to come.

        Raises ConfigError.
        """
        with self.lock:
            self._conditions.change(**conditions)
            for port in self._ports:
                port.conditions.change(**conditions)

    def partition(self, *sides: Iterable[object]) -> None:
        """Cut it: only who is on one side reaches one another, be it machines or ports.

        Who is on none is on one of their own, together. Raises ConfigError for who
        isn't in the network.
        """
        with self.lock:
            side_of = dict.fromkeys(self._ports, 0)
            for number, side in enumerate(sides, 1):
                for one in side:
                    found = [p for p in self._ports if one in (p, p.owner)]
                    if not found:
                        raise ConfigError(f"partition: {one!r} isn't in this network")
                    side_of |= dict.fromkeys(found, number)
            for port, number in side_of.items():
                port.side = number

    def heal(self) -> None:
        """Undo `partition`."""
        self.partition()

    # For machines

    def join(
        self, clock: "Clock", mac: bytes | None = None, owner: object = None
    ) -> "Port":
        """A port for a card with that address, or None: a free one; see `Port.mac`.

        Raises ConfigError if another has it.
        """
        with self.lock:
            taken = {port.mac for port in self._ports}
            if mac is None:
                numbers = (n.to_bytes(6, "big") for n in count(_FIRST_MAC))
                mac = next(one for one in numbers if one not in taken)
            elif mac in taken:
                raise ConfigError(f"mac: {mac.hex(':')} is on that network already")
            conditions = Conditions()
            conditions.change(**vars(self._conditions))
            port = Port(self, clock, mac, owner, conditions)
            self._ports.append(port)
            return port

    def leave(self, port: "Port") -> None:
        """Its machine is closed. Idempotent."""
        with self.lock:
            if port in self._ports:
                self._ports.remove(port)
            self._where = {mac: it for mac, it in self._where.items() if it is not port}

    def forward(self, frame: bytes, source: "Port") -> None:
        """Send it where it is to go."""
        with self.lock:
            self._learn(frame[6:12], source)
            target = self._where.get(frame[:6])
            to = self._ports if target is None else [target]
            for port in to:
                if port is not source and port.side == source.side:
                    self._send(frame, port)

    def _learn(self, mac: bytes, port: "Port") -> None:
        if mac[0] & 1 or self._where.get(mac) is port:
            return
        if len(self._where) >= ADDRESSES_MAX:
            del self._where[next(iter(self._where))]
        self._where[mac] = port

    def _send(self, frame: bytes, port: "Port") -> None:
        conditions, chance = port.conditions, self._random.random
        is_lost = conditions.loss > 0 and chance() < conditions.loss
        if is_lost or not port.is_plugged:
            port.lost += 1
            return
        late = conditions.reorder > 0 and chance() < conditions.reorder
        port.put(frame, REORDER_S if late else 0.0)

    def take(self, port: "Port") -> bytes | None:
        """What has come for it, if it is time."""
        with self.lock:
            return port.get()


class Port:
    """One machine's end of a Network's cables: the NetLink of its card."""

    has_header = False

    def __init__(
        self,
        network: Network,
        clock: "Clock",
        mac: bytes,
        owner: object,
        conditions: Conditions,
    ) -> None:
        self.network: Final = network
        self.mac: Final = mac
        """The address that its card is to have."""
        self.owner: Final = owner
        """The machine whose it is."""
        self.conditions: Final = conditions
        self.side = 0
        """Of a partition."""
        self.is_plugged = True
        self.lost = 0
        """How many frames that were for it have not come."""
        self._clock = clock
        self._card: VirtioNet | None = None
        self._coming: list[tuple[int, int, bytes]] = []  # a heap: when due, order
        self._backlog = 0
        self._order = count()
        self._free_at_ns = 0
        self._timer: tuple[int, Timer] | None = None  # when due
        self._pcap: Pcap | None = None

    def set(self, **conditions: float | None) -> None:
        """As `Network.set`, for what comes to this one alone."""
        self.conditions.change(**conditions)

    def unplug(self) -> None:
        """Pull the cable: the guest sees that its link is down."""
        self._plug(False)

    def plug(self) -> None:
        """Put it in again."""
        self._plug(True)

    def _plug(self, is_plugged: bool) -> None:
        if self.is_plugged is not is_plugged:
            self.is_plugged = is_plugged
            if self._card is not None:
                self._card.link_changed()

    def capture(self, path: "StrPath | None") -> None:
        """Write what passes here, both ways, to a pcap file from now on. None: no more.

        Raises ConfigError if it can't be made.
        """
        new = None if path is None else Pcap(path)
        with self.network.lock:
            old, self._pcap = self._pcap, new
        if old is not None:
            old.close()

    def close(self) -> None:
        """Its machine is gone. Idempotent."""
        self.network.leave(self)
        self.capture(None)

    # As a NetLink

    @property
    def is_up(self) -> bool:
        return self.is_plugged

    def attach(self, card: "VirtioNet") -> None:
        self._card = card

    def is_full(self) -> bool:
        """Never: a network loses what it has no room for."""
        return False

    def send(self, frame: list[memoryview]) -> None:
        if self.is_plugged:
            data = b"".join(frame)
            self._note(data)
            self.network.forward(data, self)

    def receive(self) -> bytes | None:
        frame = self.network.take(self)
        if frame is not None:
            self._note(frame)
        return frame

    def set_offloads(self, features: int) -> None:
        """It has none."""

    def _note(self, frame: bytes) -> None:
        if self._pcap is not None:
            with self.network.lock:
                if self._pcap is not None:
                    self._pcap.add(frame)

    # For the network, with its lock held

    def put(self, frame: bytes, later_s: float) -> None:
        """It is to come, in its time."""
        if self._backlog + len(frame) > BACKLOG:
            self.lost += 1
            return
        conditions, now = self.conditions, self._clock.now_ns()
        due = now
        if conditions.bandwidth is not None:
            due = max(now, self._free_at_ns)
            due += int(len(frame) / conditions.bandwidth * NS_PER_S)
            self._free_at_ns = due
        due += int((conditions.latency + later_s) * NS_PER_S)
        heapq.heappush(self._coming, (due, next(self._order), frame))
        self._backlog += len(frame)
        self._call_at(due)

    def get(self) -> bytes | None:
        """The next that is due; else its card is told when."""
        if not self._coming:
            return None
        due = self._coming[0][0]
        if due > self._clock.now_ns():
            self._call_at(due)
            return None
        frame = heapq.heappop(self._coming)[2]
        self._backlog -= len(frame)
        return frame

    def _call_at(self, due_ns: int) -> None:
        if self._timer is not None:
            if self._timer[0] <= due_ns:
                return
            self._timer[1].cancel()
        self._timer = due_ns, self._clock.call_at(due_ns, self._on_due)

    def _on_due(self) -> None:
        with self.network.lock:
            self._timer = None
        if self._card is not None:
            self._card.on_frames()
