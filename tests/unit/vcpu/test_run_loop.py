"""RunLoop: each exit becomes the right access, or the right end."""

import errno
import gc
import os
import signal
import struct
import threading
from collections.abc import Iterator

import pytest
from support import fake_vcpu
from support.fake_vcpu import DATA, Exit, FakeVcpu, io, mmio, plain
from support.open_fds import open_fds
from support.scripted_entry import scripted_entry

from vmm.boot.firmware import firmware
from vmm.devices.bus.io_manager import IoManager
from vmm.devices.device_io import DeviceIo, DeviceIoMut, Locked
from vmm.devices.resources import DeviceResources, MmioAddressRange, PioAddressRange
from vmm.errors import KvmError
from vmm.kvm import abi
from vmm.kvm._libc import KICK_SIGNAL, install_kick_handler
from vmm.memory import GuestMemory, Range
from vmm.result import ExitReason
from vmm.vcpu.control import LOOK, PAUSE, End, RunControl
from vmm.vcpu.run_loop import RunLoop

PORT = 0x500
ADDRESS = 0xFE00_0000
PATTERN = bytes(range(0xA0, 0xA8))


class Recorder(DeviceIo):
    """Notes every access, and answers reads with PATTERN."""

    def __init__(self) -> None:
        self.accesses: list[tuple[str, int, bytes | int]] = []

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        self.accesses.append(("in", base + offset, len(data)))
        data[:] = PATTERN[: len(data)]

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.accesses.append(("out", base + offset, bytes(data)))

    def read(self, base: int, offset: int, data: memoryview) -> None:
        self.accesses.append(("load", base + offset, len(data)))
        data[:] = PATTERN[: len(data)]

    def write(self, base: int, offset: int, data: memoryview) -> None:
        self.accesses.append(("store", base + offset, bytes(data)))


class Broken(DeviceIoMut):
    """Raises on every access."""

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        raise ValueError("out of paper")

    def read(self, base: int, offset: int, data: memoryview) -> None:
        raise KeyError("no such page")


class Rig:
    """A RunLoop with RAM, buses and an end; its guest is a list of exits."""

    def __init__(self, kind: str) -> None:
        self.vcpu = FakeVcpu()
        self.memory = GuestMemory([Range(0, 0x4000)])
        self.bus = IoManager()
        self.control = RunControl()
        self.rescued: list[int] = []  # exits that a quirk takes care of
        self.asked: list[int] = []
        self.rescue_fails: KvmError | None = None
        self._script: Iterator[Exit] = iter(())
        self.unfinished = 0  # exits that KVM makes of what it has begun, first of all
        self.loop = RunLoop(
            self.vcpu,
            self.memory,
            self.bus,
            self.control,
            self.rescue,
            scripted_entry(kind, self.vcpu, self.bus, self.run_vcpu),
        )

    def run_vcpu(self) -> None:
        """What KVM does here: the next exit, or an OSError."""
        if self.vcpu.kvm_run[abi.KVM_RUN_IMMEDIATE_EXIT] and not self.unfinished:
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        self.unfinished = max(0, self.unfinished - 1)
        fill = next(self._script, None)
        if fill is None:
            self.control.finish(End(ExitReason.STOPPED))
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        fill(self.vcpu.kvm_run)

    def rescue(self, reason: int) -> bool:
        self.asked.append(reason)
        if self.rescue_fails is not None:
            raise self.rescue_fails
        return reason in self.rescued

    def plug(self, device: DeviceIo) -> None:
        ranges = PioAddressRange(PORT, 8), MmioAddressRange(ADDRESS, 16)
        self.bus.register_device_io(device, DeviceResources(ranges))

    def run(self, *script: Exit) -> End:
        """Run until an exit ends it, or the script has ended."""
        self._script = iter(script)
        self.loop.run()
        assert self.control.end is not None
        return self.control.end

    def close(self) -> None:
        self.vcpu.close()
        self.memory.close()


