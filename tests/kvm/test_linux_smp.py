"""Linux on several CPUs: all come up, each works, and time is right on each."""

import re
import time
from pathlib import Path

import pytest
from support.guests import DEADLINE, built, with_script

from vmm import ExitReason, Machine, MachineConfig

pytestmark = [pytest.mark.linux, pytest.mark.hardware]

CPUS = 4
RESETS = 2  # a boot takes some seconds where the host is slow

# Each CPU counts to the same sum, all at once.
LOAD = """
for cpu in $(seq 0 $(($(nproc) - 1))); do
    taskset $(printf %x $((1 << cpu))) awk -v cpu=$cpu 'BEGIN {
        for (i = 1; i <= 50000; i++) sum += i
        printf "cpu %d sum %d\\n", cpu, sum }' &
done
wait
grep -E "^(siblings|cpu cores|apicid)" /proc/cpuinfo | tr -d "\\t" | sort -u
cat /sys/devices/system/cpu/cpu0/topology/core_siblings_list
echo online $(cat /sys/devices/system/cpu/online)
"""

TIME = """
echo now $(date +%s)
dmesg | grep clocksource
"""


def run_script(folder: Path, script: str, **settings: object) -> str:
    """What a script prints on Debian's kernel, which has to reset after it."""
    config = MachineConfig(
        kernel=built("vmlinux-debian"),
        initrd=with_script(folder, script),
        memory="256M",
        timeout=DEADLINE,
        **settings,  # type: ignore[arg-type]
    )
    with Machine(config) as machine:
        result = machine.run()
        output = machine.console.read().decode().replace("\r\n", "\n")
    assert result.reason is ExitReason.RESET, output
    assert "guest: status 0" in output
    return output


def test_all_cpus_come_up_and_work_in_one_package(tmp_path: Path) -> None:
    output = run_script(tmp_path, LOAD, cpus=CPUS, append="quiet")
    for cpu in range(CPUS):
        assert f"cpu {cpu} sum 1250025000\n" in output
        assert re.search(rf"^apicid *: {cpu}$", output, re.MULTILINE)
    assert re.search(rf"^siblings *: {CPUS}$", output, re.MULTILINE)
    assert re.search(rf"^cpu cores *: {CPUS}$", output, re.MULTILINE)
    assert f"\n0-{CPUS - 1}\n" in output
    assert f"online 0-{CPUS - 1}\n" in output


def test_all_cpus_come_up_after_every_reset(tmp_path: Path) -> None:
    config = MachineConfig(
        kernel=built("vmlinux-debian"),
        initrd=with_script(tmp_path, "echo $(nproc) CPUs"),
        memory="256M",
        append="quiet",
        cpus=CPUS,
        on_reset="restart",
    )
    with Machine(config) as machine:
        machine.start()
        for _ in range(1 + RESETS):
            machine.console.expect(f"\n{CPUS} CPUs", DEADLINE)
        machine.stop()
        assert machine.wait(DEADLINE).resets >= RESETS


def test_time_is_right_and_kvm_clock_stable(tmp_path: Path) -> None:
    before = int(time.time())
    output = run_script(tmp_path, TIME, cpus=2, append="quiet")
    now = re.search(r"^now (\d+)$", output, re.MULTILINE)
    assert now is not None
    assert before - 1 <= int(now[1]) <= time.time() + 1
    assert "clocksource: Switched to clocksource kvm-clock" in output
    # Linux trusts no TSC of a CPU that doesn't call it constant, as the software
    # machine's; what must not be is a clock that was in use and drifted.
    assert re.search("clocksource.*unstable", output) is None
