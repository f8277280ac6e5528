"""Serial as Linux's 8250 driver drives it (drivers/tty/serial/8250)."""

import pytest
from support.serial_rig import TX_LOAD, LinuxDriver, Rig

from vmm.devices.serial.reg import (
    UART_FCR,
    UART_IER,
    UART_IIR,
    UART_IIR_NO_INT,
    UART_LCR,
    UART_LSR,
    UART_MCR,
    UART_MSR,
    UART_SCR,
    UART_TX,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_autoconfig_finds_a_16550a(rig: Rig) -> None:
    """autoconfig: IER keeps 0x0f, loopback shows 0x90, IIR shows FIFOs on."""
    serial = rig.serial
    found = []
    for ier in (0x00, 0x0F):
        serial.write(UART_IER, ier)
        found.append(serial.read(UART_IER))
    serial.write(UART_IER, 0)
    mcr = serial.read(UART_MCR)
    serial.write(UART_MCR, 0x1A)
    found.append(serial.read(UART_MSR) & 0xF0)
    serial.write(UART_MCR, mcr)
    serial.write(UART_LCR, 0xBF)
    serial.write(UART_FCR, 0)  # EFR on chips that have one
    serial.write(UART_LCR, 0)
    serial.write(UART_FCR, 1)
    found.append(serial.read(UART_IIR))
    assert found == [0x00, 0x0F, 0x90, 0xC1]


def test_scratch_register_tells_it_from_an_8250(rig: Rig) -> None:
    for value in (0xA5, 0x5A):
        rig.serial.write(UART_SCR, value)
        assert rig.serial.read(UART_SCR) == value


def test_startup_thre_test_reads_02_twice(rig: Rig) -> None:
    seen = []
    for _ in range(2):
        rig.serial.write(UART_IER, 2)
        seen.append(rig.serial.read(UART_IIR))
        rig.serial.write(UART_IER, 0)
    assert seen == [0x02, 0x02]


def test_startup_does_not_find_the_txen_bug(rig: Rig) -> None:
    rig.serial.write(UART_IER, 2)
    assert rig.serial.read(UART_LSR) == 0x60
    assert not rig.serial.read(UART_IIR) & UART_IIR_NO_INT


def test_tty_write_of_a_page_needs_one_edge_per_load(rig: Rig) -> None:
    driver = LinuxDriver(rig.serial)
    data = bytes(range(256)) * 16
    driver.start_tx(data)
    driver.interrupt()
    assert rig.sink.data == data
    assert rig.trigger.edges == 1 + len(data) // TX_LOAD


def test_tty_input_needs_one_edge_per_fifo_load(rig: Rig) -> None:
    driver = LinuxDriver(rig.serial)
    for _ in range(10):
        rig.serial.enqueue_raw_bytes(bytes(range(64)))
        driver.interrupt()
    assert driver.received == bytes(range(64)) * 10
    assert rig.trigger.edges == 10


def test_single_key_arrives_by_the_timeout(rig: Rig) -> None:
    driver = LinuxDriver(rig.serial)
    rig.serial.enqueue_raw_bytes(b"k")
    assert rig.trigger.edges == 0
    rig.clock.advance(5_000_000)
    assert rig.trigger.edges == 1
    driver.interrupt()
    assert driver.received == b"k"


def test_tty_loses_nothing_to_a_reader_that_pauses() -> None:
    rig = Rig(room=0)
    driver = LinuxDriver(rig.serial)
    data = bytes(range(256)) * 8
    driver.start_tx(data)
    edges = 0
    while rig.trigger.edges > edges:
        edges = rig.trigger.edges
        driver.interrupt()
        rig.sink.make_room(7)
        rig.sink.make_room(100)
    assert rig.sink.data == data
    assert rig.metrics.tx_lost_bytes == 0


def test_printk_writes_regardless_and_loses_only_what_does_not_fit() -> None:
    rig = Rig(room=10)
    rig.serial.write(UART_FCR, 0x01)
    for byte in bytes(100):
        rig.serial.write(UART_TX, byte)
    rig.sink.make_room(1000)
    assert len(rig.sink.data) == 10 + 64
    assert rig.metrics.tx_lost_bytes == 26


def test_typing_before_the_port_is_opened_is_flushed_as_on_hardware(rig: Rig) -> None:
    """serial8250_clear_fifos at startup; and the host is told to go on."""
    rig.serial.enqueue_raw_bytes(bytes(64))
    for fcr in (0x01, 0x07, 0x00):
        rig.serial.write(UART_FCR, fcr)
    assert rig.serial.fifo_capacity() == 64
    assert rig.metrics.in_buffer_empties == 1