@pytest.fixture(autouse=True)
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kick's default action would end the tests."""
    monkeypatch.setattr("signal.pthread_kill", lambda thread, number: None)


@pytest.fixture(params=["python", "compiled"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(request.param)
    yield rig
    rig.close()


@pytest.fixture
def device(rig: Rig) -> Recorder:
    recorder = Recorder()
    rig.plug(recorder)
    return recorder


# Accesses


@pytest.mark.parametrize("size", [1, 2, 4])
def test_in_reads_what_the_device_gives(rig: Rig, device: Recorder, size: int) -> None:
    rig.run(io(PORT + 1, size))
    assert device.accesses == [("in", PORT + 1, size)]
    assert rig.vcpu.kvm_run[DATA : DATA + 8] == PATTERN[:size] + bytes(8 - size)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_out_writes_what_the_guest_gave(rig: Rig, device: Recorder, size: int) -> None:
    rig.run(io(PORT, size, data=PATTERN, is_write=True))
    assert device.accesses == [("out", PORT, PATTERN[:size])]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rep_outs_writes_each_element_to_the_same_port(
    rig: Rig, device: Recorder, size: int
) -> None:
    data = bytes(range(3 * size))
    rig.run(io(PORT, size, data=data, is_write=True, count=3))
    parts = [data[at : at + size] for at in range(0, 3 * size, size)]
    assert device.accesses == [("out", PORT, part) for part in parts]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rep_ins_fills_each_element(rig: Rig, device: Recorder, size: int) -> None:
    rig.run(io(PORT, size, count=3))
    assert device.accesses == [("in", PORT, size)] * 3
    assert rig.vcpu.kvm_run[DATA : DATA + 3 * size] == 3 * PATTERN[:size]


def test_rep_ins_may_fill_a_page(rig: Rig, device: Recorder) -> None:
    rig.run(io(PORT, 4, count=1024))
    assert len(device.accesses) == 1024
    assert rig.vcpu.kvm_run[DATA + 4092 : DATA + 4100] == PATTERN[:4] + bytes(4)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_load_reads_what_the_device_gives(
    rig: Rig, device: Recorder, size: int
) -> None:
    rig.run(mmio(ADDRESS + 8, size))
    assert device.accesses == [("load", ADDRESS + 8, size)]
    assert rig.vcpu.kvm_run[40:48] == PATTERN[:size] + bytes(8 - size)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_store_writes_what_the_guest_gave(
    rig: Rig, device: Recorder, size: int
) -> None:
    rig.run(mmio(ADDRESS, size, data=PATTERN, is_write=True))
    assert device.accesses == [("store", ADDRESS, PATTERN[:size])]


def test_unclaimed_port_reads_all_ones(rig: Rig) -> None:
    rig.run(io(0x9000, 4))
    assert bytes(rig.vcpu.kvm_run[DATA : DATA + 5]) == b"\xff\xff\xff\xff\0"


def test_unclaimed_address_reads_all_ones(rig: Rig) -> None:
    rig.run(mmio(0xFD00_0000, 8))
    assert rig.vcpu.kvm_run[40:48] == b"\xff" * 8


def test_unclaimed_writes_are_ignored(rig: Rig) -> None:
    end = rig.run(io(0x9000, 1, is_write=True), mmio(0xFD00_0000, 4, is_write=True))
    assert end.reason is ExitReason.STOPPED


def test_exits_are_counted_by_kind(rig: Rig) -> None:
    rig.run(io(PORT, 1), io(PORT, 1), mmio(ADDRESS, 1), plain(abi.KVM_EXIT_INTR))
    counts = {"io": 2, "mmio": 1, "intr": 1, "other": 1, "fast": 0, "coalesced": 0}
    assert rig.loop.exits == counts


# Exits at which the run goes on


@pytest.mark.parametrize("reason", [abi.KVM_EXIT_INTR, abi.KVM_EXIT_IRQ_WINDOW_OPEN])
def test_exit_without_work_goes_on(rig: Rig, device: Recorder, reason: int) -> None:
    rig.run(plain(reason), io(PORT, 1))
    assert len(device.accesses) == 1


@pytest.mark.parametrize("code", [errno.EINTR, errno.EAGAIN])
def test_interrupted_run_goes_on(rig: Rig, device: Recorder, code: int) -> None:
    rig.run(fake_vcpu.fails(OSError(code, os.strerror(code))), io(PORT, 1))
    assert len(device.accesses) == 1


# Exits that end it


def test_reset_takes_effect_before_the_next_instruction(rig: Rig) -> None:
    class Reset(Recorder):
        def pio_write(self, base: int, offset: int, data: memoryview) -> None:
            super().pio_write(base, offset, data)
            rig.control.finish(End(ExitReason.RESET))

    device = Reset()
    rig.plug(device)
    out = io(PORT, 1, data=b"\xfe", is_write=True)
    assert rig.run(out, out).reason is ExitReason.RESET
    assert len(device.accesses) == 1


def test_run_with_an_end_does_not_enter_the_guest(rig: Rig, device: Recorder) -> None:
    rig.control.finish(End(ExitReason.TIMEOUT))
    assert rig.run(io(PORT, 1)).reason is ExitReason.TIMEOUT
    assert device.accesses == []


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (abi.KVM_SYSTEM_EVENT_RESET, ExitReason.RESET),
        (abi.KVM_SYSTEM_EVENT_SHUTDOWN, ExitReason.POWEROFF),
        (abi.KVM_SYSTEM_EVENT_CRASH, ExitReason.CRASH),
    ],
)
def test_system_event_ends_the_run(rig: Rig, event: int, reason: ExitReason) -> None:
    assert rig.run(fake_vcpu.system_event(event)).reason is reason


