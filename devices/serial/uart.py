"""Serial: a 16550A UART, as the PC16550D datasheet describes it.

vm-superio's device of the same name, completed: FCR, trigger levels, RX
timeout, interrupt priorities, modem status, errors and a TX FIFO.

Where it differs from the chip: both FIFOs hold 64 bytes (Linux drives any
16550A as if they held 16); bytes take no time to send, so THRE and TEMT are
clear only while the sink has no room; word length and parity set the length of
the RX timeout but don't alter data.
"""

from threading import Lock
from typing import Final

from ..clock import Clock, SystemClock
from ..errors import FullFifo
from ..fast_port import FastPort
from ..sink import BinaryFile, Sink, as_sink
from ..state import State
from ..trigger import Trigger
from .events import SerialEvents
from .interrupts import (
    LINE_STATUS,
    MODEM_STATUS,
    RECEIVER,
    Interrupts,
)
from .modem import ModemStatus
from .receiver import CLEARED_BY_LSR_READ, FIFO_SIZE, Receiver
from .reg import (
    UART_FCR,
    UART_FCR_CLEAR_RCVR,
    UART_FCR_CLEAR_XMIT,
    UART_FCR_ENABLE_FIFO,
    UART_IER,
    UART_IER_RDI,
    UART_IER_THRI,
    UART_IIR,
    UART_IIR_FIFO_ENABLED,
    UART_IIR_THRI,
    UART_LCR,
    UART_LCR_DLAB,
    UART_LCR_SBC,
    UART_LCR_WLEN8,
    UART_LSR,
    UART_LSR_BI,
    UART_LSR_FE,
    UART_LSR_OE,
    UART_LSR_PE,
    UART_MCR,
    UART_MCR_LOOP,
    UART_MCR_OUT2,
    UART_MSR,
    UART_MSR_CTS,
    UART_MSR_DCD,
    UART_MSR_DSR,
    UART_MSR_RI,
    UART_RX,
    UART_SCR,
    UART_TX,
)
from .state import FCR_STORED, IER_VALID, MCR_VALID, SerialState
from .timeout import timeout_ns
from .transmitter import Transmitter

_RESET_DIVISOR: Final = 0x000C  # 9600 baud


