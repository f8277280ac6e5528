"""Linux on several CPUs: all come up, each works, and time is right on each."""

import re
import time
from typing import NamedTuple

import pytest
from support.guests import DEADLINE, built, with_script

from vmm import Machine, MachineConfig

pytestmark = [pytest.mark.linux, pytest.mark.hardware]

CPUS = 4
RESETS = 2  # a boot takes some seconds where the host is slow

# Each CPU counts to the same sum, all at once.
SCRIPT = """
for cpu in $(seq 0 $(($(nproc) - 1))); do
    taskset $(printf %x $((1 << cpu))) awk -v cpu=$cpu 'BEGIN {
        for (i = 1; i <= 20000; i++) sum += i
        printf "cpu %d sum %d\\n", cpu, sum }' &
done
wait
grep -E "^(siblings|cpu cores|apicid)" /proc/cpuinfo | tr -d "\\t" | sort -u
cat /sys/devices/system/cpu/cpu0/topology/core_siblings_list
echo online $(cat /sys/devices/system/cpu/online)
echo now $(date +%s)
dmesg | grep clocksource
"""


class Life(NamedTuple):
    """One life of the guest, from a reset to the next: its output, and our clock."""

    output: str
    began: float
    ended: float


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> list[Life]:
    """Of Debian's kernel, with that script: the first, and those after resets."""
    config = MachineConfig(
        kernel=built("vmlinux-debian"),
        initrd=with_script(tmp_path_factory.mktemp("smp"), SCRIPT),
        memory="256M",
        append="quiet",
        cpus=CPUS,
        on_reset="restart",
    )
    lives = []
    with Machine(config) as machine:
        machine.start()
        for _ in range(1 + RESETS):
            began = time.time()
            said = machine.console.expect("guest: status 0", DEADLINE).before.decode()
            lives.append(Life(said.replace("\r\n", "\n"), began, time.time()))
        machine.stop()
        resets = machine.wait(DEADLINE).resets
    assert resets >= RESETS
    return lives


def test_all_cpus_come_up_after_every_reset_and_work_in_one_package(
    lives: list[Life],
) -> None:
    for output, _, _ in lives:
        for cpu in range(CPUS):
            assert f"cpu {cpu} sum 200010000\n" in output
            assert re.search(rf"^apicid *: {cpu}$", output, re.MULTILINE)
        assert re.search(rf"^siblings *: {CPUS}$", output, re.MULTILINE)
        assert re.search(rf"^cpu cores *: {CPUS}$", output, re.MULTILINE)
        assert f"\n0-{CPUS - 1}\n" in output
        assert f"online 0-{CPUS - 1}\n" in output


def test_time_is_right_and_kvm_clock_stable(lives: list[Life]) -> None:
    for output, began, ended in lives:
        now = re.search(r"^now (\d+)$", output, re.MULTILINE)
        assert now is not None
        assert int(began) - 1 <= int(now[1]) <= ended + 1
        assert "clocksource: Switched to clocksource kvm-clock" in output
        # Linux trusts no TSC of a CPU that doesn't call it constant, as the software
        # machine's; what must not be is a clock that was in use and drifted.
        assert re.search("clocksource.*unstable", output) is None
