"""Interrupt causes of the 16550A: their priorities, IIR, and the edges on the line."""

from typing import Final

from ..trigger import Trigger
from .modem import ModemStatus
from .receiver import Receiver
from .reg import (
    UART_IER_MSI,
    UART_IER_RDI,
    UART_IER_RLSI,
    UART_IER_THRI,
    UART_IIR_MSI,
    UART_IIR_NO_INT,
    UART_IIR_RDI,
    UART_IIR_RLSI,
    UART_IIR_RX_TIMEOUT,
    UART_IIR_THRI,
    UART_LSR_BRK_ERROR_BITS,
    UART_MSR_ANY_DELTA,
)
from .transmitter import Transmitter

# Highest priority first: the lowest bit that is set is the one that IIR reports.
LINE_STATUS: Final = 0x01
RX_DATA: Final = 0x02
RX_TIMEOUT: Final = 0x04
THR_EMPTY: Final = 0x08
MODEM_STATUS: Final = 0x10
RECEIVER: Final = LINE_STATUS | RX_DATA | RX_TIMEOUT
_PRIORITY: Final = (
    (LINE_STATUS, UART_IIR_RLSI),
    (RX_DATA, UART_IIR_RDI),
    (RX_TIMEOUT, UART_IIR_RX_TIMEOUT),
    (THR_EMPTY, UART_IIR_THRI),
    (MODEM_STATUS, UART_IIR_MSI),
)


def _identify(causes: int) -> int:
    return next((iir for bit, iir in _PRIORITY if causes & bit), UART_IIR_NO_INT)


_IIR_OF_CAUSES: Final = tuple(_identify(causes) for causes in range(32))


class Interrupts:
    """What the chip wants to interrupt for. Wants the Serial's lock held.

    Source: PC16550D, Interrupt Identification Register, Table IV.
    """

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = trigger
        self.reset()

    def reset(self) -> None:
        """No cause."""
        self._causes = 0
        self.iir = UART_IIR_NO_INT
        """Bits 0 to 3 of IIR."""

    def update(
        self, ier: int, rx: Receiver, tx: Transmitter, modem: ModemStatus
    ) -> None:
        """Look what the causes are now; pull the trigger if one has come up.

        Raises TriggerError, with everything done but that.
        """
        causes = 0
        if ier & UART_IER_RDI:
            if len(rx.fifo) >= rx.trigger_level:
                causes = RX_DATA
            if rx.timeout_pending:
                causes |= RX_TIMEOUT
        if ier & UART_IER_THRI and tx.empty_pending:
            causes |= THR_EMPTY
        if ier & UART_IER_RLSI and rx.lsr & UART_LSR_BRK_ERROR_BITS:
            causes |= LINE_STATUS
        if ier & UART_IER_MSI and modem.msr & UART_MSR_ANY_DELTA:
            causes |= MODEM_STATUS
        arose = causes & ~self._causes
        self._causes = causes
        self.iir = _IIR_OF_CAUSES[causes]
        if arose:
            self.trigger.trigger()

    def forget(self, causes: int) -> None:
        """Let the next `update` find that these came up: an edge per host input."""
        self._causes &= ~causes
