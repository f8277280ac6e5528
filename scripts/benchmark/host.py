"""Where the figures come from: they mean little without."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .peers import versions

if TYPE_CHECKING:
    from scripts.with_kvm.host_kvm import Kind

SOFTWARE_MACHINE: Final = "software-machine"  # its host name: scripts/with_kvm/init


@dataclass(frozen=True)
class Host:
    """The machine and the programs; `peers` are versions, None where there is none."""

    kind: Kind
    software_machine: bool
    cpu: str
    cpus: int
    kernel: str
    date: str
    python: str
    peers: dict[str, str | None]


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
        peers=versions(),
    )
