"""Quirks: what a host's KVM needs from us before it runs every guest."""

from typing import Protocol

from ..boot.image import KernelImage
from ..devices.state import State
from ..kvm.abi import kvm_cpuid2
from ..kvm.vcpu import Vcpu
from ..kvm.vm import Vm
from ..memory import GuestMemory


class RescueState(State):
    """Base of what a Rescue keeps."""


class Rescue(Protocol):
    """Handles exits of one vCPU that are the host's fault; a RunLoop's `rescue`."""

    def __call__(self, reason: int, /) -> bool:
        """Whether the guest can go on after an exit."""

    def state(self) -> RescueState:
        """What it keeps, that KVM doesn't tell."""

    def restore(self, state: State | None) -> None:
        """Go on from there. Raises InvalidState."""


class Quirks:
    """What to do for a host; this one, VMX or SVM, needs nothing.

    `counts` has how often each quirk was applied, by its name.
    """

    name = "none"
    silence_s = 10  # without any output before a user should wonder

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def note(self) -> str:
        """What a crash report adds about quirks."""
        return ""

    def kernel(self, image: KernelImage) -> KernelImage:
        """The image to boot in place of `image`."""
        return image

    def cmdline(self, cmdline: str) -> str:
        """The command line with what this host needs added to it."""
        return cmdline

    def cpuid(self, cpuid: kvm_cpuid2) -> None:
        """Take out of a vCPU's CPUID what can't be used."""

    def warnings(self, image: KernelImage, cpus: int) -> list[str]:
        """What a user should know about this guest here before waiting for it."""
        if not image.ring3:
            return []
        return [
            f"kernel {image.file.path!r} runs in ring 3, for hosts whose KVM emulates "
            "ring 0 (PVM): here a stock one is faster, and protected from its programs"
        ]

    def prepare(self, vm: Vm) -> None:
        """Set up a new VM."""

    def state(self) -> bool:
        """What was found out of the kernel: whether it runs in ring 3, where it counts.

        For `restore` of the quirks of a clone, which has no kernel to look at.
        """
        return False

    def restore(self, state: bool) -> None:
        """Go on from there."""

    def rescue(self, vcpu: Vcpu, memory: GuestMemory) -> Rescue | None:
        """What handles exits that are the host's fault; None where there are none."""
        return None
