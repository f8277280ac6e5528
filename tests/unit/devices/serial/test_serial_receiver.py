"""Serial: host input, RX FIFO, errors, trigger levels and the timeout."""

import pytest
from support.serial_rig import Rig

from vmm.devices.errors import FullFifo
from vmm.devices.serial.receiver import FIFO_SIZE
from vmm.devices.serial.reg import (
    UART_DLL,
    UART_FCR,
    UART_FCR_CLEAR_RCVR,
    UART_FCR_CLEAR_XMIT,
    UART_FCR_ENABLE_FIFO,
    UART_IER,
    UART_IER_MSI,
    UART_IER_RDI,
    UART_IER_RLSI,
    UART_IIR,
    UART_IIR_NO_INT,
    UART_IIR_RDI,
    UART_IIR_RLSI,
    UART_IIR_RX_TIMEOUT,
    UART_LCR,
    UART_LCR_DLAB,
    UART_LCR_PARITY,
    UART_LCR_STOP,
    UART_LCR_WLEN5,
    UART_LCR_WLEN8,
    UART_LSR,
    UART_LSR_BI,
    UART_LSR_DR,
    UART_LSR_FE,
    UART_LSR_FIFOE,
    UART_LSR_OE,
    UART_LSR_PE,
    UART_MCR,
    UART_MCR_LOOP,
    UART_RX,
    UART_TX,
)
from vmm.devices.serial.timeout import timeout_ns

FIFO_ON = UART_FCR_ENABLE_FIFO
TRIGGER_14 = 0xC0
# Four characters of ten bits at the 9600 baud of the reset value.
TIMEOUT_9600_NS = 4 * 10 * 1_000_000_000 // 9600


@pytest.fixture
def rig() -> Rig:
    """With FIFOs on, and data and line status interrupts enabled."""
    rig = Rig()
    rig.serial.write(UART_FCR, FIFO_ON | TRIGGER_14)
    rig.serial.write(UART_IER, UART_IER_RDI | UART_IER_RLSI)
    return rig


@pytest.fixture
def rig_16450() -> Rig:
    """With FIFOs off, as after a reset."""
    rig = Rig()
    rig.serial.write(UART_IER, UART_IER_RDI)
    return rig


def drain(rig: Rig) -> bytes:
    """What a polling driver reads."""
    data = bytearray()
    while rig.serial.read(UART_LSR) & UART_LSR_DR:
        data.append(rig.serial.read(UART_RX))
    return bytes(data)


def iir_id(rig: Rig) -> int:
    return rig.serial.read(UART_IIR) & 0x0F


def test_bytes_are_read_once_and_in_order(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"abc")
    assert drain(rig) == b"abc"
    assert rig.serial.read(UART_RX) == 0


def test_lsr_dr_is_set_while_bytes_wait(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"ab")
    rig.serial.read(UART_RX)
    assert rig.serial.read(UART_LSR) & UART_LSR_DR
    rig.serial.read(UART_RX)
    assert not rig.serial.read(UART_LSR) & UART_LSR_DR


def test_enqueue_takes_what_fits_and_says_how_much(rig: Rig) -> None:
    assert rig.serial.enqueue_raw_bytes(bytes(60)) == 60
    assert rig.serial.fifo_capacity() == 4
    assert rig.serial.enqueue_raw_bytes(bytes(10)) == 4
    assert rig.serial.fifo_capacity() == 0


def test_enqueue_into_a_full_fifo_raises_full_fifo(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(FIFO_SIZE))
    with pytest.raises(FullFifo, match="64"):
        rig.serial.enqueue_raw_bytes(b"x")


def test_enqueue_of_nothing_takes_0_even_when_full(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(FIFO_SIZE))
    assert rig.serial.enqueue_raw_bytes(b"") == 0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_enqueue_takes_any_bytes(rig: Rig, kind: type) -> None:
    assert rig.serial.enqueue_raw_bytes(kind(b"ab")) == 2
    assert drain(rig) == b"ab"


def test_host_input_never_overruns(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(FIFO_SIZE + 1))
    assert not rig.serial.read(UART_LSR) & UART_LSR_OE