CRASHES = {
    "triple fault": plain(abi.KVM_EXIT_SHUTDOWN),
    "emulation failure": fake_vcpu.internal_error(1),
    "simultaneous exceptions": fake_vcpu.internal_error(2),
    "event delivery failure": fake_vcpu.internal_error(3),
    "unexpected hardware exit": fake_vcpu.internal_error(4),
    "KVM internal error 99": fake_vcpu.internal_error(99),
    "reason 0x80000021 on host CPU 5": fake_vcpu.fail_entry(0x8000_0021, 5),
    "halt (KVM exit 5)": plain(abi.KVM_EXIT_HLT),
    "unknown hardware exit (KVM exit 0)": plain(abi.KVM_EXIT_UNKNOWN),
    "unexpected exit (KVM exit 77)": plain(77),
}


@pytest.mark.parametrize(("what", "exit_"), CRASHES.items(), ids=CRASHES)
def test_other_exit_is_a_crash_that_is_named(rig: Rig, what: str, exit_: Exit) -> None:
    end = rig.run(exit_)
    assert end.reason is ExitReason.CRASH
    assert f"{what} at RIP 0x1000, instruction bytes not mapped" in end.detail


def test_crash_shows_the_bytes_at_rip(rig: Rig) -> None:
    rig.vcpu.rip, rig.vcpu.pages = 0xFFFF_8000_0000_0010, {0xFFFF_8000_0000_0000: 0}
    rig.memory.write(0x10, b"\x0f\x0b" + bytes(13) + b"\xcc")
    end = rig.run(plain(abi.KVM_EXIT_SHUTDOWN))
    assert end.detail == (
        "triple fault at RIP 0xffff800000000010, instruction bytes 0f 0b" + " 00" * 13
    )


def test_crash_shows_no_bytes_of_the_next_page(rig: Rig) -> None:
    rig.vcpu.rip, rig.vcpu.pages = 0x5FFE, {0x5000: 0x1000}
    end = rig.run(plain(abi.KVM_EXIT_SHUTDOWN))
    assert end.detail.endswith("RIP 0x5ffe, instruction bytes 00 00")


