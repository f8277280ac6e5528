"""What never reaches Python: fast ports served in C, writes that KVM collects."""

import errno
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from support.fake_vcpu import DATA, FakeVcpu, io
from support.scripted_entry import ScriptedCompiledEntry, scripted_entry

from vmm.devices.buffered_sink import BufferedSink
from vmm.devices.bus.io_manager import IoManager
from vmm.devices.clock import VirtualClock
from vmm.devices.device_io import DeviceIo
from vmm.devices.fast_port import ANSWERS, HEADER_SIZE, RING_SIZE, FastPort
from vmm.devices.pc.platform import COM1, SerialPio
from vmm.devices.resources import PioAddressRange
from vmm.devices.serial import Serial
from vmm.devices.serial.reg import UART_LSR, UART_TX
from vmm.devices.trigger import InterruptLine
from vmm.kvm._libc import install_kick_handler
from vmm.kvm.coalesced import ENTRIES
from vmm.memory import GuestMemory, Range
from vmm.result import ExitReason
from vmm.vcpu._run_loop import ffi, lib
from vmm.vcpu.control import End, RunControl
from vmm.vcpu.run_loop import RunLoop

RING_PAGE = 2
PORT = 0x500


class Device(DeviceIo):
    """A fast port; counts what reaches it all the same."""

    def __init__(self, port: int = PORT) -> None:
        self.fast = FastPort(posted=True)
        self.port = port
        self.reads: list[int] = []
        self.writes: list[bytes] = []

    def get_fast_ports(self) -> dict[int, FastPort]:
        return {self.port: self.fast}

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        self.reads.append(len(data))
        data[:] = bytes(len(data))

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.writes.append(bytes(data))


class Guest:
    """A run loop of either kind, and a guest that is a list of functions.

    Each fills in kvm_run; what KVM would read there afterwards is in `answers`.
    """

    def __init__(self, kind: str, bus: IoManager) -> None:
        self.vcpu = FakeVcpu()
        self.vcpu.take_posted(RING_PAGE)
        self.memory = GuestMemory([Range(0, 0x4000)])
        self.control = RunControl()
        self.answers = bytearray()
        self._steps: Iterator[Callable[[memoryview], None]] = iter(())
        self.entry = scripted_entry(kind, self.vcpu, bus, self._run_vcpu)
        self.loop = RunLoop(self.vcpu, self.memory, bus, self.control, entry=self.entry)

    def _run_vcpu(self) -> None:
        run = self.vcpu.kvm_run
        self.answers.append(run[DATA])
        step = next(self._steps, None)
        if step is None:
            self.control.finish(End(ExitReason.STOPPED))
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        step(run)

    def run(self, *steps: Callable[[memoryview], None]) -> None:
        self._steps = iter(steps)
        self.loop.run()

    def close(self) -> None:
        self.vcpu.close()
        self.memory.close()


def posted(port: int, *values: int) -> Callable[[memoryview], None]:
    """KVM has collected one-byte writes, and comes out for nothing else."""

    def fill(run: memoryview) -> None:
        post(run, port, *values)
        raise InterruptedError(errno.EINTR, "Interrupted system call")

    return fill


def post(run: memoryview, port: int, *values: int) -> None:
    page = run[RING_PAGE * 4096 :]
    ends = page[:8].cast("I")
    for value in values:
        struct.pack_into("<QIIB", page, 8 + 24 * ends[1], port, 1, 1, value)
        ends[1] = (ends[1] + 1) % ENTRIES


@pytest.fixture(autouse=True)
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is kicked; the loop's own ticks do no harm."""
    install_kick_handler()
    monkeypatch.setattr("signal.pthread_kill", lambda thread, number: None)


@pytest.fixture
def bus() -> IoManager:
    return IoManager()


@pytest.fixture
def device(bus: IoManager) -> Device:
    device = Device()
    bus.register_device_io(device, [PioAddressRange(PORT, 1)])
    return device


@pytest.fixture
def compiled(bus: IoManager, device: Device) -> Iterator[Guest]:
    guest = Guest("compiled", bus)
    yield guest
    guest.close()


@pytest.fixture(params=["python", "compiled"])
def guest(
    bus: IoManager, device: Device, request: pytest.FixtureRequest
) -> Iterator[Guest]:
    guest = Guest(request.param, bus)
    yield guest
    guest.close()


def test_c_and_python_agree_about_a_fast_port() -> None:
    assert ffi.sizeof("struct fast_port") == HEADER_SIZE + RING_SIZE
    assert (lib.RING_SIZE, lib.ANSWERS) == (RING_SIZE, ANSWERS)


# Served in C


