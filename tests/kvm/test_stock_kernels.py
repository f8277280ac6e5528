"""Debian's kernels as they come, with their own initrds: what they make of a machine.

Their udev loads the drivers, by what devices say that they are; then there is a shell.
"""

import platform
import re
from collections.abc import Iterator
from itertools import product
from typing import Final, NamedTuple

import pytest
from support.debian import FetchError
from support.foreign import fetch, quickest
from support.guests import DEADLINE, Shell, follow
from support.pci_example import summer

from scripts.benchmark.host import SOFTWARE_MACHINE
from vmm import ExitReason, Machine, MachineConfig
from vmm.errors import ExpectTimeout, GuestEnded

pytestmark = [pytest.mark.linux, pytest.mark.hardware]

RELEASES: Final = ("bookworm", "trixie")  # Debian 12 and 13
FLAVOURS: Final = ("cloud", "generic")
TRANSPORTS: Final = ("pci", "mmio")
USUALLY: Final = ("bookworm-cloud-mmio", "trixie-cloud-pci")  # the quicker ones
PROMPT: Final = "(initramfs) "
# There, one boot of 6.12 in seventy has lost its local timer for good.
BOOTS: Final = 3 if platform.node() == SOFTWARE_MACHINE else 1

# As `dmesg -r` has them: levels up to KERN_WARNING of kernel, programs and daemons.
WARNINGS: Final = "^<([0-4]|[89]|1[0-2]|2[4-8])>"
# What isn't said as a warning, and is one.
COMPLAINTS: Final = (
    "firmware bug|BAR [0-9].*(fail|no space|can't)|"
    "(acpi|pci|pnp|virtio|i8042|rtc|ttyS).*(fail|error|conflict|unable|invalid|ignor)"
)
# Of a host that had something else to do for a while.
SLOW_HOST: Final = re.compile("hrtimer: interrupt took|Long readout interval")

# For a shell in the guest
DEVICES: Final = (
    "for d in /sys/bus/virtio/devices/*; do"
    ' echo $(cat $d/device) $(basename "$(readlink $d/driver)"); done'
)
RANDOM: Final = "dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c"


class Stock(NamedTuple):
    """A booted kernel; `transport` is that of its virtio devices."""

    shell: Shell
    transport: str

    def lines(self, command: str) -> list[str]:
        return self.shell.ask(command).splitlines()


def boots() -> Iterator[object]:
    """All kernels with both transports, most of them by --long."""
    for release, flavour, transport in product(RELEASES, FLAVOURS, TRANSPORTS):
        name = f"{release}-{flavour}"
        case = f"{name}-{transport}"
        marks = [pytest.mark.foreign(name)]
        if case not in USUALLY:
            marks.append(pytest.mark.long)
        yield pytest.param((name, transport), id=case, marks=marks)


def config(name: str, **settings: object) -> MachineConfig:
    """A machine with the kernel and all that virtio has."""
    try:
        folder = fetch(name)
    except FetchError as error:
        pytest.skip(f"no network? {error}")
    return MachineConfig(
        kernel=quickest(folder / "bzImage"),
        initrd=folder / "initrd.img",
        memory="1G",
        # What is wrong with the CPU is the host's, and to mitigate it takes time.
        cmdline="console=ttyS0,115200 break=premount mitigations=off",
        pci=True,
        rng=True,
        balloon=0,
        ports={"named": "capture"},
        serial="capture",
        **settings,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="class", params=boots())
def stock(request: pytest.FixtureRequest) -> Iterator[Stock]:
    name, transport = request.param
    settings = config(name, transport=transport)
    for boots_left in reversed(range(BOOTS)):
        with Machine(settings) as machine:
            machine.plug(summer())
            machine.start()
            try:
                shell = Shell(machine, PROMPT, DEADLINE / 2)
            except (ExpectTimeout, GuestEnded):
                if boots_left:
                    continue
                raise
            shell.ask("dmesg -n 1")
            yield Stock(shell, transport)
            return


