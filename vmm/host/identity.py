"""HostIdentity: on which host something was done that goes on only on the same one."""

import os
from mmap import PAGESIZE
from typing import Annotated, Final, Self

from ..devices.state import State
from .report import host_kind

_Text = Annotated[str, range(1, 256)]
_HEAD: Final = 4096  # bytes of /proc/cpuinfo, which has the same for each CPU
_CPUINFO: Final = {
    "vendor_id": "cpu_vendor",
    "cpu family": "cpu_family",
    "model": "cpu_model",
    "model name": "cpu_name",
}
_NAMES: Final = {
    "kvm": "KVM",
    "cpu_vendor": "CPU vendor",
    "cpu_family": "CPU family",
    "cpu_model": "CPU model",
    "cpu_name": "CPU",
    "kernel": "kernel",
    "page_size": "page size",
    "boot_id": "boot",
}
_REASONS: Final = {
    "kvm": "guests see another CPU there",
    "kernel": "what KVM keeps of a guest may mean something else to another",
    "page_size": "memory was saved by pages of that size",
    "boot_id": "on PVM the guest's TSC is the host's, and can't be set",
}
_CPU: Final = "the guest has found out what its CPU can do"


class HostIdentity(State):
    """CPU, kernel, kind of KVM, and the boot, by /proc/sys/kernel/random/boot_id."""

    kvm: _Text
    cpu_vendor: _Text
    cpu_family: _Text
    cpu_model: _Text
    cpu_name: _Text
    kernel: _Text
    page_size: Annotated[int, range(1, 1 << 32)]
    boot_id: _Text

    @classmethod
    def here(cls) -> Self:
        """This host's. Raises KvmUnavailable."""
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot_id = file.read().strip()
        return cls(
            kvm=host_kind(),
            **_cpu(),
            kernel=os.uname().release,
            page_size=PAGESIZE,
            boot_id=boot_id,
        )

    def obstacle(self, here: Self) -> str | None:
        """Why a guest of this host can't go on `here`; None: it can.

        Another boot matters on PVM alone.
        """
        for name in self.field_names:
            there, now = getattr(self, name), getattr(here, name)
            if there != now and (name != "boot_id" or here.kvm == "pvm"):
                reason = _REASONS.get(name, _CPU)
                return f"its {_NAMES[name]} was {there}, and here is {now}: {reason}"
        return None


def _cpu() -> dict[str, str]:
    found = dict.fromkeys(_CPUINFO.values(), "unknown")
    with open("/proc/cpuinfo", "rb", buffering=0) as file:
        head = file.read(_HEAD).decode(errors="replace")
    for line in reversed(head.partition("\n\n")[0].splitlines()):
        name, _, value = (word.strip() for word in line.partition(":"))
        if name in _CPUINFO and value:
            found[_CPUINFO[name]] = value
    return found
