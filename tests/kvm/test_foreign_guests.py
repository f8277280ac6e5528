"""Guests that nobody here wrote: a memory test, a newer kernel."""

import re
from pathlib import Path

import pytest
from foreign import FetchError, fetch
from guests import DEADLINE, built

from vmm import ExitReason, Machine, MachineConfig

# On PVM, too, memtest86+ goes that far, but at its own pace.
pytestmark = [pytest.mark.linux, pytest.mark.hardware]


@pytest.fixture
def foreign(request: pytest.FixtureRequest) -> Path:
    """The folder of what the test's marker names."""
    marker = request.node.get_closest_marker("foreign")
    try:
        return fetch(marker.args[0])
    except FetchError as error:
        pytest.skip(f"no network? {error}")


@pytest.mark.foreign("memtest")
def test_memtest86_reaches_its_first_test_and_answers_keys(foreign: Path) -> None:
    """A bzImage without a payload; Esc resets, by whatever way there is."""
    config = MachineConfig(
        kernel=foreign / "memtest86+.bin",
        memory="8M",
        cmdline="console=ttyS0,115200",
        timeout=2 * DEADLINE,
    )
    with Machine(config) as machine:
        console = machine.console
        machine.start()
        console.expect("Memtest86+ v", timeout=DEADLINE)
        console.expect("#0  [Address test, walking ones", timeout=DEADLINE)
        console.send("1")  # F1
        console.expect("Settings:", timeout=DEADLINE)
        console.send("0")  # F10
        console.expect("Status: ", timeout=DEADLINE)
        console.send("\x1b")
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.RESET


@pytest.mark.foreign("backports")
def test_debians_kernel_of_another_generation_boots_to_our_init(foreign: Path) -> None:
    config = MachineConfig(
        kernel=foreign / "bzImage",
        initrd=built("initramfs-tiny.cpio"),
        memory="512M",
        timeout=2 * DEADLINE,
    )
    with Machine(config) as machine:
        result = machine.run()
        output = machine.console.read().decode()
    release = re.search(r"guest: userspace Linux (\d+)\.(\d+)\.\S*deb12", output)
    assert release is not None
    assert (int(release[1]), int(release[2])) > (6, 1)
    assert result.reason is ExitReason.RESET
