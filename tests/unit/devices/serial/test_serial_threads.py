"""Serial between a vCPU's thread and the host's: no byte and no edge is lost."""

import random
import threading

from support.serial_rig import LinuxDriver

from vmm.devices.clock import VirtualClock
from vmm.devices.errors import FullFifo
from vmm.devices.serial.events import SerialEvents
from vmm.devices.serial.uart import Serial
from vmm.devices.sink import BufferedSink

PATIENCE = 30  # seconds without a wake-up: one was lost


class Bell(SerialEvents):
    """A wake-up that stays until it is heard, as an eventfd's."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        self._event.set()

    trigger = ring
    in_buffer_empty = ring

    def wait(self) -> None:
        assert self._event.wait(PATIENCE), "a wake-up was lost"
        self._event.clear()


def test_interrupt_driven_output_to_a_slow_reader_loses_nothing() -> None:
    data = random.Random(1).randbytes(32 << 10)
    irq, readable = Bell(), Bell()
    sink = BufferedSink(capacity=100, on_data=readable.ring)
    driver = LinuxDriver(Serial(irq, sink, clock=VirtualClock()))
    read = bytearray()

    def reader() -> None:
        sizes = random.Random(2)
        while len(read) < len(data):
            readable.wait()
            while chunk := sink.peek(sizes.randrange(1, 60)):
                read.extend(chunk)
                sink.consume(len(chunk))

    thread = threading.Thread(target=reader)
    thread.start()
    driver.start_tx(data)
    while driver.xmit:
        irq.wait()
        driver.interrupt()
    thread.join(PATIENCE)
    assert bytes(read) == data


def test_interrupt_driven_input_from_an_eager_host_loses_nothing() -> None:
    # Loads of at least the driver's trigger level, so that no timeout is needed.
    data = random.Random(3).randbytes(32 << 10)
    irq, drained = Bell(), Bell()
    serial = Serial(irq, BufferedSink(), clock=VirtualClock(), events=drained)
    driver = LinuxDriver(serial)

    def host() -> None:
        at = 0
        while at < len(data):
            try:
                at += serial.enqueue_raw_bytes(data[at : at + 64])
            except FullFifo:
                drained.wait()

    thread = threading.Thread(target=host)
    thread.start()
    while len(driver.received) < len(data) - 7:
        irq.wait()
        driver.interrupt()
    thread.join(PATIENCE)
    driver.receive()
    assert bytes(driver.received) == data
