"""Where the figures come from: they mean little without."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .variants import QEMU

if TYPE_CHECKING:
    from scripts.with_kvm.host_kvm import Kind

SOFTWARE_MACHINE: Final = "software-machine"  # its host name: scripts/with_kvm/init


@dataclass(frozen=True)
class Host:
    """The machine and the programs; `qemu` is None where there is none."""

    kind: Kind
    software_machine: bool
    cpu: str
    cpus: int
    kernel: str
    date: str
    python: str
    qemu: str | None


def this_host(kind: Kind, cpuinfo: str = "/proc/cpuinfo") -> Host:
    """Describe the machine that we run on; `kind` is that of its KVM."""
    text = Path(cpuinfo).read_text()
    models = [
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    ]
    return Host(
        kind=kind,
        software_machine=platform.node() == SOFTWARE_MACHINE,
        cpu=models[0] if models else "unknown",
        cpus=len(models),
        kernel=platform.release(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
        qemu=_qemu_version(),
    )


def _qemu_version() -> str | None:
    if shutil.which(QEMU[0]) is None:
        return None
    done = subprocess.run([QEMU[0], "--version"], capture_output=True, text=True)
    return done.stdout.partition("version ")[2].partition("\n")[0] or None