# Trigger levels


@pytest.mark.parametrize(("bits", "level"), [(0, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_data_interrupt_at_the_trigger_level(rig: Rig, bits: int, level: int) -> None:
    rig.serial.write(UART_FCR, FIFO_ON | bits)
    rig.serial.enqueue_raw_bytes(bytes(level - 1))
    assert iir_id(rig) == UART_IIR_NO_INT
    rig.serial.enqueue_raw_bytes(b"x")
    assert iir_id(rig) == UART_IIR_RDI
    assert rig.trigger.edges == 1


def test_data_interrupt_ends_below_the_trigger_level(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(14))
    rig.serial.read(UART_RX)
    assert iir_id(rig) == UART_IIR_NO_INT


def test_lowering_the_trigger_level_interrupts(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"abc")
    rig.serial.write(UART_FCR, FIFO_ON)
    assert iir_id(rig) == UART_IIR_RDI
    assert rig.trigger.edges == 1


def test_fifo_load_needs_one_interrupt_not_one_per_byte(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(FIFO_SIZE))
    assert len(drain(rig)) == FIFO_SIZE
    assert rig.trigger.edges == 1


def test_host_input_pulls_the_trigger_again_while_its_cause_is_active(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(14))
    rig.serial.enqueue_raw_bytes(b"x")
    assert rig.trigger.edges == 2


# Timeout


def test_rx_timeout_after_four_character_times(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"x")
    rig.clock.advance(TIMEOUT_9600_NS - 1)
    assert iir_id(rig) == UART_IIR_NO_INT
    rig.clock.advance(1)
    assert iir_id(rig) == UART_IIR_RX_TIMEOUT
    assert rig.trigger.edges == 1


def test_rx_timeout_ends_when_rbr_is_read(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"xy")
    rig.clock.advance(TIMEOUT_9600_NS)
    rig.serial.read(UART_RX)
    assert iir_id(rig) == UART_IIR_NO_INT


def test_rx_timeout_starts_anew_when_rbr_is_read(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"xy")
    rig.clock.advance(TIMEOUT_9600_NS - 1)
    rig.serial.read(UART_RX)
    rig.clock.advance(TIMEOUT_9600_NS - 1)
    assert iir_id(rig) == UART_IIR_NO_INT
    rig.clock.advance(1)
    assert iir_id(rig) == UART_IIR_RX_TIMEOUT


def test_rx_timeout_starts_anew_when_a_byte_comes(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"x")
    rig.clock.advance(TIMEOUT_9600_NS - 1)
    rig.serial.enqueue_raw_bytes(b"y")
    rig.clock.advance(TIMEOUT_9600_NS - 1)
    assert iir_id(rig) == UART_IIR_NO_INT


def test_rx_timeout_stays_when_a_byte_comes_after_it(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"x")
    rig.clock.advance(TIMEOUT_9600_NS)
    rig.serial.enqueue_raw_bytes(b"y")
    assert iir_id(rig) == UART_IIR_RX_TIMEOUT
    assert rig.trigger.edges == 2


def test_rx_timeout_does_not_come_for_an_empty_fifo(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"x")
    rig.serial.read(UART_RX)
    rig.clock.advance(10 * TIMEOUT_9600_NS)
    assert iir_id(rig) == UART_IIR_NO_INT


def test_rx_timeout_needs_the_fifo_on(rig_16450: Rig) -> None:
    rig_16450.serial.enqueue_raw_bytes(b"x")
    rig_16450.clock.advance(10 * TIMEOUT_9600_NS)
    assert rig_16450.serial.read(UART_IIR) == UART_IIR_RDI
    assert rig_16450.trigger.edges == 1


def test_rx_data_goes_before_the_rx_timeout(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(14))
    rig.clock.advance(TIMEOUT_9600_NS)
    assert iir_id(rig) == UART_IIR_RDI


def test_rx_timeout_waits_for_ier_rdi(rig: Rig) -> None:
    rig.serial.write(UART_IER, 0)
    rig.serial.enqueue_raw_bytes(b"x")
    rig.clock.advance(TIMEOUT_9600_NS)
    assert rig.trigger.edges == 0
    rig.serial.write(UART_IER, UART_IER_RDI)
    assert iir_id(rig) == UART_IIR_RX_TIMEOUT
    assert rig.trigger.edges == 1


def test_rx_timeout_keeps_one_timer_outstanding(rig: Rig) -> None:
    for _ in range(500):
        rig.serial.enqueue_raw_bytes(b"xyz")
        drain(rig)
    assert len(rig.clock._timers) == 1


def test_rx_timeout_follows_a_faster_baud_rate(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"x")
    rig.serial.write(UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8)
    rig.serial.write(UART_DLL, 1)
    rig.serial.write(UART_LCR, UART_LCR_WLEN8)
    rig.serial.enqueue_raw_bytes(b"y")
    rig.clock.advance(4 * 10 * 1_000_000_000 // 115_200)
    assert iir_id(rig) == UART_IIR_RX_TIMEOUT


def test_rx_timeout_ignores_a_timer_that_was_cancelled_too_late(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"x")
    stale = rig.clock._timers[0][2].callback
    rig.clock.advance(TIMEOUT_9600_NS)
    rig.serial.read(UART_RX)
    rig.serial.enqueue_raw_bytes(b"y")
    assert stale is not None
    stale()
    assert len(rig.clock._timers) == 1
    assert iir_id(rig) == UART_IIR_NO_INT


@pytest.mark.parametrize(
    ("lcr", "half_bits"),
    [
        (UART_LCR_WLEN8, 20),
        (UART_LCR_WLEN5, 14),
        (UART_LCR_WLEN8 | UART_LCR_PARITY, 22),
        (UART_LCR_WLEN8 | UART_LCR_STOP, 22),
        (UART_LCR_WLEN5 | UART_LCR_STOP, 15),
    ],
)
def test_timeout_counts_all_bits_of_a_character(lcr: int, half_bits: int) -> None:
    assert timeout_ns(1, lcr) == 4 * half_bits * 1_000_000_000 // (2 * 115_200)


def test_timeout_is_160_ms_at_300_baud_and_12_bits() -> None:
    lcr = UART_LCR_WLEN8 | UART_LCR_PARITY | UART_LCR_STOP
    assert timeout_ns(384, lcr) == 160_000_000


def test_divisor_0_counts_as_1() -> None:
    assert timeout_ns(0, UART_LCR_WLEN8) == timeout_ns(1, UART_LCR_WLEN8)


# FCR


def test_fcr_clear_rcvr_empties_the_rx_fifo(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(20))
    rig.serial.write(UART_FCR, FIFO_ON | UART_FCR_CLEAR_RCVR | TRIGGER_14)
    assert not rig.serial.read(UART_LSR) & UART_LSR_DR
    assert iir_id(rig) == UART_IIR_NO_INT
    assert rig.serial.fifo_capacity() == FIFO_SIZE


def test_fcr_clear_xmit_leaves_the_rx_fifo_alone(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"abc")
    rig.serial.write(UART_FCR, FIFO_ON | UART_FCR_CLEAR_XMIT)
    assert drain(rig) == b"abc"


def test_fcr_clear_rcvr_ends_a_timeout(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"x")
    rig.clock.advance(TIMEOUT_9600_NS)
    rig.serial.write(UART_FCR, FIFO_ON | UART_FCR_CLEAR_RCVR)
    assert iir_id(rig) == UART_IIR_NO_INT


@pytest.mark.parametrize("fcr", [0, UART_FCR_CLEAR_RCVR])
def test_fcr_turning_the_fifos_off_clears_them(rig: Rig, fcr: int) -> None:
    rig.serial.enqueue_raw_bytes(b"abc")
    rig.serial.write(UART_FCR, fcr)
    assert drain(rig) == b""


def test_fcr_turning_the_fifos_on_clears_them(rig_16450: Rig) -> None:
    rig_16450.serial.enqueue_raw_bytes(b"abc")
    rig_16450.serial.write(UART_FCR, FIFO_ON)
    assert drain(rig_16450) == b""


def test_fcr_bits_count_only_together_with_bit_0(rig_16450: Rig) -> None:
    rig_16450.serial.enqueue_raw_bytes(b"abc")
    rig_16450.serial.write(UART_FCR, UART_FCR_CLEAR_RCVR | TRIGGER_14)
    assert drain(rig_16450) == b"abc"
    assert rig_16450.serial.state().fifo_control == 0


def test_iir_bits_6_and_7_follow_fcr_bit_0(rig: Rig) -> None:
    assert rig.serial.read(UART_IIR) & 0xC0 == 0xC0
    rig.serial.write(UART_FCR, 0)
    assert rig.serial.read(UART_IIR) & 0xC0 == 0


# 16450 mode


def test_16450_mode_loses_no_queued_host_byte(rig_16450: Rig) -> None:
    data = bytes(range(FIFO_SIZE))
    assert rig_16450.serial.enqueue_raw_bytes(data) == FIFO_SIZE
    assert drain(rig_16450) == data


def test_16450_mode_interrupts_for_each_byte(rig_16450: Rig) -> None:
    rig_16450.serial.enqueue_raw_bytes(b"ab")
    rig_16450.serial.read(UART_RX)
    assert rig_16450.serial.read(UART_IIR) == UART_IIR_RDI


def test_16450_mode_has_no_fifo_error_bit(rig_16450: Rig) -> None:
    rig_16450.serial.enqueue_raw_bytes(b"a")
    rig_16450.serial.inject_break()
    assert not rig_16450.serial.read(UART_LSR) & UART_LSR_FIFOE


# Errors


def test_break_is_a_zero_byte_with_bi(rig: Rig) -> None:
    assert rig.serial.inject_break()
    assert rig.serial.read(UART_LSR) & (UART_LSR_BI | UART_LSR_DR) == 0x11
    assert rig.serial.read(UART_RX) == 0
    assert not rig.serial.read(UART_LSR) & UART_LSR_DR


@pytest.mark.parametrize("bits", [UART_LSR_PE, UART_LSR_FE, UART_LSR_PE | UART_LSR_FE])
def test_parity_and_framing_errors_show_with_their_byte(rig: Rig, bits: int) -> None:
    rig.serial.enqueue_raw_bytes(b"a")
    assert rig.serial.inject_error(ord("b"), bits)
    assert rig.serial.read(UART_LSR) & 0x1E == 0
    rig.serial.read(UART_RX)
    assert rig.serial.read(UART_LSR) & 0x1E == bits
    assert rig.serial.read(UART_RX) == ord("b")


@pytest.mark.parametrize("bits", [0, UART_LSR_OE, UART_LSR_BI, 0x100])
def test_inject_error_refuses_other_bits(rig: Rig, bits: int) -> None:
    with pytest.raises(ValueError, match=f"{bits:#x}"):
        rig.serial.inject_error(0, bits)


@pytest.mark.parametrize("value", [-1, 256])
def test_inject_error_refuses_what_is_no_byte(rig: Rig, value: int) -> None:
    with pytest.raises(ValueError, match=f"{value:#x}"):
        rig.serial.inject_error(value, UART_LSR_PE)


def test_lsr_errors_clear_on_read(rig: Rig) -> None:
    rig.serial.inject_overrun()
    rig.serial.inject_break()
    assert rig.serial.read(UART_LSR) & 0x9E == 0x92
    assert rig.serial.read(UART_LSR) & 0x9E == 0


def test_lsr_errors_outlast_their_byte_until_lsr_is_read(rig: Rig) -> None:
    rig.serial.inject_break()
    rig.serial.read(UART_RX)
    assert rig.serial.read(UART_LSR) & UART_LSR_BI


def test_lsr_fifo_error_while_a_byte_in_the_fifo_has_an_error(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"a")
    rig.serial.inject_break()
    assert rig.serial.read(UART_LSR) & UART_LSR_FIFOE
    assert rig.serial.read(UART_LSR) & UART_LSR_FIFOE
    rig.serial.read(UART_RX)
    assert rig.serial.read(UART_LSR) & UART_LSR_FIFOE
    assert not rig.serial.read(UART_LSR) & UART_LSR_FIFOE


def test_line_status_interrupt_ends_when_lsr_is_read(rig: Rig) -> None:
    rig.serial.inject_break()
    assert iir_id(rig) == UART_IIR_RLSI
    assert rig.trigger.edges == 1
    rig.serial.read(UART_LSR)
    assert iir_id(rig) == UART_IIR_NO_INT


def test_injection_into_a_full_fifo_overruns(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(FIFO_SIZE))
    assert rig.serial.inject_break()
    assert rig.serial.read(UART_LSR) & (UART_LSR_OE | UART_LSR_BI) == UART_LSR_OE
    assert len(drain(rig)) == FIFO_SIZE


def test_inject_overrun_interrupts_at_once(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"a")
    assert rig.serial.inject_overrun()
    assert iir_id(rig) == UART_IIR_RLSI


def test_loopback_cuts_the_line_in(rig: Rig) -> None:
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    assert rig.serial.enqueue_raw_bytes(b"x") == 0
    assert not rig.serial.inject_break()
    assert not rig.serial.inject_error(0, UART_LSR_PE)
    assert not rig.serial.inject_overrun()
    assert rig.serial.read(UART_LSR) == 0x60


def test_loopback_takes_0_bytes_even_when_full(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(bytes(FIFO_SIZE))
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    assert rig.serial.enqueue_raw_bytes(b"x") == 0


def test_loopback_overruns_a_full_fifo_and_keeps_it(rig: Rig) -> None:
    data = bytes(range(FIFO_SIZE))
    rig.serial.enqueue_raw_bytes(data)
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    rig.serial.write(UART_TX, 0xFF)
    assert rig.serial.read(UART_LSR) & UART_LSR_OE
    assert drain(rig) == data


def test_loopback_overruns_rbr_in_16450_mode(rig_16450: Rig) -> None:
    rig_16450.serial.write(UART_MCR, UART_MCR_LOOP)
    rig_16450.serial.write(UART_TX, ord("1"))
    rig_16450.serial.write(UART_TX, ord("2"))
    assert rig_16450.serial.read(UART_LSR) & UART_LSR_OE
    assert drain(rig_16450) == b"2"


# Events


def test_in_buffer_empty_when_the_guest_reads_the_last_byte(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"ab")
    rig.serial.read(UART_RX)
    assert rig.metrics.in_buffer_empties == 0
    rig.serial.read(UART_RX)
    assert rig.metrics.in_buffer_empties == 1
    assert rig.metrics.buffer_reads == 2


@pytest.mark.parametrize("fcr", [FIFO_ON | UART_FCR_CLEAR_RCVR, 0])
def test_in_buffer_empty_when_the_fifo_is_cleared(rig: Rig, fcr: int) -> None:
    rig.serial.enqueue_raw_bytes(b"ab")
    rig.serial.write(UART_FCR, fcr)
    assert rig.metrics.in_buffer_empties == 1


def test_in_buffer_empty_when_loopback_is_left(rig: Rig) -> None:
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    assert rig.serial.enqueue_raw_bytes(b"ab") == 0
    rig.serial.write(UART_MCR, 0)
    assert rig.metrics.in_buffer_empties == 1


def test_in_buffer_empty_at_every_reset(rig: Rig) -> None:
    rig.serial.reset()
    assert rig.metrics.in_buffer_empties == 1


def test_reading_an_empty_fifo_tells_nobody(rig: Rig) -> None:
    rig.serial.read(UART_RX)
    assert (rig.metrics.buffer_reads, rig.metrics.in_buffer_empties) == (0, 0)


def test_guest_listens_while_it_has_the_interrupt_enabled(rig: Rig) -> None:
    assert rig.serial.listens
    rig.serial.write(UART_IER, UART_IER_MSI)
    assert not rig.serial.listens
    rig.serial.reset()
    assert not rig.serial.listens