def test_rip_outside_of_ram_shows_no_bytes(rig: Rig) -> None:
    rig.vcpu.pages = {0x1000: 0x9000_0000}
    assert rig.run(plain(abi.KVM_EXIT_SHUTDOWN)).detail.endswith("not mapped")


def test_emulation_failure_shows_the_bytes_that_kvm_fetched(rig: Rig) -> None:
    words = struct.pack("<QB15s", 1, 3, b"\x0f\xae\xf8" + b"\xcc" * 12)
    end = rig.run(fake_vcpu.internal_error(1, words))
    assert end.detail.endswith("RIP 0x1000, instruction bytes 0f ae f8")


def test_emulation_failure_without_the_flag_has_no_bytes_from_kvm(rig: Rig) -> None:
    words = struct.pack("<QB15s", 0, 3, b"\x0f\xae\xf8" + b"\xcc" * 12)
    end = rig.run(fake_vcpu.internal_error(1, words))
    assert end.detail.endswith("not mapped")


def test_vcpu_that_kvm_has_reset_has_no_rip(rig: Rig) -> None:
    rig.vcpu.rip = 0xFFF0
    end = rig.run(plain(abi.KVM_EXIT_SHUTDOWN))
    assert end.detail == "triple fault at an unknown RIP (KVM has reset the vCPU)"


def test_triple_fault_of_which_firmware_was_told_is_a_reset(rig: Rig) -> None:
    for _, address, data in firmware(1, [], ()):
        if address + len(data) <= 0x4000:
            rig.memory.write(address, data)
    assert rig.run(plain(abi.KVM_EXIT_SHUTDOWN)).reason is ExitReason.CRASH
    rig.control.rearm()
    rig.memory.write(0x472, bytes(2))
    assert rig.run(plain(abi.KVM_EXIT_SHUTDOWN)).reason is ExitReason.RESET


def test_registers_that_cannot_be_read_are_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KvmError(errno.EIO, "KVM_GET_REGS failed")

    monkeypatch.setattr(rig.vcpu, "get_regs", fail)
    end = rig.run(plain(abi.KVM_EXIT_SHUTDOWN))
    assert "an unknown RIP ([Errno 5] KVM_GET_REGS failed)" in end.detail


# Errors, and whose they are


def blame(rig: Rig, kind: type[Exception], *script: Exit) -> str:
    with pytest.raises(kind) as caught:
        rig.run(*script)
    return rig.loop.blame(caught.value)


def test_device_that_raises_at_a_port_is_blamed(rig: Rig) -> None:
    rig.plug(Locked(Broken()))
    blamed = blame(rig, ValueError, io(PORT + 2, 2, is_write=True))
    assert blamed == (
        "device Broken raised ValueError: out of paper during a 2-byte write to "
        "port 0x502"
    )


def test_device_that_raises_at_an_address_is_blamed(rig: Rig) -> None:
    rig.plug(Locked(Broken()))
    blamed = blame(rig, KeyError, mmio(ADDRESS + 4, 4))
    assert blamed == (
        "device Broken raised KeyError: 'no such page' during a 4-byte read of "
        "address 0xfe000004"
    )


def test_device_that_raises_when_it_was_unplugged_is_told_as_such(rig: Rig) -> None:
    class Leaving(DeviceIo):
        def pio_write(self, base: int, offset: int, data: memoryview) -> None:
            rig.bus.unregister_device_io([PioAddressRange(PORT, 8)])
            raise ValueError("out of paper")

    rig.bus.register_device_io(Leaving(), [PioAddressRange(PORT, 8)])
    assert blame(rig, ValueError, io(PORT, 1, is_write=True)) == (
        "an unplugged device raised ValueError: out of paper "
        "during a 1-byte write to port 0x500"
    )


