"""Debian's stress-ng in our full kernel: what it does, it verifies."""

from pathlib import Path

import pytest
from support import foreign
from support.debian import FetchError
from support.disk_guests import check_ext4, ext4
from support.guests import built, kernel
from support.stress_ng import COMPLAINTS, STRESSORS, stress

import vmm

pytestmark = [
    pytest.mark.linux,
    pytest.mark.long,
    pytest.mark.foreign("stress-ng"),
]

SECONDS = 5


@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng_verifies(stressor: str, tmp_path: Path) -> None:
    try:
        result = stress(stressor, SECONDS, kernel("full"), tmp_path)
    except FetchError as error:
        pytest.skip(f"no network? {error}")
    assert result.guest_status == 0, (result.detail, result.output, result.report)


FILES = "--hdd 2 --hdd-bytes 16M --iomix 1 --iomix-bytes 16M --dentry 1 --rename 1"


@pytest.mark.parametrize("how", ["", ",cow"])
def test_stress_ng_verifies_files_on_a_disk(tmp_path: Path, how: str) -> None:
    image = ext4(tmp_path / "fs.img", 256 << 20)
    script = tmp_path / "files.sh"
    script.write_text(
        "#!/bin/sh\nmkdir /m && mount /dev/vda /m || exit 98\n"
        f"stress-ng {FILES} --verify --timeout {SECONDS} --temp-path /m 2>&1 ||"
        " exit 97\n"
        f"umount /m || exit 96\ndmesg | grep -E '{COMPLAINTS}' && exit 99\nexit 0\n"
    )
    script.chmod(0o755)
    try:
        files = foreign.program_files(foreign.fetch("stress-ng"))
    except FetchError as error:
        pytest.skip(f"no network? {error}")
    result = vmm.run(
        kernel=kernel("full"),
        initrd=built("initramfs-busybox.cpio"),
        command="/files.sh",
        files=files | {"/files.sh": script},
        append="quiet",
        memory="512M",
        disks=f"{image}{how}",
        timeout=120 + 4 * SECONDS,
    )
    assert result.guest_status == 0, (result.detail, result.output, result.report)
    assert check_ext4(image) == ""