def test_answer_is_read_without_the_device(compiled: Guest, device: Device) -> None:
    device.fast.answer(0x5A)
    compiled.run(io(PORT, 1), io(PORT, 1))
    assert compiled.answers[1:] == b"\x5a\x5a"
    assert device.reads == []
    assert compiled.loop.exits["io"] == compiled.loop.exits["fast"] == 2


def test_accepted_byte_is_written_without_the_device(
    compiled: Guest, device: Device
) -> None:
    device.fast.accept(2)
    compiled.run(*(io(PORT, 1, data=bytes([at]), is_write=True) for at in range(3)))
    assert device.fast.take() == b"\0\1"
    assert device.writes == [b"\2"]


@pytest.mark.parametrize(("size", "count"), [(2, 1), (4, 1), (1, 2)])
def test_only_single_bytes_are_served(
    compiled: Guest, device: Device, size: int, count: int
) -> None:
    device.fast.answer(1)
    compiled.run(io(PORT, size, count=count))
    assert compiled.loop.exits["fast"] == 0


def test_device_is_served_from_the_moment_it_is_plugged_in(
    compiled: Guest, bus: IoManager
) -> None:
    late = Device(PORT + 1)
    late.fast.answer(7)

    def plug(run: memoryview) -> None:
        bus.register_device_io(late, [PioAddressRange(PORT + 1, 1)])
        io(PORT + 1, 1)(run)

    compiled.run(io(PORT, 1), plug, io(PORT + 1, 1))
    assert len(late.reads) == 1  # the table was old then
    assert compiled.answers[-1] == 7


def test_unplugged_device_is_not_served(
    compiled: Guest, bus: IoManager, device: Device
) -> None:
    device.fast.answer(7)

    def unplug(run: memoryview) -> None:
        bus.unregister_device_io([PioAddressRange(PORT, 1)])
        io(PORT, 1)(run)

    compiled.run(io(PORT, 1), unplug, io(PORT, 1))
    assert compiled.answers[1:] == b"\x07\xff\xff"


def test_fast_ports_beyond_the_limit_exit(compiled: Guest, bus: IoManager) -> None:
    ports = range(0x600, 0x600 + lib.FAST_PORTS_MAX + 2)
    devices = [Device(port) for port in ports]
    for device in devices:
        device.fast.answer(9)
        bus.register_device_io(device, [PioAddressRange(device.port, 1)])
    compiled.run(*(io(port, 1) for port in ports))
    assert sum(device.fast.in_use for device in devices) < len(devices)
    assert compiled.loop.exits["io"] == len(ports)


def test_error_of_kvm_run_is_told(compiled: Guest) -> None:
    def fail(run: memoryview) -> None:
        raise OSError(errno.EFAULT, "Bad address")

    with pytest.raises(OSError, match="KVM_RUN failed: Bad address") as caught:
        compiled.run(fail)
    assert caught.value.errno == errno.EFAULT


# Collected by KVM


def test_posted_writes_come_before_what_the_exit_asks_for(
    guest: Guest, device: Device
) -> None:
    def both(run: memoryview) -> None:
        post(run, PORT, 1, 2)
        io(PORT, 1, data=b"\3", is_write=True)(run)

    guest.run(both)
    assert device.writes == [b"\1", b"\2", b"\3"]
    assert guest.loop.exits["coalesced"] == 2


def test_posted_writes_are_taken_at_a_kick(guest: Guest, device: Device) -> None:
    guest.run(posted(PORT, 1, 2))
    assert device.writes == [b"\1", b"\2"]


def test_posted_writes_at_the_end_are_not_lost(guest: Guest, device: Device) -> None:
    def end(run: memoryview) -> None:
        post(run, PORT, 1)
        guest.control.finish(End(ExitReason.RESET))
        raise InterruptedError(errno.EINTR, "Interrupted system call")

    guest.run(end)
    assert device.writes == [b"\1"]


def test_posted_ring_wraps(guest: Guest, device: Device) -> None:
    rounds = [posted(PORT, *range(100))] * 5
    guest.run(*rounds)
    assert b"".join(device.writes) == bytes(range(100)) * 5


def test_posted_writes_go_into_the_ring_that_is_lent(
    compiled: Guest, device: Device
) -> None:
    device.fast.accept(2)

    def four(run: memoryview) -> None:
        post(run, PORT, *b"abcd")
        io(PORT, 1)(run)

    compiled.run(four)
    assert device.fast.take() == b"ab"
    assert device.writes == [b"c", b"d"]
    assert compiled.loop.exits["coalesced"] == 4


