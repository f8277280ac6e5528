"""A profile of a run that a test plays: exits, accesses and console output in time."""

from support.fake_vcpu import Exit, FakeVcpu
from vmm.devices.bus.io_manager import IoManager
from vmm.devices.device_io import DeviceIo
from vmm.devices.resources import DeviceResources, MmioAddressRange, PioAddressRange
from vmm.kvm.abi import KVM_RUN
from vmm.profile.recorder import Profile

PORT = 0x500
ADDRESS = 0xFE00_0000
SIZE = 16  # of each range
FIRST_NS = 1_000_000_000  # power-on: not 0, as on any host


class Slow(DeviceIo):
    """Takes some time for each access."""

    def __init__(self, rig: "ProfileRig", cost_ns: int) -> None:
        self._rig = rig
        self.cost_ns = cost_ns

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        self._rig.pass_ns(self.cost_ns)

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self._rig.pass_ns(self.cost_ns)

    def read(self, base: int, offset: int, data: memoryview) -> None:
        self._rig.pass_ns(self.cost_ns)

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self._rig.pass_ns(self.cost_ns)


class ProfileRig:
    """A profiled machine with one vCPU, and a clock that stands still by itself."""

    served = collected = 0

    def __init__(self) -> None:
        self.now_ns = FIRST_NS
        self.profile = Profile(lambda: self.now_ns)
        self.vcpu = FakeVcpu()
        self.bus = IoManager()
        self.profile.power_on()
        self.recorder = self.profile.vcpu(self.vcpu, self.bus, self)
        self._exit: Exit | None = None
        self._stay_ns = 0

    def plug(self, device: DeviceIo) -> None:
        ranges = PioAddressRange(PORT, SIZE), MmioAddressRange(ADDRESS, SIZE)
        self.bus.register_device_io(device, DeviceResources(ranges))

    def pass_ns(self, ns: int) -> None:
        self.now_ns += ns

    def begin(self) -> None:
        """An entry's; there is nothing to do."""

    end = begin

    def enter(self, fd: int, request: int, argument: int) -> None:
        """KVM_RUN, as the recorder calls it."""
        assert (fd, request, argument) == (self.vcpu.fd, KVM_RUN, 0)
        self.now_ns += self._stay_ns
        if self._exit is not None:
            self._exit(self.vcpu.kvm_run)

    def run(self, stay_ns: int, leave: Exit) -> None:
        """Enter the guest, which leaves with this exit after some time."""
        self._stay_ns, self._exit = stay_ns, leave
        self.recorder.enter(self.vcpu.fd, KVM_RUN, 0)

    def print(self, text: bytes, per_byte_ns: int = 0) -> None:
        """The guest prints, byte by byte."""
        for value in text:
            self.now_ns += per_byte_ns
            self.profile.console(bytes((value,)))

    def reboot(self) -> None:
        self.profile.power_off()
        self.profile.power_on()
        self.recorder = self.profile.vcpu(self.vcpu, self.bus, self)

    def close(self) -> None:
        self.vcpu.close()