def test_kvms_own_failure_is_nobodys(rig: Rig, device: Recorder) -> None:
    failure = fake_vcpu.fails(OSError(errno.EFAULT, "Bad address"))
    blamed = blame(rig, KvmError, io(PORT, 1), failure)
    assert blamed == "KvmError: [Errno 14] KVM_RUN failed: Bad address"


def test_nobody_signals_the_thread_after_an_error(rig: Rig) -> None:
    rig.plug(Locked(Broken()))
    blame(rig, ValueError, io(PORT, 1, is_write=True))
    assert rig.control._running == {}


def test_vcpu_closes_although_a_traceback_holds_its_data(rig: Rig) -> None:
    rig.plug(Locked(Broken()))
    fd = rig.vcpu.fd
    with pytest.raises(ValueError, match="out of paper") as caught:
        rig.run(io(PORT, 1, is_write=True))
    rig.vcpu.close()
    assert rig.vcpu.fd == -1
    assert caught.value.__traceback__ is not None
    assert fd not in open_fds()
    del caught
    gc.collect()  # or the mapping would go in the middle of another test


# The boundary at which it stops


def test_the_access_before_the_end_is_completed(rig: Rig, device: Recorder) -> None:
    """A store of 8 bytes over the end of a page: KVM asks for them one by one."""
    rig.unfinished = 3

    def stop(run: memoryview) -> None:
        mmio(ADDRESS, 1, data=b"A", is_write=True)(run)
        rig.control.finish(PAUSE)

    end = rig.run(
        stop,
        mmio(ADDRESS + 1, 1, data=b"B", is_write=True),
        mmio(ADDRESS + 2, 1, data=b"C", is_write=True),
        io(PORT, 1),  # the next instruction
    )
    assert end is PAUSE
    assert device.accesses == [
        ("store", ADDRESS, b"A"),
        ("store", ADDRESS + 1, b"B"),
        ("store", ADDRESS + 2, b"C"),
    ]


def test_a_reset_that_completing_brings_comes_before_the_pause(rig: Rig) -> None:
    rig.unfinished = 2

    def stop(run: memoryview) -> None:
        io(PORT, 1)(run)
        rig.control._halt(PAUSE)

    assert rig.run(stop, plain(abi.KVM_EXIT_SHUTDOWN)).reason is ExitReason.CRASH


# RunControl


Kicks = list[tuple[int, int]]


@pytest.fixture
def kicks(monkeypatch: pytest.MonkeyPatch) -> Kicks:
    kicks: Kicks = []
    monkeypatch.setattr(
        "signal.pthread_kill", lambda thread, number: kicks.append((thread, number))
    )
    return kicks


def test_first_end_wins() -> None:
    control = RunControl()
    control.finish(End(ExitReason.CRASH, "first"))
    control.finish(End(ExitReason.STOPPED, "second"))
    assert control.end == End(ExitReason.CRASH, "first")


def test_every_end_kicks_every_vcpu_that_runs(kicks: Kicks, rig: Rig) -> None:
    rig.control.enter(rig.vcpu)
    rig.control.finish(End(ExitReason.STOPPED))
    assert rig.vcpu.kvm_run[abi.KVM_RUN_IMMEDIATE_EXIT] == 1
    assert kicks == [(threading.get_ident(), KICK_SIGNAL)]


def test_vcpu_that_has_left_is_not_kicked(kicks: Kicks, rig: Rig) -> None:
    rig.control.enter(rig.vcpu)
    rig.control.leave(rig.vcpu)
    rig.control.finish(End(ExitReason.STOPPED))
    assert kicks == []


def test_rearming_takes_a_reset_back() -> None:
    control = RunControl()
    control.finish(End(ExitReason.RESET))
    control.rearm()
    assert control.end is None


