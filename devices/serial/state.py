"""SerialState: all of a Serial that a guest could tell, ready for JSON."""

from ..record import Record


class SerialState(Record, kw_only=True):
    """What `Serial.state()` saves and `Serial.from_state()` takes.

    The first ten fields are those of vm-superio's SerialState; a state that
    has only them is accepted. `interrupt_identification`, and the bits of
    `line_status` that mirror the FIFOs, are told for the reader's sake and
    computed anew on restoring. The state survives
    ``SerialState(**json.loads(json.dumps(asdict(state))))`` unchanged.

    Raises ValueError, naming the field, for what isn't a byte.
    """

    baud_divisor_low: int
    baud_divisor_high: int
    interrupt_enable: int
    interrupt_identification: int
    line_control: int
    line_status: int
    modem_control: int
    modem_status: int
    scratch: int
    in_buffer: tuple[int, ...]
    in_buffer_errors: tuple[int, ...] = ()
    """PE, FE and BI (as in LSR) of each byte of `in_buffer`; missing ones are 0."""
    fifo_control: int = 0
    """FCR without the bits that clear themselves."""
    tx_buffer: tuple[int, ...] = ()
    """Bytes that wait for room in the sink."""
    thre_pending: bool = False
    """THR became empty and IIR has not said so. Means nothing without IER.THRI."""
    rx_timeout_pending: bool = False
    rx_timeout_ns: int | None = None
    """Time left until the RX timeout; None: not running."""
    modem_lines: int = 0xB0
    """CTS, DSR, RI and DCD (as in MSR) as the host drives them."""

    def __post_init__(self) -> None:
        for name in ("in_buffer", "in_buffer_errors", "tx_buffer"):
            # JSON has no tuples.
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in self.field_names:
            if name in ("thre_pending", "rx_timeout_pending", "rx_timeout_ns"):
                continue
            value = getattr(self, name)
            for byte in value if isinstance(value, tuple) else (value,):
                if not (isinstance(byte, int) and 0 <= byte <= 0xFF):
                    raise ValueError(f"SerialState.{name}: {byte!r} is no byte")
