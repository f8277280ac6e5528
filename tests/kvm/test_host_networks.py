"""Guests whose cards are connected to something of the host's: a tap, a program."""

import hashlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
from support.guests import DEADLINE, kernel, refuse, wait_until

from vmm import ConfigError, Machine, MachineConfig

pytestmark = pytest.mark.linux

CARRIER = "ip link set eth0 up; cat /sys/class/net/eth0/carrier"
TAP = f"vmk{os.getpid()}"[:15]


def run(machine: Machine, command: str) -> str:
    """Its output; it must succeed."""
    done = machine.guest.run(command, timeout=DEADLINE, text=True)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert isinstance(done.stdout, str)
    return done.stdout


def lease(machine: Machine) -> str:
    """The address that a DHCP server gives it, as which it then goes."""
    script = (
        "#!/bin/sh\\n[ $1 = bound ] && ip addr add $ip/${mask:-24} dev $interface && "
        "{ [ -z $router ] || ip route add default via $router; echo $ip >/tmp/ip; }"
    )
    run(machine, f"printf '{script}' >/tmp/bound; chmod +x /tmp/bound")
    run(machine, "udhcpc -i eth0 -n -q -s /tmp/bound; ip addr show eth0")
    return run(machine, "cat /tmp/ip").strip()


def machine_on(*nets: str) -> Machine:
    return Machine(
        MachineConfig(
            kernel=kernel("full"),
            agent=True,
            append="quiet",
            timeout=DEADLINE,
            nets=nets,
        )
    )


def ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True, timeout=60).returncode


@pytest.fixture
def tap() -> Iterator[str]:
    if which("ip") is None or ip("tuntap", "add", TAP, "mode", "tap"):
        pytest.skip("no tap device can be made here")
    ip("addr", "add", "10.98.76.1/24", "dev", TAP)
    ip("link", "set", TAP, "up")
    yield TAP
    ip("link", "del", TAP)


def test_a_guest_reaches_its_host_by_a_tap(tap: str) -> None:
    with machine_on(f"tap:{tap}") as machine:
        machine.start()
        run(machine, "ip addr add 10.98.76.2/24 dev eth0; ip link set eth0 up")
        run(machine, "ping -c 3 -i 0.1 -s 4000 10.98.76.1")
        run(machine, "mkdir /w; dd if=/dev/urandom of=/w/it bs=64k count=64 2>&1")
        run(machine, "httpd -h /w")
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "60", "http://10.98.76.2/it"],
            capture_output=True,
        )
        assert len(done.stdout) == 64 << 16, done.stderr
        # Whole segments came, which the driver hadn't cut.
        counters = machine.nets[0].counters
        assert counters["tx_bytes"] / counters["tx_frames"] > 2000
        assert counters["tx_dropped"] == 0


def test_qemu_is_a_peer_on_a_unix_socket(tmp_path: Path) -> None:
    """Its user network answers, which is a program's DHCP server and host."""
    if which("qemu-system-x86_64") is None:
        refuse("this host has no QEMU")
    with machine_on(f"unix:{tmp_path}/net") as machine:
        machine.start()
        assert run(machine, f"{CARRIER}; :") == "0\n"
        qemu = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-M", "none", "-display", "none"),
                *("-monitor", "none", "-serial", "none", "-netdev", "user,id=u"),
                *("-netdev", "hubport,id=a,hubid=0,netdev=u"),
                "-netdev",
                f"stream,id=s,server=off,addr.type=unix,addr.path={tmp_path}/net",
                *("-netdev", "hubport,id=b,hubid=0,netdev=s"),
            ],
            stderr=subprocess.PIPE,
        )
        try:
            wait_until(lambda: run(machine, CARRIER) == "1\n", "it is connected")
            assert lease(machine) == "10.0.2.15"
            run(machine, "ping -c 1 10.0.2.2")
        finally:
            qemu.kill()
            qemu.communicate()
        wait_until(lambda: run(machine, CARRIER) == "0\n", "it is gone")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def passts() -> set[str]:
    """Processes of ours that are one."""
    found = subprocess.run(["pgrep", "-a", "passt"], capture_output=True, text=True)
    return {line.split()[0] for line in found.stdout.splitlines()}


@pytest.fixture
def user() -> None:
    if which("passt") is None:
        refuse("this host has no passt")


@pytest.mark.usefixtures("user")
def test_a_guest_has_the_hosts_network_and_ports_lead_to_it() -> None:
    port, before = free_port(), passts()
    with machine_on(f"user,forward={port}:80") as machine:
        machine.start()
        run(machine, "ip link set eth0 up")
        assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", lease(machine))
        run(machine, "mkdir /w; dd if=/dev/urandom of=/w/it bs=64k count=16 2>&1")
        run(machine, "httpd -h /w")
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "60", f"http://127.0.0.1:{port}/it"],
            capture_output=True,
        )
        sums = run(machine, "md5sum </w/it").split()[0]
        assert hashlib.md5(done.stdout).hexdigest() == sums, done.stderr
        assert len(passts() - before) == 1
        assert machine.warnings == []
    assert passts() <= before


@pytest.mark.usefixtures("user")
def test_a_passt_that_ends_is_told_and_its_link_is_down() -> None:
    before = passts()
    with machine_on("user") as machine:
        machine.start()
        run(machine, "ip link set eth0 up")
        (pid,) = passts() - before
        os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: run(machine, CARRIER) == "0\n", "it is seen")
        wait_until(lambda: machine.warnings != [], "it is told")
        (warning,) = machine.warnings
        assert re.fullmatch("nets: passt.*: its link is down", warning)


@pytest.mark.usefixtures("user")
def test_a_port_in_use_is_said() -> None:
    before = passts()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^nets: forward: port {port}: Address"):
            machine_on(f"user,forward={port}:80")
    assert passts() <= before


def test_without_passt_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="user takes passt, which isn't here: inst"):
        machine_on("user")
