"""What the tests with real guests share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.guests import SUFFIX, built, kernel, refuse

from scripts.with_kvm.host_kvm import HostKvm, host_kvm

GUEST_FILES = (
    *("initramfs-tiny.cpio", "initramfs-busybox.cpio"),
    *("vmm-exec", "vmm-agent"),
)
# Which of our kernels a test of all of them boots here: suffixes of their names.
KERNELS = [pytest.param("", id="stock")]
if SUFFIX:
    KERNELS = [
        pytest.param(SUFFIX, id="ring3"),
        pytest.param("", id="stock", marks=pytest.mark.stock),
    ]


@pytest.fixture(scope="session")
def kvm_here() -> HostKvm:
    """Return what KVM this host, or the software machine, has."""
    return host_kvm()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse what the KVM here cannot run, and Linux tests without a Linux.

    Before any fixture: one of a class may boot a guest.
    """
    kvm_here = host_kvm()
    marked = {mark.name for mark in item.iter_markers()}
    if kvm_here.kind == "none" or (kvm_here.kind == "pvm" and "hardware" in marked):
        refuse(f"{kvm_here.reason}; scripts/test runs it in the software machine")
    if "linux" in marked:
        for name in GUEST_FILES:
            built(name)
        if "stock" not in marked:
            kernel("tiny")  # which is the default


@pytest.fixture(scope="class", params=KERNELS)
def each(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """`each("vmlinux-tiny")` is the one for this host and, on PVM, the stock one."""
    return lambda name: built(f"{name}{request.param}")
