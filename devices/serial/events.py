"""SerialEvents: what a host may want to know of a Serial's traffic."""


class SerialEvents:
    """Called by a Serial for each thing that happens. The defaults do nothing.

    Every method is called with the Serial's lock held, on whichever thread
    caused it: it must not block, and must not call the Serial back.
    """

    def buffer_read(self) -> None:
        """The guest took a byte out of RBR."""

    def out_byte(self) -> None:
        """A byte went to the sink."""

    def tx_lost_byte(self) -> None:
        """A byte from the guest was thrown away.

        It was forced into a full TX FIFO, was in the FIFO when the guest or a
        reset cleared it, or the sink dropped it by its policy.
        """

    def in_buffer_empty(self) -> None:
        """The Serial may take host input that it had no room for.

        Called whenever the RX FIFO becomes empty, by the guest reading its
        last byte or clearing it, whenever loopback is left, and at every
        reset and restore. So a host whose `enqueue_raw_bytes` took less than all of its
        bytes, or raised FullFifo, may wait for this call: it can't be missed.
        """


class SerialMetrics(SerialEvents):
    """SerialEvents that counts each of them."""

    def __init__(self) -> None:
        self.buffer_reads = 0
        self.out_bytes = 0
        self.tx_lost_bytes = 0
        self.in_buffer_empties = 0

    def buffer_read(self) -> None:
        self.buffer_reads += 1

    def out_byte(self) -> None:
        self.out_bytes += 1

    def tx_lost_byte(self) -> None:
        self.tx_lost_bytes += 1

    def in_buffer_empty(self) -> None:
        self.in_buffer_empties += 1


def overrides(events: SerialEvents, *names: str) -> bool:
    """Whether `events` does something in any of its methods `names`."""
    return any(
        getattr(type(events), name) is not getattr(SerialEvents, name) for name in names
    )
