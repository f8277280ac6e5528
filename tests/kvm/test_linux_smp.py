"""Linux on several CPUs: all come up, after every reset."""

import pytest
from guests import DEADLINE, built

from vmm import Machine, MachineConfig

pytestmark = [pytest.mark.linux, pytest.mark.hardware]

CPUS = 4
RESETS = 2  # a boot takes some seconds where the host is slow


def test_all_cpus_come_up_after_every_reset() -> None:
    config = MachineConfig(
        kernel=built("vmlinux-full"),
        initrd=built("initramfs-tiny.cpio"),
        cpus=CPUS,
        on_reset="restart",
    )
    with Machine(config) as machine:
        machine.start()
        for _ in range(1 + RESETS):
            machine.console.expect(f"smp: Brought up 1 node, {CPUS} CPUs", DEADLINE)
            machine.console.expect("guest: userspace", DEADLINE)
        machine.stop()
        assert machine.wait(DEADLINE).resets >= RESETS