class TestStock:
    """What one boot shows."""

    def test_it_complains_of_nothing(self, stock: Stock) -> None:
        found = stock.lines(f'dmesg -r | grep -iE "{WARNINGS}|{COMPLAINTS}"')
        assert [line for line in found if not SLOW_HOST.search(line)] == []
        assert "Linux version" in stock.shell.ask("dmesg | head -n 1")

    def test_each_virtio_device_has_its_driver(self, stock: Stock) -> None:
        assert sorted(stock.lines(DEVICES)) == [
            "0x0003 virtio_console",
            "0x0004 virtio_rng",
            "0x0005 virtio_balloon",
        ]

    def test_each_is_there_by_one_transport(self, stock: Stock) -> None:
        drivers = stock.lines(
            "for d in /sys/bus/virtio/devices/*; do"
            " basename $(readlink $(readlink -f $d)/../driver); done"
        )
        assert drivers == [f"virtio-{stock.transport}"] * 3

    def test_what_is_on_the_board_has_its_driver(self, stock: Stock) -> None:
        drivers = stock.lines(
            "for d in /sys/bus/pnp/devices/*; do"
            ' echo $(head -n 1 $d/id) $(basename "$(readlink $d/driver)"); done'
        )
        assert sorted(drivers) == [
            "PNP0303 i8042 kbd",
            "PNP0501 serial",
            "PNP0b00 rtc_cmos",
            "PNP0c02 system",
            "PNP0f13 i8042 aux",
        ]

    def test_lspci_shows_the_bus(self, stock: Stock) -> None:
        functions = "".join(stock.shell.ask("lspci -vvv -n")).split("\r\n\r\n")
        shown = {function.split()[2]: function for function in functions if function}
        virtio = {"1af4:1043", "1af4:1044", "1af4:1045"}
        expected = {"1b36:0008", "1234:0c32"}
        if stock.transport == "pci":
            expected |= virtio
        assert set(shown) == expected
        assert re.search(
            r"Region 0: Memory at \w+ \(32-bit, non-prefetchable\) .*\[size=4K\]",
            shown["1234:0c32"],
        )
        for identity in virtio & set(shown):
            assert "Kernel driver in use: virtio-pci" in shown[identity]
            assert "MSI-X: Enable+" in shown[identity]
            assert "CommonCfg" in shown[identity]

    def test_the_hosts_random_bytes_come(self, stock: Stock) -> None:
        assert stock.lines(RANDOM) == ["16"]
        current = "cat /sys/class/misc/hw_random/rng_current"
        assert stock.lines(current) == ["virtio_rng.0"]

    def test_a_port_has_its_name_for_udev_and_is_heard(self, stock: Stock) -> None:
        assert stock.lines("echo heard > /dev/virtio-ports/named") == []
        stock.shell.machine.port("named").expect("heard", DEADLINE)

    def test_interrupts_are_messages_by_pci_and_edges_by_mmio(
        self, stock: Stock
    ) -> None:
        table = stock.shell.ask("cat /proc/interrupts")
        kind = {"pci": "PCI-MSI", "mmio": "IO-APIC"}[stock.transport]
        kinds = re.findall(r"^ *\d+:.*(PCI-MSI|IO-APIC|XT-PIC).*virtio", table, re.M)
        assert set(kinds) == {kind}


@pytest.mark.long
@pytest.mark.foreign("bookworm-cloud")
def test_the_devices_work_in_a_clone_and_after_a_reset() -> None:
    with Machine(config("bookworm-cloud", on_reset="restart")) as machine:
        machine.start()
        shell = Shell(machine, PROMPT)
        first = shell.ask(DEVICES)
        assert first.count("virtio") == 3
        assert shell.ask(RANDOM) == "16\r\n"
        with machine.snapshot() as snapshot, snapshot.clone() as clone:
            copy = follow(clone)
            assert copy.ask(RANDOM) == "16\r\n"
            assert copy.ask("echo heard > /dev/virtio-ports/named") == ""
            clone.port("named").expect("heard", DEADLINE)
        machine.console.sendline("reboot -f")
        shell = Shell(machine, PROMPT)
        assert shell.ask(DEVICES) == first
        assert shell.ask(RANDOM) == "16\r\n"
        machine.console.sendline("poweroff -f")
        result = machine.wait(DEADLINE)
    assert (result.reason, result.resets) == (ExitReason.POWEROFF, 1)
