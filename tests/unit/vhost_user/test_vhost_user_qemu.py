"""QEMU as the front end of a device of ours, under Debian's kernel and its driver."""

import json
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.guests import DEADLINE, built, with_script

from vmm.devices.virtio.features import VIRTIO_F_RING_PACKED
from vmm.guest import cpio

ROOT = Path(__file__).parents[3]
QEMU = shutil.which("qemu-system-x86_64")
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev"),
    *("virtio_pci", "virtio-rng"),
)
SCRIPT = f"""
for module in {" ".join(MODULES)}; do insmod /$module.ko; done
cat /sys/bus/virtio/devices/virtio0/features
while read line; do dd if=/dev/hwrng bs=8 count=32 2>/dev/null; echo " read"; done
"""
pytestmark = [
    pytest.mark.timeout(5 * DEADLINE),
    pytest.mark.skipif(QEMU is None, reason="there is no qemu-system-x86_64"),
]


class Qemu:
    """QEMU with a backend in a process of its own: `device`, of support."""

    def __init__(self, folder: Path, device: str, options: str) -> None:
        ours, theirs = socket.socketpair()
        backend = ["-m", "vmm.vhost_user", f"support.vhost_devices:{device}"]
        self.backend = subprocess.Popen(
            [sys.executable, *backend, "--fd", str(theirs.fileno())],
            cwd=ROOT / "tests",
            env={"PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        monitor, qmp = socket.socketpair()
        self.qemu = subprocess.Popen(
            [
                *(str(QEMU), "-nodefaults", "-display", "none", "-M", "q35"),
                *("-accel", "tcg", "-m", "256", "-serial", "stdio"),
                *("-object", "memory-backend-memfd,id=ram,size=256M,share=on"),
                *("-numa", "node,memdev=ram"),
                *("-chardev", f"socket,id=device,fd={ours.fileno()}"),
                *("-device", f"vhost-user-rng-pci,chardev=device{options}"),
                *("-chardev", f"socket,id=qmp,fd={qmp.fileno()}"),
                *("-mon", "chardev=qmp,mode=control"),
                *("-kernel", str(built("bzImage-debian"))),
                *("-initrd", str(initramfs(folder))),
                *("-append", "console=ttyS0 quiet panic=-1"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[ours.fileno(), qmp.fileno()],
        )
        ours.close()
        qmp.close()
        self.monitor = monitor.makefile("rw")
        monitor.close()
        assert "QMP" in self._answer()
        self.command("qmp_capabilities")

    def _answer(self) -> dict[str, Any]:
        """The next word of the monitor that is no event."""
        while True:
            answer: dict[str, Any] = json.loads(self.monitor.readline())
            if "event" not in answer:
                return answer

    def command(self, name: str) -> None:
        self.monitor.write(json.dumps({"execute": name}) + "\n")
        self.monitor.flush()
        assert self._answer() == {"return": {}}

    def expect(self, word: str) -> str:
        """The next line with it."""
        assert self.qemu.stdout is not None
        for line in self.qemu.stdout:
            if word.encode() in line:
                return line.decode().strip()
        raise AssertionError(f"QEMU has ended without {word!r}")

    def read(self) -> list[int]:
        """What the guest reads of its hwrng, which doesn't keep to the order."""
        assert self.qemu.stdin is not None
        self.qemu.stdin.write(b"\n")
        self.qemu.stdin.flush()
        digits = self.expect(" read").removesuffix(" read")
        counts = sorted(int(digits[at : at + 8]) for at in range(0, 256, 8))
        assert len(set(counts)) == 32
        return counts

    def close(self) -> None:
        self.qemu.kill()
        self.qemu.wait()
        self.monitor.close()
        for stream in (self.qemu.stdin, self.qemu.stdout):
            assert stream is not None
            stream.close()
        try:  # its only front end has left
            _, told = self.backend.communicate(timeout=DEADLINE)
        finally:
            self.backend.kill()
        assert self.backend.returncode == 0
        assert told.count("\n") == 1  # that it is ready


def initramfs(folder: Path) -> Path:
    image = with_script(folder, SCRIPT)
    modules = [(name, built(f"modules-debian/{name}.ko")) for name in MODULES]
    more = cpio.write([cpio.file(f"{n}.ko", path.read_bytes()) for n, path in modules])
    image.write_bytes(image.read_bytes() + more)
    return image


@pytest.mark.parametrize(
    ("device", "options", "packed"),
    [("CountingRng", "", "0"), ("PackedRng", ",packed=on", "1")],
)
def test_linux_reads_what_the_device_gives_it_over_pause_and_reset(
    tmp_path: Path, device: str, options: str, packed: str
) -> None:
    with closing(Qemu(tmp_path, device, options)) as qemu:
        read_over_pause_and_reset(qemu, packed)


def read_over_pause_and_reset(qemu: Qemu, packed: str) -> None:
    features = qemu.expect("0011")
    assert features[VIRTIO_F_RING_PACKED] == packed
    first = qemu.read()
    second = qemu.read()
    assert first[-1] < second[0]
    qemu.command("stop")
    qemu.command("cont")
    third = qemu.read()
    assert second[-1] < third[0]
    qemu.command("system_reset")
    qemu.expect("0011")
    assert third[-1] < qemu.read()[0]