@pytest.mark.parametrize("reason", [ExitReason.STOPPED, ExitReason.TIMEOUT])
def test_what_came_after_the_reset_ends_the_next_boot(reason: ExitReason) -> None:
    control = RunControl()
    control.finish(End(ExitReason.RESET))
    control.finish(End(reason))
    assert control.end == End(ExitReason.RESET)
    control.rearm()
    assert control.end == End(reason)


def test_second_reset_does_not_end_the_next_boot() -> None:
    control = RunControl()
    control.finish(End(ExitReason.RESET))
    control.finish(End(ExitReason.RESET))
    control.rearm()
    assert control.end is None


@pytest.mark.parametrize(
    "reason", [ExitReason.CRASH, ExitReason.PANIC, ExitReason.HANG]
)
def test_what_befell_the_boot_before_does_not_end_the_next(reason: ExitReason) -> None:
    control = RunControl()
    control.finish(End(ExitReason.RESET))
    control.finish(End(reason))
    control.rearm()
    assert control.end is None


def test_watcher_of_an_earlier_turn_comes_too_late() -> None:
    control = RunControl()
    turn = control.turn
    control.finish(End(ExitReason.RESET))
    control.rearm()
    control.finish(End(ExitReason.PANIC), turn)
    assert control.end is None
    control.finish(End(ExitReason.PANIC), control.turn)
    assert control.end == End(ExitReason.PANIC)


def test_vcpu_that_goes_on_after_a_kick_may_enter_again(rig: Rig) -> None:
    rig.run(plain(abi.KVM_EXIT_SHUTDOWN))
    rig.control.rearm()
    rig.control.enter(rig.vcpu)
    assert rig.vcpu.kvm_run[abi.KVM_RUN_IMMEDIATE_EXIT] == 0


def test_vcpu_that_enters_after_the_end_leaves_at_once(rig: Rig) -> None:
    rig.control.finish(End(ExitReason.STOPPED))
    rig.control.enter(rig.vcpu)
    assert rig.vcpu.kvm_run[abi.KVM_RUN_IMMEDIATE_EXIT] == 1


# Who waits until nobody is in an access


EINTR = fake_vcpu.fails(InterruptedError(errno.EINTR, "Interrupted system call"))


class Asking(DeviceIo):
    """Wants to know, in an access, when that is over."""

    def __init__(self, control: RunControl) -> None:
        self.control = control
        self.told: list[str] = []

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.control.after_accesses(lambda: self.told.append("over"))
        assert self.told == []


def test_where_no_vcpu_runs_no_access_is_waited_for() -> None:
    told: list[str] = []
    RunControl().after_accesses(lambda: told.append("over"))
    assert told == ["over"]


def test_an_access_is_over_when_its_vcpu_is_at_the_top_of_its_loop(
    kicks: Kicks, rig: Rig
) -> None:
    device = Asking(rig.control)
    rig.plug(device)

    def the_rest_of_it(run: memoryview) -> None:
        assert device.told == []
        assert run[abi.KVM_RUN_IMMEDIATE_EXIT] == 1
        io(0x80, 1)(run)

    def and_the_next(run: memoryview) -> None:
        assert device.told == ["over"]
        assert run[abi.KVM_RUN_IMMEDIATE_EXIT] == 0  # it goes on
        io(0x80, 1)(run)

    rig.unfinished = 2
    rig.run(io(PORT, 1, is_write=True), the_rest_of_it, and_the_next)
    assert kicks[0] == (threading.get_ident(), KICK_SIGNAL)
    assert device.told == ["over"]


def test_a_vcpu_that_has_left_is_in_no_access(rig: Rig) -> None:
    device = Asking(rig.control)
    rig.plug(device)

    def never(run: memoryview) -> None:
        raise OSError(errno.EFAULT, "Bad address")

    rig.unfinished = 2
    with pytest.raises(KvmError):
        rig.run(io(PORT, 1, is_write=True), never)
    assert device.told == ["over"]


