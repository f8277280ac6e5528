"""Guests on a Network of ours: Linux's driver, and what a test does to the cables."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.guests import DEADLINE, kernel, refuse, wait_until

from vmm import ConfigError, Machine, MachineConfig, VmmError
from vmm.net.network import Network

pytestmark = pytest.mark.linux


def config(*nets: object, **settings: object) -> MachineConfig:
    values: dict[str, object] = {
        "kernel": kernel("full"),
        "agent": True,
        "append": "quiet",
        "timeout": DEADLINE,
        "nets": nets,
    }
    return MachineConfig(**values | settings)  # type: ignore[arg-type]


def run(machine: Machine, command: str) -> str:
    """Its output; it must succeed."""
    done = machine.guest.run(command, timeout=DEADLINE, text=True)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert isinstance(done.stdout, str)
    return done.stdout


def succeeds(machine: Machine, command: str) -> bool:
    return machine.guest.run(command, timeout=DEADLINE).returncode == 0


def addresses(*machines: Machine) -> None:
    """Give them 10.0.0.1 and so on."""
    for number, machine in enumerate(machines, 1):
        run(machine, f"ip addr add 10.0.0.{number}/24 dev eth0; ip link set eth0 up")


PING = "ping -c 1 -W 2 10.0.0.2"


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture(params=["pci", "mmio"])
def pair(network: Network, request: pytest.FixtureRequest) -> Iterator[list[Machine]]:
    """Two that run."""
    with ExitStack() as stack:
        machines = [
            stack.enter_context(Machine(config(network, transport=request.param)))
            for _ in range(2)
        ]
        for machine in machines:
            machine.start()
        addresses(*machines)
        yield machines


def test_two_guests_reach_each_other_until_the_network_is_cut(
    network: Network, pair: list[Machine]
) -> None:
    first, second = pair
    assert "1 packets received" in run(first, PING)
    run(first, "ping -c 3 -i 0.1 -s 1472 10.0.0.2")  # at the MTU
    network.partition([first], [second])
    assert not succeeds(first, PING)
    network.heal()
    run(first, PING)
    assert first.nets[0].counters["rx_frames"] >= 4
    for machine in pair:
        assert "virtio_net" not in run(machine, "dmesg | grep -i -E 'warn|bug|fail'; :")
        assert machine.warnings == []


def test_a_file_comes_whole_over_a_bad_network(
    network: Network, pair: list[Machine]
) -> None:
    first, second = pair
    network.set(loss=0.02, reorder=0.05, latency=0.001)
    run(first, "mkdir /w; dd if=/dev/urandom of=/w/it bs=64k count=32 2>/dev/null")
    run(first, "httpd -h /w")
    got = run(second, "wget -q -O - http://10.0.0.1/it | md5sum")
    assert got == run(first, "md5sum </w/it")
    assert sum(port.lost for port in network.ports) > 0


def test_the_guest_sees_a_cable_that_is_pulled(
    network: Network, pair: list[Machine]
) -> None:
    port, guest = network.ports[0], pair[0]
    carrier = "cat /sys/class/net/eth0/carrier"
    assert run(guest, carrier) == "1\n"
    port.unplug()
    wait_until(lambda: run(guest, carrier) == "0\n", "it sees it")
    port.plug()
    wait_until(lambda: run(guest, carrier) == "1\n", "it sees it again")
    run(guest, PING)


def test_the_kernels_card_is_as_configured(network: Network, tmp_path: Path) -> None:
    from vmm import NetConfig

    big = NetConfig(kind="network", network=network, mac="02:00:00:00:00:07", mtu=65535)
    with Machine(config(big)) as first, Machine(config(big.replace(mac=None))) as other:
        for machine in (first, other):
            machine.start()
        addresses(first, other)
        assert run(first, "cat /sys/class/net/eth0/mtu") == "65535\n"
        assert run(first, "cat /sys/class/net/eth0/address") == "02:00:00:00:00:07\n"
        run(first, "ping -c 1 -s 65507 10.0.0.2")
        run(first, "ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:99")
        run(first, "ip link set eth0 up promisc on")
        assert first.nets[0].mac == "02:00:00:00:00:99"
        run(first, "ping -c 1 10.0.0.2")


def test_what_passes_is_in_a_pcap(
    network: Network, pair: list[Machine], tmp_path: Path
) -> None:
    network.ports[0].capture(tmp_path / "it.pcap")
    run(pair[0], PING)
    network.ports[0].capture(None)
    try:
        done = subprocess.run(
            ["tcpdump", "-n", "-r", str(tmp_path / "it.pcap"), "icmp"],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
    except FileNotFoundError:
        refuse("this host has no tcpdump")
    assert "10.0.0.1 > 10.0.0.2: ICMP echo request" in done.stdout
    assert "10.0.0.2 > 10.0.0.1: ICMP echo reply" in done.stdout


def test_a_clone_is_unplugged_or_in_another_network(pair: list[Machine]) -> None:
    run(pair[0], PING)
    with ExitStack() as stack:
        one, two = (stack.enter_context(machine.snapshot()) for machine in pair)
        run(pair[0], PING)
        with one.clone() as alone:
            wait_until(
                lambda: run(alone, "cat /sys/class/net/eth0/carrier") == "0\n", "it is"
            )
        other = Network()
        clones = [
            stack.enter_context(snapshot.clone(nets=[other])) for snapshot in (one, two)
        ]
        run(clones[0], PING)
        with pytest.raises(ConfigError, match="a clone has as many as the snapshot"):
            one.clone(nets=[])


def test_a_saved_one_has_its_card(pair: list[Machine], tmp_path: Path) -> None:
    from vmm import Snapshot

    for number, machine in enumerate(pair):
        with machine.snapshot() as snapshot:
            snapshot.save(tmp_path / str(number))
    network = Network()
    with ExitStack() as stack:
        clones = [
            stack.enter_context(
                stack.enter_context(Snapshot.load(tmp_path / str(number))).clone(
                    nets=[network]
                )
            )
            for number in range(2)
        ]
        run(clones[0], PING)


def test_a_guest_that_boots_again_is_on_the_network_again(network: Network) -> None:
    with (
        Machine(config(network, on_reset="restart")) as first,
        Machine(config(network)) as second,
    ):
        for machine in (first, second):
            machine.start()
        addresses(first, second)
        run(first, PING)
        run(first, "touch /before")
        first.guest.popen("echo b > /proc/sysrq-trigger")

        def is_new() -> bool:
            try:
                return not succeeds(first, "[ -e /before ]")
            except VmmError:  # it boots
                return False

        wait_until(is_new, "it has booted again")
        run(first, "ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up")
        run(first, PING)
