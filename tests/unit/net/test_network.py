"""Network: where frames go, when they come, and which don't."""

import stat
from collections import Counter
from pathlib import Path
from struct import unpack_from

import pytest

from vmm import ConfigError
from vmm.devices.clock import VirtualClock
from vmm.devices.virtio.net import VirtioNet
from vmm.net.network import ADDRESSES_MAX, BACKLOG, REORDER_S, Network, Port

MS = 1_000_000


class Card:
    """Takes all that comes to a port, with the time at which it came."""

    def __init__(self, network: Network, clock: VirtualClock, name: str = "") -> None:
        self.clock = clock
        self.port: Port = network.join(clock, owner=name or self)
        self.mac = self.port.mac
        self.came: list[tuple[int, bytes]] = []
        self.changes = 0
        self.port.attach(self)  # type: ignore[arg-type]

    def on_frames(self) -> None:
        while (frame := self.port.receive()) is not None:
            self.came.append((self.clock.now_ns(), frame))

    def link_changed(self) -> None:
        self.changes += 1

    def send(self, to: "Card | bytes", data: bytes = b"") -> bytes:
        target = to if isinstance(to, bytes) else to.mac
        frame = target + self.mac + b"\x08\x00" + data
        self.port.send([memoryview(frame)])
        return frame

    @property
    def frames(self) -> list[bytes]:
        return [frame for _, frame in self.came]


class World:
    def __init__(self, count: int = 3, **conditions: float) -> None:
        self.clock = VirtualClock()
        self.network = Network(**conditions)  # type: ignore[arg-type]
        self.cards = [Card(self.network, self.clock) for _ in range(count)]

    def wait(self, ms: float = 0) -> None:
        self.clock.advance(int(ms * MS))


ALL = b"\xff" * 6


def test_a_broadcast_reaches_all_but_its_sender() -> None:
    world = World()
    one, two, three = world.cards
    frame = one.send(ALL)
    world.wait()
    assert (one.frames, two.frames, three.frames) == ([], [frame], [frame])


def test_what_is_for_one_reaches_that_one_once_it_has_spoken() -> None:
    world = World()
    one, two, three = world.cards
    two.send(ALL)
    world.wait()
    for card in world.cards:
        card.came.clear()
    frame = one.send(two)
    world.wait()
    assert (two.frames, three.frames) == ([frame], [])


def test_one_that_nobody_knows_is_looked_for_everywhere() -> None:
    world = World()
    world.cards[0].send(b"\2\2\2\2\2\2")
    world.wait()
    assert [len(card.came) for card in world.cards] == [0, 1, 1]


def test_invented_addresses_do_not_grow_it() -> None:
    world = World(2)
    one = world.cards[0]
    for number in range(2 * ADDRESSES_MAX):
        one.mac = b"\2\0" + number.to_bytes(4, "big")
        one.send(ALL)
    assert len(world.network._where) == ADDRESSES_MAX


def test_latency_is_kept_to_the_nanosecond_and_order_too() -> None:
    world = World(2, latency=0.010)
    one, two = world.cards
    sent = [one.send(two, bytes([at])) for at in range(3)]
    world.wait(9.999)
    assert two.came == []
    world.wait(0.001)
    assert two.came == [(10 * MS, frame) for frame in sent]


def test_it_may_change_while_frames_are_under_way() -> None:
    world = World(2, latency=1)
    one, two = world.cards
    first = one.send(two)
    world.network.set(latency=0)
    second = one.send(two, b"x")
    world.wait(0)
    assert two.frames == [second]
    world.wait(1000)
    assert two.frames == [second, first]


def test_bandwidth_is_bytes_a_second() -> None:
    world = World(2, bandwidth=100_000)
    one, two = world.cards
    for _ in range(3):
        one.send(two, bytes(986))  # 1000 with its header
    world.wait(100)
    assert [at for at, _ in two.came] == [10 * MS, 20 * MS, 30 * MS]


def test_a_share_is_lost() -> None:
    world = World(2, loss=0.25)
    one, two = world.cards
    for _ in range(1000):
        one.send(two)
    world.wait()
    assert 700 < len(two.came) < 800
    assert two.port.lost == 1000 - len(two.came)
    world.network.set(loss=1)
    one.send(two)
    world.wait()
    assert two.port.lost == 1001 - len(two.came)


def test_the_same_seed_loses_the_same() -> None:
    def lost(seed: int) -> list[bytes]:
        world = World(2, loss=0.5, seed=seed)
        one, two = world.cards
        for at in range(64):
            one.send(two, bytes([at]))
        world.wait()
        return two.frames

    assert lost(1) == lost(1) != lost(2)


def test_some_are_overtaken_and_none_is_lost() -> None:
    world = World(2, reorder=0.3)
    one, two = world.cards
    sent = [one.send(two, bytes([at])) for at in range(100)]
    world.wait(1000 * REORDER_S)
    assert Counter(two.frames) == Counter(sent)
    assert two.frames != sent


