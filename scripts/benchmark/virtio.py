"""Measure `virtio`: what a notification, a request and a stream cost.

Bare guests ring a doorbell and wait for its answer, at the C limit and here. In Linux a
program waits for each 64 bytes of an entropy device's, and writes to its consoles.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from subprocess import SubprocessError
from typing import TYPE_CHECKING, ClassVar, Final

from vmm.config import MachineConfig
from vmm.devices import (
    DeviceIo,
    Doorbell,
    LegacyIrqConstraint,
    MmioAddressConstraint,
)
from vmm.devices.virtio.device import VirtioDevice
from vmm.errors import VmmError
from vmm.eventfd import EventFd
from vmm.machine.machine import Machine
from vmm.vcpu.entry import VARIABLE

from .children import Command, NotMeasured, read_until, run, started, wait_for
from .exits import access_ns, guest_tsc_khz
from .peers import Guest, peer_command
from .rounds import Job, Sample
from .tools import ROOT, virtio_loop
from .variants import BARE, command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from scripts.with_kvm.host_kvm import Kind
    from vmm.devices import GuestRam, ResourceConstraint
    from vmm.devices.virtio.queue import Virtqueue
    from vmm.event_loop import EventLoop

C: Final = "c"
OURS: Final = "vmm"
QEMU: Final = "qemu"
BARE_MEASURES: Final = {
    "doorbell": "a write that rings a doorbell, of many: no exit to us",
    "ping": "a ring, and the interrupt that answers it, of a guest that sleeps",
}
READ: Final = "virtio-read"
STREAM: Final = "console-write"
EXIT: Final = "busy-exit"
MEASURES: Final = BARE_MEASURES | {
    EXIT: "a read of LSR, by the run loop in C or Python, beside a device at work",
    READ: "Linux: a read of 64 bytes from a virtio device, each a round trip",
    STREAM: "Linux: bytes to a console whose host takes all, 4 KiB a write",
}
READS: Final = 5000
READ_SIZE: Final = 64  # what Linux's driver asks for at once
QEMU_RNG: Final = (
    *("-object", "rng-builtin,id=host"),
    *("-device", "virtio-rng-device,rng=host"),
)
STREAM_SIZES: Final = {"hvc0": 16 << 20, "ttyS0": 1 << 18}
DEADLINE_S: Final = 300.0
BUILD: Final = ROOT / "guest/build"
CMDLINE: Final = "console=ttyS0 reboot=k panic=-1 quiet guest.shell"
PROMPT: Final = b"# "
BESIDE: Final = ("alone", "thread", "process")  # where the device is at work
DOORBELL: Final = 0xE800_0000  # guest/bare/bare.h
ANSWER_IRQ: Final = 5
_TOOK: Final = re.compile(rb"real\s+(\d+)m ([0-9.]+)s")


class Answer(DeviceIo):
    """Answers each ring of its doorbell by an interrupt."""

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        place = MmioAddressConstraint.at(DOORBELL, 0x1000)
        return [place, LegacyIrqConstraint(irq=ANSWER_IRQ)]

    def get_doorbells(self) -> Sequence[Doorbell]:
        return [Doorbell(base=DOORBELL, size=2, on_ring=self._ring)]

    def _ring(self) -> None:
        for interrupt in self.interrupts:
            interrupt.trigger()


class Zeros(VirtioDevice):
    """The entropy device that has least to do."""

    device_type = 4
    queue_sizes = (64,)

    def handle(self, queue: Virtqueue) -> None:
        for chain in queue:
            chain.write(bytes(chain.writable_size))
            queue.push(chain)


class ZerosByThread(Zeros):
    """Likewise, on a thread of its own."""

    own_thread = True


class _Loop(ctypes.Structure):
    """virtio_loop.c's `struct loop`."""

    _fields_: ClassVar = [
        ("ram", ctypes.c_void_p),
        ("desc", ctypes.c_uint64),
        ("driver", ctypes.c_uint64),
        ("device", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("kick", ctypes.c_int),
        ("call", ctypes.c_int),
        ("stop", ctypes.c_int),
        ("next", ctypes.c_uint16),
    ]


class ZerosInC(Zeros):
    """What it would be in C: a thread that knows the eventfds, and no more of us.

    To the machine it is what a VhostUserDevice is, with nobody at the other end.

    Raises NotMeasured where there is no compiler.
    """

    is_elsewhere = True

    def __init__(self) -> None:
        super().__init__()
        self._ram: GuestRam | None = None
        self._run = ctypes.CDLL(str(virtio_loop())).virtio_loop
        self._kick, self._call, self._stop = EventFd(), EventFd(), EventFd()
        self._thread: threading.Thread | None = None

    def join(self, memory: GuestRam, _: EventLoop) -> None:
        """Be of a machine."""
        self._ram = memory

    def hold(self) -> None:
        """It is never paused."""

    def go_on(self) -> None:
        """Nor does it go on."""

    def close(self) -> None:
        """End it with the machine."""
        self.reset()
        for event in self._kick, self._call, self._stop:
            event.close()

    @property
    def fd(self) -> int:
        """Of the eventfd that it interrupts by: it is a Signal."""
        return self._call.fd

    def relay(self, is_wanted: bool, /) -> None:
        """Nobody does: what it says while it is masked is heard when it isn't."""

    def kick_fd(self, queue: Virtqueue) -> int:
        return self._kick.fd

    def call_signal(self, queue: Virtqueue) -> ZerosInC:
        return self

    def activate(self) -> None:
        assert self._ram is not None
        (queue,) = self.queues
        start = ctypes.c_char.from_buffer(self._ram.view(0, 1))
        loop = _Loop(
            ram=ctypes.addressof(start),
            desc=queue.desc,
            driver=queue.driver,
            device=queue.device,
            size=queue.size,
            kick=self._kick.fd,
            call=self._call.fd,
            stop=self._stop.fd,
        )
        work = partial(self._run, ctypes.byref(loop))
        self._thread = threading.Thread(target=work, name="virtio-loop")
        self._thread.start()

    def handle(self, queue: Virtqueue) -> None:
        """A kick that came by an exit."""
        self._kick.signal()

    def reset(self) -> None:
        if self._thread is not None:
            self._stop.signal()
            self._thread.join()
            self._stop.drain()
            self._thread = None


def jobs(kind: Kind) -> list[Job]:
    """Return the runs of one round."""
    tsc_khz = guest_tsc_khz()
    bare = [
        Job(measure, variant, partial(work, measure, tsc_khz))
        for measure in BARE_MEASURES
        for variant, work in ((C, _bare_in_c), (OURS, _bare))
    ]
    transports = ("pci", "mmio") if kind == "pvm" else ("mmio",)
    ways = [(transport, transport, Zeros) for transport in transports]
    if kind == "pvm":
        ways += [("pci-thread", "pci", ZerosByThread), (C, "pci", ZerosInC)]
    reads = [
        Job(READ, name, partial(_read, kind, transport, device))
        for name, transport, device in ways
    ]
    reads.append(Job(READ, QEMU, partial(_read_in_qemu, kind)))
    streams = [Job(STREAM, name, partial(_write, kind, name)) for name in STREAM_SIZES]
    exits = [
        Job(EXIT, f"{loop}-{beside}", partial(_exit, loop, beside, tsc_khz))
        for loop in ("compiled", "python")
        for beside in BESIDE
    ]
    return bare + exits + reads + streams


def needed(kind: Kind) -> tuple[str, ...]:
    """Return which guests of scripts/build-guest that takes."""
    return "full-ring3" if kind == "pvm" else "full", "busybox"


def linux(kind: Kind) -> Guest:
    """Return what is booted: our Linux with virtio, on PVM the one in ring 3."""
    kernel = BUILD / ("vmlinux-full-ring3" if kind == "pvm" else "vmlinux-full")
    return Guest(kernel, 128, BUILD / "initramfs-busybox.cpio", CMDLINE)


def _read_dd() -> str:
    return f"dd if=/dev/hwrng of=/dev/null bs={READ_SIZE} count={READS}"


def _bare_in_c(measure: str, tsc_khz: int, folder: Path) -> list[Sample]:
    guest = Guest(BARE / f"bench-{measure}.elf")
    return _bare_sample(
        measure, run(command(C, guest, folder), folder, DEADLINE_S), tsc_khz
    )


def _bare(measure: str, tsc_khz: int, _: Path) -> list[Sample]:
    kernel = BARE / f"bench-{measure}.elf"
    config = MachineConfig(kernel=kernel, boot_protocol="linux64", serial="capture")
    with _failing(), Machine(config) as machine:
        machine.plug(Answer())
        machine.start()
        machine.wait(DEADLINE_S)
        return _bare_sample(measure, machine.console.transcript, tsc_khz)


def _exit(loop: str, beside: str, tsc_khz: int, _: Path) -> list[Sample]:
    """A device that computes without end, in a thread of this process or elsewhere."""
    config = MachineConfig(kernel=BARE / "bench-lsr-read.elf", serial="capture")
    os.environ[VARIABLE] = loop
    try:
        with _failing(), _at_work(beside), Machine(config) as machine:
            machine.start()
            machine.wait(DEADLINE_S)
            return _bare_sample(EXIT, machine.console.transcript, tsc_khz)
    finally:
        del os.environ[VARIABLE]


@contextmanager
def _at_work(beside: str) -> Iterator[None]:
    if beside == "process":
        argv = [sys.executable, "-c", "while True: pass"]
        with subprocess.Popen(argv) as process:
            try:
                yield
            finally:
                process.kill()
    elif beside == "thread":
        ended = threading.Event()
        thread = threading.Thread(target=_compute, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
    else:
        yield


def _compute(ended: threading.Event) -> None:
    while not ended.is_set():
        pass


def _bare_sample(measure: str, output: bytes, tsc_khz: int) -> list[Sample]:
    value = access_ns(output, tsc_khz)
    if value is None:
        raise NotMeasured("the guest has told no result")
    return [Sample(measure, value / 1000, "us")]


@contextmanager
def _failing() -> Iterator[None]:
    """Have what fails not measured."""
    try:
        yield
    except (VmmError, TimeoutError, SubprocessError) as error:
        raise NotMeasured(str(error).splitlines()[0]) from None


@contextmanager
def _booted(
    kind: Kind, device: VirtioDevice | None, **settings: object
) -> Iterator[Machine]:
    guest = linux(kind)
    config = MachineConfig(
        kernel=guest.kernel,
        initrd=guest.initrd,
        cmdline=guest.cmdline,
        memory=f"{guest.memory_mib}M",
        serial="capture",
        agent=True,
        **settings,  # type: ignore[arg-type]
    )
    with _failing(), Machine(config) as machine:
        if device is not None:
            machine.plug(device)
        machine.start()
        machine.guest.wait_ready(DEADLINE_S)
        yield machine


def _read(
    kind: Kind, transport: str, device: type[VirtioDevice], _: Path
) -> list[Sample]:
    with _booted(kind, device(), transport=transport) as machine:
        return [_read_sample(_timed(machine, _read_dd()))]


def _read_sample(output: bytes) -> Sample:
    return Sample(READ, _seconds(output) / READS * 1e6, "us")


def _timed(machine: Machine, command: str) -> bytes:
    """Return what the guest's shell says of how long it took."""
    timed = ["sh", "-c", f"time {command}"]
    done = machine.guest.run(timed, check=True, timeout=DEADLINE_S)
    return bytes(done.stderr)


def _seconds(output: bytes) -> float:
    found = _TOOK.search(output)
    if found is None:
        raise NotMeasured("the guest's shell hasn't told how long it took")
    return 60 * int(found[1]) + float(found[2])


def _write(kind: Kind, console: str, _: Path) -> list[Sample]:
    size = STREAM_SIZES[console]
    how = "virtio" if console == "hvc0" else "serial"
    with _booted(kind, None, console_device=how) as machine:
        dd = f"dd if=/dev/zero of=/dev/{console} bs=4096 count={size // 4096}"
        return [Sample(STREAM, size / _seconds(_timed(machine, dd)) / 1e6, "MB/s")]


def _read_in_qemu(kind: Kind, folder: Path) -> list[Sample]:
    """Its microvm has virtio by MMIO, and tells the kernel where, if it may."""
    argv = [
        word.replace("auto-kernel-cmdline=off", "auto-kernel-cmdline=on")
        for word in peer_command(QEMU, linux(kind), folder).argv
    ]
    how = Command([*argv, *QEMU_RNG], {})
    with started(how, folder, subprocess.PIPE, subprocess.PIPE) as process:
        assert process.stdin is not None
        wait_for(process, PROMPT, folder, DEADLINE_S)
        process.stdin.write(f"time {_read_dd()}\n".encode())
        process.stdin.flush()
        return [_read_sample(read_until(process, b"real", folder, DEADLINE_S))]