class Serial:
    """A 16550A between a guest's port accesses, a sink and host input.

    Interrupts go to an edge-triggered line, as on ISA: `trigger` is pulled
    when a cause arises that IIR would not have shown before, so a driver that
    handles IIR until it reads NO_INT loses none. Host input pulls it again
    even while its cause is active: a driver that lost an edge recovers.

    Every public method is safe to call from any thread. Each takes the one
    lock; under it `trigger`, `events` and the sink's `write` are called. The
    order is Serial's lock, then the sink's; the sink calls `on_room` holding
    neither. Only a TriggerError comes out of a guest's access, after the
    access has had its whole effect, and what a file that is `out` raises.

    >>> import io
    >>> from vmm.devices import InterruptLine, Serial
    >>> output = io.BytesIO()
    >>> serial = Serial(InterruptLine(), output)
    >>> serial.write(0, ord("!"))  # THR
    >>> output.getvalue()
    b'!'
    >>> serial.enqueue_raw_bytes(b"ok")
    2
    >>> bytes([serial.read(0), serial.read(0)])  # RBR
    b'ok'
    """

    def __init__(
        self,
        trigger: Trigger,
        out: Sink | BinaryFile,
        *,
        clock: Clock | None = None,
        events: SerialEvents | None = None,
    ) -> None:
        """Power on. Takes `out.on_room` for itself; a file is written through to.

        `clock` is by default the host's own, with a thread for each RX timeout.
        """
        out = as_sink(out)
        if clock is None:
            clock = SystemClock()
        self._lock = Lock()
        self._events = events
        self._interrupts = Interrupts(trigger)
        self._rx = Receiver(clock, self._lock, self._update)
        self._tx = Transmitter(out, events, clock, self._lock, self._update)
        self._modem = ModemStatus()
        self._lsr_port = FastPort()
        self.fast_ports = {UART_TX: self._tx.thr, UART_LSR: self._lsr_port}
        """Registers that a run loop may serve, by their offsets."""
        self.ignored_accesses = 0
        """Writes to read-only registers, and accesses above offset 7."""
        self._power_on()
        out.on_room = self._on_room

    @classmethod
    def from_state(
        cls,
        state: SerialState,
        trigger: Trigger,
        out: Sink,
        *,
        clock: Clock,
        events: SerialEvents | None = None,
    ) -> "Serial":
        """A new one that goes on from `state`; see `restore`."""
        SerialState.of(state)  # before a sink is taken for one that won't be
        serial = cls(trigger, out, clock=clock, events=events)
        serial.restore(state)
        return serial

    # -- what the guest does ------------------------------------------------

    def read(self, offset: int) -> int:
        """Read the register at `offset`, with all side effects; 0..255.

        An offset above 7 reads 0. Raises TriggerError.
        """
        if offset == UART_LSR and not (lsr := self._rx.lsr) & CLEARED_BY_LSR_READ:
            # Nothing is cleared, so it needs no lock: printk comes here before
            # each byte.
            return lsr | self._tx.lsr
        with self._lock:
            if offset == UART_RX:
                return self._read_data()
            if offset == UART_IIR:
                return self._read_iir()
            if offset == UART_LSR:
                return self._read_lsr()
            if offset == UART_MSR:
                return self._read_msr()
            return self._read_plain(offset)

    def write(self, offset: int, value: int) -> None:
        """Write the low byte of `value` to the register at `offset`.

        Writes to LSR, MSR and above offset 7 are ignored, and counted in
        `ignored_accesses`. Raises TriggerError.
        """
        value &= 0xFF
        with self._lock:
            if offset == UART_TX:
                self._write_data(value)
            elif offset == UART_IER:
                self._write_ier(value)
            elif offset == UART_FCR:
                self._write_fcr(value)
            elif offset == UART_LCR:
                self._write_lcr(value)
            elif offset == UART_MCR:
                self._write_mcr(value)
            elif offset == UART_SCR:
                self._scr = value
            else:
                self.ignored_accesses += 1

    # -- what the host does -------------------------------------------------

    def enqueue_raw_bytes(self, data: bytes | bytearray | memoryview) -> int:
        """Queue host bytes for RBR; return how many fitted, 0..64.

        In loopback the line in is cut: takes none, without an error. See
        SerialEvents.in_buffer_empty for when to offer the rest.

        With the FIFOs off (FCR bit 0) the guest sees the oldest byte only, as
        on a 16450; those behind it wait as if still on the wire. Raises
        FullFifo if not even one byte fits; TriggerError, the bytes being queued.
        Source: PC16550D, Line Status Register; Modem Control Register.
        """
        with self._lock:
            if self._mcr & UART_MCR_LOOP or not data:
                return 0
            taken = self._rx.enqueue(data)
            if not taken:
                raise FullFifo(f"all {FIFO_SIZE} bytes of the RX FIFO are in use")
            self._interrupts.forget(RECEIVER)
            self._update()
            return taken

    def inject_break(self) -> bool:
        """Let the line break: a zero byte with LSR.BI. False in loopback.

        Like any byte from the line that finds the FIFO full, the break is then
        lost and LSR.OE set. Raises TriggerError.
        Source: PC16550D, Line Status Register, bits 1 and 4.
        """
        return self._inject(0, UART_LSR_BI)

    def inject_error(self, value: int, lsr_bits: int) -> bool:
        """Receive byte `value` with parity (LSR.PE) or framing (LSR.FE) error.

        False in loopback. A full FIFO loses the byte and sets LSR.OE. Raises
        ValueError unless `value` is a byte and `lsr_bits` one or both of the
        two, and TriggerError.
        Source: PC16550D, Line Status Register, bits 2 and 3.
        """
        if not 0 <= value <= 0xFF:
            raise ValueError(f"value {value:#x} is no byte")
        if not lsr_bits or lsr_bits & ~(UART_LSR_PE | UART_LSR_FE):
            raise ValueError(f"lsr_bits {lsr_bits:#x}: neither PE (4) nor FE (8)")
        return self._inject(value, lsr_bits)

    def inject_overrun(self) -> bool:
        """Set LSR.OE as if a byte had come too late. False in loopback.

        Raises TriggerError. Source: PC16550D, Line Status Register, bit 1.
        """
        with self._lock:
            if self._mcr & UART_MCR_LOOP:
                return False
            self._rx.lsr |= UART_LSR_OE
            self._interrupts.forget(LINE_STATUS)
            self._update()
            return True

    def set_modem_lines(
        self,
        *,
        cts: bool | None = None,
        dsr: bool | None = None,
        ri: bool | None = None,
        dcd: bool | None = None,
    ) -> None:
        """Drive the modem's lines (True: asserted); None leaves one as it is.

        Changes show in MSR with their delta bits, and interrupt if IER.MSI is
        set; while in loopback they show when that is left. Raises TriggerError.
        Source: PC16550D, Modem Status Register.
        """
        with self._lock:
            self._modem.drive(UART_MSR_CTS, cts)
            self._modem.drive(UART_MSR_DSR, dsr)
            self._modem.drive(UART_MSR_RI, ri)
            self._modem.drive(UART_MSR_DCD, dcd)
            if self._modem.update(self._mcr):
                self._interrupts.forget(MODEM_STATUS)
            self._update()

    @property
    def listens(self) -> bool:
        """Whether the guest would be interrupted for received bytes: IER.RDI."""
        return bool(self._ier & UART_IER_RDI)

    def fifo_capacity(self) -> int:
        """Bytes that still fit into the RX FIFO, 0..64."""
        with self._lock:
            return FIFO_SIZE - len(self._rx.fifo)

    def interrupt_evt(self) -> Trigger:
        """The Trigger that it was made with."""
        return self._interrupts.trigger

    def writer(self) -> Sink:
        """The sink that it was made with."""
        return self._tx.out

    def events(self) -> SerialEvents | None:
        """The events object that it was made with."""
        return self._events

    def reset(self) -> None:
        """Return to the power-on state (MR pin). Sink and modem lines stay.

        What waits in the FIFOs is lost; of TX it is told as tx_lost_byte.
        Source: PC16550D, Table I, UART Reset Configuration.
        """
        with self._lock:
            self._power_on()
            if self._events is not None:
                self._events.in_buffer_empty()

    @property
    def is_collecting(self) -> bool:
        """Whether a run loop may have bytes that the sink hasn't got: see `flush`."""
        return self._tx.is_lent

    def flush(self) -> None:
        """Give the sink now what a run loop has collected for it."""
        with self._lock:
            self._tx.collect()

    def state(self) -> SerialState:
        """All of it. What the sink has taken is the host's, and not in it."""
        with self._lock:
            self._tx.collect()
            return SerialState(
                baud_divisor_low=self._divisor & 0xFF,
                baud_divisor_high=self._divisor >> 8,
                interrupt_enable=self._ier,
                interrupt_identification=self._interrupts.iir,
                line_control=self._lcr,
                line_status=self._rx.lsr | self._tx.lsr,
                modem_control=self._mcr,
                modem_status=self._modem.msr,
                scratch=self._scr,
                in_buffer=tuple(entry & 0xFF for entry in self._rx.fifo),
                in_buffer_errors=tuple(entry >> 8 for entry in self._rx.fifo),
                fifo_control=self._fcr,
                tx_buffer=tuple(self._tx.fifo),
                thre_pending=self._tx.empty_pending,
                rx_timeout_pending=self._rx.timeout_pending,
                rx_timeout_ns=self._rx.timeout.remaining_ns(),
                modem_lines=self._modem.lines,
            )

    def restore(self, state: State | None) -> None:
        """Go on from `state`: modem lines as they were, new bytes to today's sink.

        What waited before goes the way of a reset. Pulls the trigger if an enabled
        interrupt is pending. Raises InvalidState and TriggerError.
        """
        new = SerialState.of(state)
        with self._lock:
            self._power_on()
            if self._events is not None:
                self._events.in_buffer_empty()
            self._load(new)

    # -- everything below wants the lock held -------------------------------

    def _power_on(self) -> None:
        self._rx.reset()
        self._tx.reset()
        self._modem.reset()
        self._interrupts.reset()
        self._ier = 0
        self._fcr = 0
        self._lcr = UART_LCR_WLEN8
        self._mcr = UART_MCR_OUT2
        self._scr = 0
        self._set_divisor(_RESET_DIVISOR)
        self._update()

    def _load(self, state: SerialState) -> None:
        self._ier = state.interrupt_enable
        self._fcr = state.fifo_control
        self._lcr = state.line_control
        self._mcr = state.modem_control
        self._scr = state.scratch
        self._set_divisor(state.baud_divisor_low | state.baud_divisor_high << 8)
        self._modem.restore(state.modem_status, state.modem_lines)
        self._rx.configure(self._fcr)
        self._rx.restore(state.line_status, state.in_buffer, state.in_buffer_errors)
        self._rx.restore_timeout(state.rx_timeout_pending, state.rx_timeout_ns)
        self._tx.restore(state.tx_buffer, state.thre_pending)
        self._tx.drain()
        self._update()

    def _update(self) -> None:
        """Something has changed: tell the interrupt line and whoever serves ports."""
        ier, rx, tx = self._ier, self._rx, self._tx
        lsr = rx.lsr | tx.lsr
        self._lsr_port.answer(None if lsr & CLEARED_BY_LSR_READ else lsr)
        plain = not (self._lcr & UART_LCR_DLAB or self._mcr & UART_MCR_LOOP)
        tx.allow_fast_writes(plain and not ier & UART_IER_THRI)
        self._interrupts.update(ier, rx, tx, self._modem)  # last, because it may raise

    # Receiver

    def _read_data(self) -> int:
        """RBR, 0 if it is empty; or DLL."""
        if self._lcr & UART_LCR_DLAB:
            return self._divisor & 0xFF
        if not self._rx.fifo:
            return 0
        value = self._rx.read_data()
        if self._events is not None:
            self._events.buffer_read()
            if not self._rx.fifo:
                self._events.in_buffer_empty()
        self._update()
        return value

    def _inject(self, value: int, errors: int) -> bool:
        with self._lock:
            if self._mcr & UART_MCR_LOOP:
                return False
            self._receive(value, errors)
            self._update()
            return True

    def _receive(self, value: int, errors: int) -> None:
        self._rx.receive(value, errors)
        self._interrupts.forget(RECEIVER)

    def _clear_rx(self) -> None:
        had_bytes = bool(self._rx.fifo)
        self._rx.clear()
        if had_bytes and self._events is not None:
            self._events.in_buffer_empty()

    # Transmitter

    def _write_data(self, value: int) -> None:
        """THR; or DLL."""
        if self._lcr & UART_LCR_DLAB:
            self._set_divisor(self._divisor & 0xFF00 | value)
        elif self._mcr & UART_MCR_LOOP:
            self._rx.loop_back(value)
            self._interrupts.forget(RECEIVER)
            if not self._tx.fifo:
                self._tx.note_empty()
            self._update()
        elif not self._tx.send(value, self._fcr):
            self._update()
        elif self._ier & UART_IER_THRI and not self._tx.empty_pending:
            self._tx.empty_pending = True
            self._update()

    def _on_room(self) -> None:
        with self._lock:
            self._tx.drain()
            self._update()

    # The other registers

    def _read_plain(self, offset: int) -> int:
        """A register whose reading changes nothing."""
        if offset == UART_IER:
            return self._divisor >> 8 if self._lcr & UART_LCR_DLAB else self._ier
        if offset == UART_LCR:
            return self._lcr
        if offset == UART_MCR:
            return self._mcr
        if offset == UART_SCR:
            return self._scr
        self.ignored_accesses += 1
        return 0

    def _read_iir(self) -> int:
        iir = self._interrupts.iir
        if iir == UART_IIR_THRI:
            self._tx.empty_pending = False
            self._update()
        if self._fcr & UART_FCR_ENABLE_FIFO:
            return iir | UART_IIR_FIFO_ENABLED
        return iir

    def _read_lsr(self) -> int:
        lsr = self._rx.lsr | self._tx.lsr
        self._rx.acknowledge_errors()
        self._update()
        return lsr

    def _read_msr(self) -> int:
        msr = self._modem.msr
        self._modem.acknowledge_deltas()
        self._update()
        return msr

    def _write_ier(self, value: int) -> None:
        if self._lcr & UART_LCR_DLAB:
            self._set_divisor(value << 8 | self._divisor & 0xFF)
            return
        enabled = value & ~self._ier
        self._ier = value & IER_VALID
        if enabled & UART_IER_THRI:
            # Enabling it with THR empty interrupts, though IIR was read before:
            # drivers start their output so, and Linux tests for it.
            self._tx.empty_pending = not self._tx.fifo
        self._update()

    def _write_fcr(self, value: int) -> None:
        """Source: PC16550D, FIFO Control Register."""
        if (value ^ self._fcr) & UART_FCR_ENABLE_FIFO:
            clear = UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT
        elif value & UART_FCR_ENABLE_FIFO:
            clear = value
        else:
            clear = 0
        # The other bits are programmed only together with bit 0.
        self._fcr = value & FCR_STORED if value & UART_FCR_ENABLE_FIFO else 0
        self._rx.configure(self._fcr)
        if clear & UART_FCR_CLEAR_RCVR:
            self._clear_rx()
        if clear & UART_FCR_CLEAR_XMIT:
            self._tx.clear()
        self._update()

    def _set_divisor(self, divisor: int) -> None:
        self._divisor = divisor
        self._rx.timeout.delay_ns = timeout_ns(divisor, self._lcr)

    def _write_lcr(self, value: int) -> None:
        break_begins = value & ~self._lcr & UART_LCR_SBC
        self._lcr = value
        self._rx.timeout.delay_ns = timeout_ns(self._divisor, value)
        if break_begins and self._mcr & UART_MCR_LOOP:
            self._receive(0, UART_LSR_BI)
        self._update()

    def _write_mcr(self, value: int) -> None:
        changed = value ^ self._mcr
        self._mcr = value & MCR_VALID
        self._modem.update(self._mcr)
        if changed & UART_MCR_LOOP:
            if value & UART_MCR_LOOP:
                if self._lcr & UART_LCR_SBC:
                    self._receive(0, UART_LSR_BI)
            elif self._events is not None:
                self._events.in_buffer_empty()
        self._update()