def test_device_that_raises_at_a_posted_write_is_blamed(
    guest: Guest, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("out of paper")

    bus = IoManager()
    broken = Device()
    monkeypatch.setattr(broken, "pio_write", fail)
    bus.register_device_io(broken, [PioAddressRange(PORT, 1)])
    guest.loop._io_manager = bus
    with pytest.raises(ValueError, match="out of paper") as caught:
        guest.run(posted(PORT, 1))
    assert guest.loop.blame(caught.value) == (
        "device Device raised ValueError: out of paper during a 1-byte write to "
        "port 0x500"
    )


def test_poke_kicks_who_has_posted_writes(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    kicked: list[int] = []
    monkeypatch.setattr("signal.pthread_kill", lambda thread, _: kicked.append(thread))
    guest.control.enter(guest.vcpu)
    guest.control.poke()
    assert kicked == []
    post(guest.vcpu.kvm_run, PORT, 1)
    guest.control.poke()
    assert len(kicked) == 1
    guest.control.leave(guest.vcpu)
    guest.control.poke()
    assert len(kicked) == 1


# The two loops are one


@dataclass
class Com1:
    """A guest with a UART, run by one kind of loop."""

    kind: str
    seed: int
    clock: VirtualClock = field(default_factory=VirtualClock)
    sent: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.edges = 0
        line = InterruptLine()
        line.connect(self)
        self.sink = BufferedSink(300)
        self.serial = Serial(line, self.sink, clock=self.clock)
        adapter = SerialPio(self.serial, line)
        bus = IoManager()
        bus.register_device_io(adapter, [PioAddressRange(COM1, 8)])
        self.guest = Guest(self.kind, bus)

    def trigger(self) -> None:
        self.edges += 1

    def set_level(self, high: bool) -> None:
        raise AssertionError("a UART on the ISA bus has edges")

    def step(self, rng: random.Random) -> Callable[[memoryview], None]:
        """One thing that guest or host does."""
        what = rng.choices(
            (self.write, self.poll, self.post, self.any_access, self.host),
            (8, 8, 3, 2, 2),
        )[0]
        return what(rng)

    def write(self, rng: random.Random) -> Callable[[memoryview], None]:
        return io(COM1 + UART_TX, 1, data=rng.randbytes(1), is_write=True)

    def poll(self, rng: random.Random) -> Callable[[memoryview], None]:
        return io(COM1 + UART_LSR, 1)

    def post(self, rng: random.Random) -> Callable[[memoryview], None]:
        values = rng.randbytes(rng.randrange(1, 40))

        def fill(run: memoryview) -> None:
            post(run, COM1, *values)
            io(COM1 + UART_LSR, 1)(run)

        return fill

    def any_access(self, rng: random.Random) -> Callable[[memoryview], None]:
        port = COM1 + rng.randrange(8)
        size = rng.choice((1, 1, 2, 4))
        count = rng.choice((1, 1, 3))
        data, is_write = rng.randbytes(12), rng.random() < 0.4
        return io(port, size, data=data, is_write=is_write, count=count)

    def host(self, rng: random.Random) -> Callable[[memoryview], None]:
        data, delta = rng.randbytes(rng.randrange(5)), rng.randrange(40_000_000)
        reads, breaks = rng.random() < 0.8, rng.random() < 0.1

        def fill(run: memoryview) -> None:
            if reads:
                self.serial.flush()
                self.sent += self.sink.peek()
                self.sink.consume(len(self.sink))
            if breaks:
                self.serial.inject_break()
            if self.serial.fifo_capacity() > len(data):
                self.serial.enqueue_raw_bytes(data)
            self.clock.advance(delta)
            raise InterruptedError(errno.EINTR, "Interrupted system call")

        return fill

    def play(self, count: int) -> dict[str, object]:
        """Run `count` random steps; all that can be told afterwards."""
        rng = random.Random(self.seed)
        self.guest.run(*(self.step(rng) for _ in range(count)))
        state = self.serial.state()
        self.sent += self.sink.peek()
        exits = self.guest.loop.exits
        self.guest.close()
        self.served = exits.pop("fast")
        del exits["intr"]  # C goes on by itself after a tick
        return {
            "answers": bytes(self.guest.answers),
            "sent": bytes(self.sent),
            "state": state,
            "edges": self.edges,
            "exits": exits,
        }


@pytest.mark.parametrize("seed", range(20))
def test_both_loops_show_the_same_guest_the_same_machine(seed: int) -> None:
    python, compiled = Com1("python", seed), Com1("compiled", seed)
    seen, expected = compiled.play(1500), python.play(1500)
    assert [what for what in expected if seen[what] != expected[what]] == []
    assert python.served == 0
    assert compiled.served > 0
    assert isinstance(compiled.guest.entry, ScriptedCompiledEntry)