def test_every_vcpu_is_waited_for(rig: Rig) -> None:
    told: list[str] = []
    other = FakeVcpu()
    for vcpu in rig.vcpu, other:
        rig.control.enter(vcpu)
    rig.control.after_accesses(lambda: told.append("over"))
    rig.control.passed(rig.vcpu)
    rig.control.passed(rig.vcpu)
    assert told == []
    rig.control.leave(other)
    assert told == ["over"]
    rig.control.leave(rig.vcpu)
    other.close()


def test_a_stop_is_not_lost_by_passing(rig: Rig) -> None:
    rig.control.enter(rig.vcpu)
    rig.control.after_accesses(lambda: None)
    rig.control.finish(End(ExitReason.STOPPED))
    rig.control.passed(rig.vcpu)
    assert rig.vcpu.kvm_run[abi.KVM_RUN_IMMEDIATE_EXIT] == 1
    rig.control.leave(rig.vcpu)


# A look


def test_look_stops_the_guest_until_it_may_go_on(rig: Rig) -> None:
    rig.control.look(rig.control.turn)
    assert rig.run(plain(abi.KVM_EXIT_SHUTDOWN)) is LOOK
    assert rig.control.go_on()
    assert rig.control.end is None
    assert rig.run(plain(abi.KVM_EXIT_SHUTDOWN)).reason is ExitReason.CRASH


@pytest.mark.parametrize("reason", ExitReason)
def test_every_end_comes_before_a_look(reason: ExitReason) -> None:
    control = RunControl()
    control.look(control.turn)
    control.finish(End(reason))
    assert control.end == End(reason)
    assert not control.go_on()
    control.look(control.turn)
    assert control.end == End(reason)


def test_look_at_an_earlier_turn_comes_too_late() -> None:
    control = RunControl()
    control.finish(End(ExitReason.RESET))
    control.rearm()
    control.look(control.turn - 1)
    assert control.end is None


# What stops a vCPU in the end: the signal


def test_kick_does_no_harm_once_its_handler_is_installed() -> None:
    install_kick_handler()
    signal.raise_signal(KICK_SIGNAL)


def test_handler_that_is_there_already_stays() -> None:
    install_kick_handler()
    install_kick_handler()
    signal.raise_signal(KICK_SIGNAL)


# Quirks


def test_exit_that_a_quirk_handles_does_not_end_the_run(rig: Rig) -> None:
    rig.rescued = [abi.KVM_EXIT_DEBUG]
    end = rig.run(plain(abi.KVM_EXIT_DEBUG), plain(abi.KVM_EXIT_DEBUG))
    assert end.reason is ExitReason.STOPPED
    assert rig.asked == [abi.KVM_EXIT_DEBUG] * 2


def test_rescue_that_kvm_refuses_is_the_guests_crash(rig: Rig) -> None:
    rig.rescue_fails = KvmError(errno.EINVAL, "KVM_SET_SREGS failed: Invalid argument")
    end = rig.run(plain(abi.KVM_EXIT_DEBUG))
    assert end.reason is ExitReason.CRASH
    assert end.detail.endswith(", and KVM_SET_SREGS failed: Invalid argument")


def test_rescue_that_fails_otherwise_is_our_error(rig: Rig) -> None:
    rig.rescue_fails = KvmError(errno.EIO, "KVM_SET_SREGS failed")
    with pytest.raises(KvmError, match="KVM_SET_SREGS failed"):
        rig.run(plain(abi.KVM_EXIT_DEBUG))


def test_exit_that_no_quirk_handles_is_a_crash(rig: Rig) -> None:
    assert rig.run(plain(abi.KVM_EXIT_SHUTDOWN)).reason is ExitReason.CRASH
    assert rig.asked == [abi.KVM_EXIT_SHUTDOWN]


def test_quirks_are_not_asked_about_accesses(rig: Rig) -> None:
    rig.run(io(PORT, 1), mmio(ADDRESS, 4), plain(abi.KVM_EXIT_INTR))
    assert rig.asked == []
