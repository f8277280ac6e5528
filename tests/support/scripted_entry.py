"""Both ways into the guest, with a function of the test's in place of KVM_RUN."""

from collections.abc import Callable

from vmm.devices.bus.io_manager import IoManager
from vmm.kvm import abi
from vmm.kvm.vcpu import Vcpu
from vmm.vcpu._run_loop import ffi
from vmm.vcpu.entry import CompiledEntry, PythonEntry

RunVcpu = Callable[[], None]  # raises OSError where the ioctl would fail


class ScriptedEntry(PythonEntry):
    """The Python one."""

    def __init__(self, run_vcpu: RunVcpu) -> None:
        self._run_vcpu = run_vcpu

    def enter(self, fd: int, request: int, argument: int) -> None:
        assert (request, argument) == (abi.KVM_RUN, 0)
        self._run_vcpu()


class ScriptedCompiledEntry(CompiledEntry):
    """The compiled one: all of its C but for the ioctl."""

    def __init__(self, vcpu: Vcpu, bus: IoManager, run_vcpu: RunVcpu) -> None:
        super().__init__(vcpu, bus)

        def call(fd: int) -> int:
            assert fd == vcpu.fd
            try:
                run_vcpu()
            except OSError as error:
                ffi.errno = error.errno
                return -1
            return 0

        self._callback = ffi.callback("int(int)", call)  # kept alive
        self.loop.run_vcpu = self._callback


def scripted_entry(
    kind: str, vcpu: Vcpu, bus: IoManager, run_vcpu: RunVcpu
) -> ScriptedEntry | ScriptedCompiledEntry:
    """The entry of that kind: python or compiled."""
    if kind == "python":
        return ScriptedEntry(run_vcpu)
    return ScriptedCompiledEntry(vcpu, bus, run_vcpu)
