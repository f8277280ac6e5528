"""NetConfig: what a user may choose for a network card."""

import pytest

from vmm import ConfigError, MachineConfig, NetConfig, Network


def test_a_text_has_each_field_by_its_name() -> None:
    (net,) = MachineConfig(nets="none,mac=02:00:00:00:00:aB,mtu=9000").nets
    assert net == NetConfig(mac="02:00:00:00:00:ab", mtu=9000)
    assert net.mac_bytes == bytes.fromhex("0200000000ab")
    assert net.unplugged() == net


def test_a_network_is_one_of_them() -> None:
    network = Network()
    first, second = MachineConfig(nets=[network, "none"]).nets
    assert (first.kind, first.network) == ("network", network)
    assert (second.kind, second.mac_bytes) == ("none", None)
    assert MachineConfig(nets=network).nets == (first,)
    assert first.unplugged() == second


def test_what_is_elsewhere_is_named() -> None:
    unix, tap = MachineConfig(nets=["unix:/tmp/a:b", "tap:tap0,mtu=9000"]).nets
    assert (unix.kind, unix.where) == ("unix", "/tmp/a:b")
    assert tap == NetConfig(kind="tap", where="tap0", mtu=9000)
    assert unix.unplugged() == NetConfig()


def test_ports_are_forwarded_by_user_alone() -> None:
    (net,) = MachineConfig(nets="user,forward=8080:80,forward=2222:22").nets
    assert net.forward == ((8080, 80), (2222, 22))
    assert NetConfig(kind="user", forward=((1, 65535),)).forward == ((1, 65535),)
    assert net.replace(mtu=9000).forward == net.forward
    assert net.unplugged() == NetConfig()
    with pytest.raises(ConfigError, match=r"^forward: it is for user"):
        NetConfig(kind="tap", where="tap0", forward=((1, 2),))


BAD = {
    "forward to nowhere": (["user,forward=80"], "forward: '80' is not HOST:GUEST"),
    "forward to three": (["user,forward=1:2:3"], "'1:2:3' is not HOST:GUEST"),
    "port 0": (["user,forward=0:80"], "'0:80' is not HOST:GUEST"),
    "port too large": (["user,forward=80:65536"], "'80:65536' is not HOST:GUEST"),
    "words": (["user,forward=http:80"], "'http:80' is not HOST:GUEST"),
    "port twice": (["user,forward=1:2,forward=1:3"], "forward: port 1 is there twice"),
    "unix without a path": (
        ["unix:"],
        "'unix:' is not user, none, unix:PATH or tap:NAME",
    ),
    "tap without a name": (["tap"], "'tap' is not user, none, unix:PATH or tap:NAME"),
    "none with a place": (["none:x"], "'none:x' is not user, "),
    "tap of a long name": (["tap:" + 16 * "x"], "is no name of a device's"),
    "kind": (["wifi"], r"^nets: 'wifi': 'wifi' is not user"),
    "network as a text": (["network"], "^nets: 'network': 'network' is not "),
    "option": (["none,speed=1"], "^nets: 'none,speed=1': 'speed=1' is no option"),
    "no value": (["none,mtu"], "'mtu' is no option, but one of forward=, mac=, mtu="),
    "twice": (["none,mtu=99,mtu=99"], "mtu: it is there twice"),
    "mtu": (["none,mtu=67"], r"mtu: 67 is not within 68\.\.65535"),
    "mtu that is no number": (["none,mtu=9k"], "mtu: '9k' is no number"),
    "mac": (["none,mac=1:2"], "mac: '1:2' is no card's address"),
    "mac of many": (["none,mac=ff:ff:ff:ff:ff:ff"], "is no card's address"),
    "mac twice": (["none,mac=02:00:00:00:00:01"] * 2, ":01 is there twice"),
    "many": (["none"] * 9, "9 are more than 8"),
    "number": (5, "^nets: 5 is not a NetConfig"),
    "list of numbers": ([5], "^nets: 5 is not a NetConfig"),
    "nothing": (None, "^nets: None is not a NetConfig"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_what_can_not_be_is_said_in_one_line(given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MachineConfig(nets=given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "where"), [("tap", ""), ("none", "tap0")])
def test_a_place_goes_with_its_kind(kind: str, where: str) -> None:
    with pytest.raises(ConfigError, match=r"^where: it is for unix and tap"):
        NetConfig(kind=kind, where=where)


@pytest.mark.parametrize("kind", ["network", "none"])
def test_a_network_goes_with_its_kind(kind: str) -> None:
    network = None if kind == "network" else Network()
    with pytest.raises(ConfigError, match=r"^network: it goes with"):
        NetConfig(kind=kind, network=network)
