"""What the tests with real guests share."""

from __future__ import annotations

import os

import pytest

from scripts.with_kvm.host_kvm import HostKvm, host_kvm


@pytest.fixture(scope="session")
def kvm_here() -> HostKvm:
    """Return what KVM this host, or the software machine, has."""
    return host_kvm()


@pytest.fixture(autouse=True)
def _kvm_that_serves(request: pytest.FixtureRequest, kvm_here: HostKvm) -> None:
    """Skip where the KVM here cannot run the test; fail if it is required."""
    hardware = request.node.get_closest_marker("hardware") is not None
    if kvm_here.kind == "hardware" or (kvm_here.kind == "pvm" and not hardware):
        return
    refuse = pytest.fail if os.environ.get("VMM_REQUIRE_KVM") else pytest.skip
    refuse(f"{kvm_here.reason}; scripts/test runs it in the software machine")
