"""SerialState: all of a Serial that a guest could tell."""

from typing import Annotated, Final

from ..state import Byte, Nanoseconds, State
from .modem import shown_lines
from .receiver import BYTE_ERRORS, FIFO_SIZE
from .reg import (
    UART_FCR_DMA_SELECT,
    UART_FCR_ENABLE_FIFO,
    UART_FCR_TRIGGER_MASK,
    UART_MSR_ANY_DELTA,
)

IER_VALID: Final = 0x0F
MCR_VALID: Final = 0x1F
FCR_STORED: Final = UART_FCR_ENABLE_FIFO | UART_FCR_DMA_SELECT | UART_FCR_TRIGGER_MASK

_Fifo = Annotated[tuple[Byte, ...], range(FIFO_SIZE + 1)]


class SerialState(State, kw_only=True):
    """What `Serial.state()` gives and `restore` takes.

    The first ten fields are those of vm-superio's SerialState, and the only ones that
    `SerialState(...)` needs; `from_json` wants all. `interrupt_identification`, and the
    bits of `line_status` that mirror the FIFOs, are told for the reader's sake and
    computed anew on restoring.
    """

    baud_divisor_low: Byte
    baud_divisor_high: Byte
    interrupt_enable: Annotated[int, range(IER_VALID + 1)]
    interrupt_identification: Byte
    line_control: Byte
    line_status: Byte
    modem_control: Annotated[int, range(MCR_VALID + 1)]
    modem_status: Byte
    scratch: Byte
    in_buffer: _Fifo
    in_buffer_errors: _Fifo = ()
    """PE, FE and BI (as in LSR) of each byte of `in_buffer`; missing ones are 0."""
    fifo_control: Byte = 0
    """FCR without the bits that clear themselves."""
    tx_buffer: _Fifo = ()
    """Bytes that wait for room in the sink."""
    thre_pending: bool = False
    """THR became empty and IIR has not said so. Means nothing without IER.THRI."""
    rx_timeout_pending: bool = False
    rx_timeout_ns: Nanoseconds | None = None
    """Time left until the RX timeout; None: not running."""
    modem_lines: Byte = 0xB0
    """CTS, DSR, RI and DCD (as in MSR) as the host drives them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fcr, errors = self.fifo_control, self.in_buffer_errors
        fifo_enabled = bool(fcr & UART_FCR_ENABLE_FIFO)
        self.require(not fcr & ~FCR_STORED, "fifo_control has no such bits")
        self.require(fifo_enabled or not fcr, "fifo_control is 0 without its bit 0")
        self.require(
            len(errors) <= len(self.in_buffer), "in_buffer_errors are of in_buffer"
        )
        self.require(
            not any(error & ~BYTE_ERRORS for error in errors) and not any(errors[:1]),
            "in_buffer_errors are PE, FE and BI, and the first byte's are in LSR",
        )
        self.require(
            not (self.thre_pending and self.tx_buffer),
            "thre_pending with bytes in tx_buffer",
        )
        waits = fifo_enabled and bool(self.in_buffer)
        is_running = self.rx_timeout_ns is not None
        self.require(
            self.rx_timeout_pending + is_running == waits,
            "the RX timeout is running or pending while the RX FIFO holds bytes",
        )
        lines = self.modem_lines
        self.require(not lines & UART_MSR_ANY_DELTA, "modem_lines have no deltas")
        self.require(
            self.modem_status & ~UART_MSR_ANY_DELTA
            == shown_lines(lines, self.modem_control),
            "modem_status shows the lines, or in loopback what modem_control puts out",
        )
