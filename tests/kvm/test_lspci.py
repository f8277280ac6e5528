"""Debian's lspci and setpci, in our kernel and in Debian's."""

import re
from pathlib import Path
from typing import Final

import pytest
from support import foreign
from support.debian import FetchError
from support.guests import DEADLINE, built, with_script
from support.pci_example import summer
from support.pci_rig import Scratch

from vmm import ExitReason, Machine, MachineConfig
from vmm.guest import cpio

pytestmark = [pytest.mark.linux, pytest.mark.foreign("pciutils")]

SCRIPT: Final = """
dmesg | grep -i -e pci -e mmconfig
echo "=="
lspci -n -vvv
echo "=="
setpci -s 1.0 COMMAND=0
was=$(setpci -s 1.0 BASE_ADDRESS_0)
setpci -s 1.0 BASE_ADDRESS_0=ffffffff
setpci -s 1.0 BASE_ADDRESS_0
setpci -s 1.0 BASE_ADDRESS_0=$was
setpci -s 1.0 BASE_ADDRESS_0
"""
STATUS: Final = (
    "Cap{} 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast "
    ">TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-"
)
OFF: Final = (
    "Control: I/O- Mem- BusMaster- SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- "
    "SERR- FastB2B- DisINTx-"
)
DEVICES: Final = f"""
00:00.0 0600: 1b36:0008
	{OFF}
	Status: {STATUS.format("-")}

00:01.0 1200: 1234:0c32
	{OFF}
	Status: {STATUS.format("+")}
	Region 0: Memory at e0100000 (32-bit, non-prefetchable) [disabled] [size=4K]
	Region 1: Memory at e0101000 (32-bit, non-prefetchable) [disabled] [size=4K]
	Capabilities: [40] MSI-X: Enable- Count=1 Masked-
		Vector table: BAR=1 offset=00000000
		PBA: BAR=1 offset=00000800

00:02.0 0880: 1234:5678 (rev 03) (prog-if 01)
	Subsystem: 4321:8765
	{OFF}
	Status: {STATUS.format("+")}
	Interrupt: pin A routed to IRQ 11
	Region 0: Memory at 6000000000 (64-bit, prefetchable) [disabled] [size=16K]
	Region 2: I/O ports at c000 [disabled] [size=32]
	Region 3: Memory at e0200000 (32-bit, non-prefetchable) [disabled] [size=1M]
	Region 4: Memory at e0102000 (32-bit, non-prefetchable) [disabled] [size=4K]
	Capabilities: [40] MSI-X: Enable- Count=5 Masked-
		Vector table: BAR=4 offset=00000000
		PBA: BAR=4 offset=00000800
	Capabilities: [4c] MSI: Enable- Count=1/4 Maskable+ 64bit+
		Address: 0000000000000000  Data: 0000
		Masking: 00000000  Pending: 00000000
"""
NO_NAMES: Final = "lspci: Unable to load libkmod resources: error -2\n"


@pytest.mark.parametrize(
    "image", ["ours", pytest.param("debian", marks=pytest.mark.hardware)]
)
def test_lspci_shows_each_device_and_setpci_sizes_a_bar(
    image: str, tmp_path: Path
) -> None:
    """And the kernel has nothing to complain of."""
    try:
        files = foreign.program_files(foreign.fetch("pciutils"))
    except FetchError as error:
        pytest.skip(f"no network? {error}")
    initrd = with_script(tmp_path, SCRIPT)
    initrd.write_bytes(initrd.read_bytes() + cpio.write(_entries(files)))
    config = MachineConfig(
        kernel=built("vmlinux-full-ring3" if image == "ours" else "bzImage-debian"),
        initrd=initrd,
        append="quiet",
        memory="256M",
        timeout=DEADLINE,
    )
    with Machine(config) as machine:
        machine.plug(summer())
        machine.plug(Scratch())
        result = machine.run()
        output = machine.console.read().decode().replace("\r", "")
    assert result.reason is ExitReason.RESET, output
    said, shown, sized = output.split("==\n")
    assert "PCI host bridge to bus 0000:00" in said
    assert not re.search(r"(?i)warn|error|fail|bug:|can't|conflict|invalid", said)
    assert shown.replace(NO_NAMES, "").strip() == DEVICES.strip()
    assert sized.split()[:2] == ["fffff000", "e0100000"]


def _entries(files: dict[str, Path]) -> list[cpio.Entry]:
    """The files, and the folders that they are in."""
    folders = {str(above) for name in files for above in Path(name).parents}
    return [
        *(cpio.directory(folder[1:]) for folder in sorted(folders) if folder != "/"),
        *(
            cpio.file(name[1:], path.read_bytes(), 0o755)
            for name, path in files.items()
        ),
    ]
