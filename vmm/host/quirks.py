"""Quirks: what a host's KVM needs from us before it runs every guest."""

from ..boot.image import KernelImage
from ..kvm.abi import kvm_cpuid2
from ..kvm.vcpu import Vcpu
from ..kvm.vm import Vm
from ..memory import GuestMemory
from ..vcpu.run_loop import Rescue


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

    def rescue(self, vcpu: Vcpu, memory: GuestMemory) -> Rescue | None:
        """What handles exits that are the host's fault; None where there are none."""
        return None