def test_what_comes_too_fast_is_lost_not_kept() -> None:
    world = World(2, latency=1)
    one, two = world.cards
    for _ in range(2 * BACKLOG // 65000):
        one.send(two, bytes(65000 - 14))
    assert two.port._backlog <= BACKLOG
    world.wait(1000)
    assert len(two.came) == BACKLOG // 65000
    assert (two.port._backlog, two.port.lost > 0) == (0, True)


def test_conditions_of_one_port_are_its_own() -> None:
    world = World()
    one, two, three = world.cards
    two.port.set(loss=1)
    one.send(ALL)
    world.wait()
    assert (two.came, len(three.came)) == ([], 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latency": -1}, r"^latency: -1 is not within 0\.\.3600 s"),
        ({"loss": 1.1}, r"^loss: 1\.1 is not within 0\.\.1"),
        ({"reorder": -0.1}, "^reorder: "),
        ({"bandwidth": 0}, "^bandwidth: 0 is not above 0"),
        ({"jitter": 1}, "^jitter: it is none of latency, loss, reorder, bandwidth"),
    ],
)
def test_conditions_that_can_not_be_change_nothing(
    values: dict[str, float], message: str
) -> None:
    world = World()
    with pytest.raises(ConfigError, match=message):
        world.network.set(**values)
    world.cards[0].send(ALL)
    world.wait()
    assert len(world.cards[1].came) == 1


# Partitions


def test_who_is_on_no_side_is_on_one_together() -> None:
    world = World(4)
    one, two, three, four = world.cards
    world.network.partition([one, two.port])
    for card in world.cards:
        card.send(ALL)
    world.wait()
    senders = [{frame[6:12] for frame in card.frames} for card in world.cards]
    assert senders == [{two.mac}, {one.mac}, {four.mac}, {three.mac}]


def test_a_partition_heals() -> None:
    world = World(2)
    one, two = world.cards
    world.network.partition([one], [two])
    one.send(two)
    world.wait()
    assert two.came == []
    world.network.heal()
    one.send(two)
    world.wait()
    assert len(two.came) == 1


def test_a_partition_with_strangers_is_refused() -> None:
    world = World(2)
    with pytest.raises(ConfigError, match="'me' isn't in this network"):
        world.network.partition([world.cards[0]], ["me"])
    world.cards[0].send(ALL)
    world.wait()
    assert len(world.cards[1].came) == 1


# Cables


def test_a_pulled_cable_lets_nothing_through_and_is_told_once() -> None:
    world = World(2)
    one, two = world.cards
    for _ in range(2):
        two.port.unplug()
    one.send(two)
    two.send(one)
    world.wait()
    assert (one.came, two.came, two.changes, two.port.is_up) == ([], [], 1, False)
    two.port.plug()
    two.send(one)
    world.wait()
    assert (len(one.came), two.changes) == (1, 2)


def test_addresses_are_the_ports_own() -> None:
    network, clock = Network(), VirtualClock()
    first = network.join(clock, bytes.fromhex("020000000001"))
    second = network.join(clock)
    assert second.mac == bytes.fromhex("020000000002")
    with pytest.raises(ConfigError, match=r"^mac: 02:00:00:00:00:01 is on that net"):
        network.join(clock, first.mac)
    first.close()
    assert network.join(clock).mac == first.mac
    assert len(network.ports) == 2


def test_who_has_left_gets_nothing() -> None:
    world = World(2)
    one, two = world.cards
    two.send(one)
    two.port.close()
    two.port.close()
    one.send(two)
    world.wait()
    assert two.came == []


def test_a_real_card_is_told_when_frames_come() -> None:
    world = World(1)
    port = world.network.join(world.clock)
    net = VirtioNet(port.mac, port)
    world.cards[0].send(ALL)
    world.wait()  # nobody has started it: the frame waits
    assert port.receive() is not None
    assert net.config()[6] == 1


# Pcap


def test_a_capture_has_what_passes_both_ways(tmp_path: Path) -> None:
    world = World(2)
    one, two = world.cards
    path = tmp_path / "it.pcap"
    one.port.capture(path)
    frames = [one.send(two, b"there"), two.send(one, b"and back")]
    world.wait()
    one.port.capture(None)
    one.send(two)
    data = path.read_bytes()
    assert unpack_from("<IHH12xI", data) == (0xA1B23C4D, 2, 4, 1)
    at, found = 24, []
    while at < len(data):
        here, whole = unpack_from("<8xII", data, at)
        assert here == whole
        found.append(data[at + 16 : at + 16 + here])
        at += 16 + here
    assert found == frames
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_capture_that_can_not_be_made_says_so(tmp_path: Path) -> None:
    (card,) = World(1).cards
    with pytest.raises(ConfigError, match=r"^pcap: '.*/no/it': No such file"):
        card.port.capture(tmp_path / "no/it")


def test_a_full_disk_ends_a_capture_not_the_network() -> None:
    world = World(2)
    one, two = world.cards
    one.port.capture("/dev/full")
    one.send(two)
    world.wait()
    assert len(two.came) == 1
