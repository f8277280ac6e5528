"""MSR of the 16550A: the modem's lines, or in loopback the chip's own outputs."""

from typing import Final

from .reg import (
    UART_MCR_DTR,
    UART_MCR_LOOP,
    UART_MCR_OUT1,
    UART_MCR_OUT2,
    UART_MCR_RTS,
    UART_MSR_ANY_DELTA,
    UART_MSR_CTS,
    UART_MSR_DCD,
    UART_MSR_DCTS,
    UART_MSR_DDCD,
    UART_MSR_DDSR,
    UART_MSR_DSR,
    UART_MSR_RI,
    UART_MSR_TERI,
)

_LOOP_WIRES: Final = (
    (UART_MCR_DTR, UART_MSR_DSR),
    (UART_MCR_RTS, UART_MSR_CTS),
    (UART_MCR_OUT1, UART_MSR_RI),
    (UART_MCR_OUT2, UART_MSR_DCD),
)
_DELTAS: Final = (
    (UART_MSR_CTS, UART_MSR_DCTS),
    (UART_MSR_DSR, UART_MSR_DDSR),
    (UART_MSR_DCD, UART_MSR_DDCD),
)


def shown_lines(lines: int, mcr: int) -> int:
    """MSR without its deltas: `lines`, or in loopback what MCR puts out."""
    if not mcr & UART_MCR_LOOP:
        return lines
    return sum(line for output, line in _LOOP_WIRES if mcr & output)


class ModemStatus:
    """`msr`, kept up to what drives it. Wants the Serial's lock held.

    Source: PC16550D, Modem Status Register; Modem Control Register, bit 4.
    """

    def __init__(self) -> None:
        self.lines = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS
        """CTS, DSR, RI and DCD, as in MSR, as the host drives them."""
        self.msr = self.lines

    def reset(self) -> None:
        """No deltas, no loopback; the lines are the host's and stay."""
        self.msr = self.lines

    def drive(self, line: int, asserted: bool | None) -> None:
        """Change one line; None leaves it as it is."""
        if asserted is not None:
            self.lines = self.lines | line if asserted else self.lines & ~line

    def update(self, mcr: int) -> bool:
        """Bring MSR up to the lines and MCR, with deltas; whether it changed."""
        lines = shown_lines(self.lines, mcr)
        changed = (lines ^ self.msr) & ~UART_MSR_ANY_DELTA
        self.msr = self.msr & UART_MSR_ANY_DELTA | lines
        for line, delta in _DELTAS:
            if changed & line:
                self.msr |= delta
        if changed & UART_MSR_RI and not lines & UART_MSR_RI:
            self.msr |= UART_MSR_TERI  # the trailing edge only
        return changed != 0

    def acknowledge_deltas(self) -> None:
        """MSR was read."""
        self.msr &= ~UART_MSR_ANY_DELTA

    def restore(self, msr: int, lines: int) -> None:
        """Take over both."""
        self.msr = msr
        self.lines = lines
