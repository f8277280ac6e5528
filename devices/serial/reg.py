"""Registers and bits of the 16550A under the names of ``linux/serial_reg.h``.

Only those that the device model uses. An offset that appears twice is two
registers: which one an access reaches depends on its direction or on LCR.DLAB.
"""

from typing import Final

UART_RX: Final = 0  # RBR, read, DLAB=0
UART_TX: Final = 0  # THR, write, DLAB=0
UART_DLL: Final = 0  # divisor latch low, DLAB=1
UART_IER: Final = 1  # DLAB=0
UART_DLM: Final = 1  # divisor latch high, DLAB=1
UART_IIR: Final = 2  # read
UART_FCR: Final = 2  # write
UART_LCR: Final = 3
UART_MCR: Final = 4
UART_LSR: Final = 5
UART_MSR: Final = 6
UART_SCR: Final = 7

UART_IER_RDI: Final = 0x01  # received data, and its timeout
UART_IER_THRI: Final = 0x02  # transmitter holding register empty
UART_IER_RLSI: Final = 0x04  # receiver line status
UART_IER_MSI: Final = 0x08  # modem status

UART_IIR_MSI: Final = 0x00
UART_IIR_NO_INT: Final = 0x01
UART_IIR_THRI: Final = 0x02
UART_IIR_RDI: Final = 0x04
UART_IIR_RLSI: Final = 0x06
UART_IIR_RX_TIMEOUT: Final = 0x0C
UART_IIR_FIFO_ENABLED: Final = 0xC0  # the kernel has no name for these two

UART_FCR_ENABLE_FIFO: Final = 0x01
UART_FCR_CLEAR_RCVR: Final = 0x02  # clears itself
UART_FCR_CLEAR_XMIT: Final = 0x04  # clears itself
UART_FCR_DMA_SELECT: Final = 0x08
UART_FCR_TRIGGER_MASK: Final = 0xC0
UART_FCR_R_TRIG_SHIFT: Final = 6

UART_LCR_WLEN5: Final = 0x00
UART_LCR_WLEN8: Final = 0x03  # also the mask of the word length
UART_LCR_STOP: Final = 0x04
UART_LCR_PARITY: Final = 0x08
UART_LCR_SBC: Final = 0x40  # set break control
UART_LCR_DLAB: Final = 0x80  # divisor latch access

UART_MCR_DTR: Final = 0x01
UART_MCR_RTS: Final = 0x02
UART_MCR_OUT1: Final = 0x04
UART_MCR_OUT2: Final = 0x08
UART_MCR_LOOP: Final = 0x10

UART_LSR_DR: Final = 0x01  # data ready
UART_LSR_OE: Final = 0x02  # overrun
UART_LSR_PE: Final = 0x04  # parity
UART_LSR_FE: Final = 0x08  # framing
UART_LSR_BI: Final = 0x10  # break
UART_LSR_THRE: Final = 0x20  # transmitter holding register (TX FIFO) empty
UART_LSR_TEMT: Final = 0x40  # transmitter empty
UART_LSR_FIFOE: Final = 0x80  # a byte in the RX FIFO has an error
UART_LSR_BRK_ERROR_BITS: Final = 0x1E

UART_MSR_DCTS: Final = 0x01
UART_MSR_DDSR: Final = 0x02
UART_MSR_TERI: Final = 0x04  # ring went away
UART_MSR_DDCD: Final = 0x08
UART_MSR_CTS: Final = 0x10
UART_MSR_DSR: Final = 0x20
UART_MSR_RI: Final = 0x40
UART_MSR_DCD: Final = 0x80
UART_MSR_ANY_DELTA: Final = 0x0F
