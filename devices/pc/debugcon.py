"""Debugcon: port 0xE9, at which kernels print a byte by one instruction.

Source: Bochs' "port 0xE9 hack", and QEMU's hw/char/debugcon.c (isa-debugcon): reading
the port gives its own number, by which a guest knows that somebody listens.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from ..device_io import DeviceIo
from ..fast_port import FastPort
from ..resources import PioAddressConstraint, ResourceConstraint
from ..sink import Sink

DEBUGCON_PORT: Final = 0xE9


class Debugcon(DeviceIo):
    """Gives what is written to `sink`; what that doesn't take at once is lost.

    Writes are posted: they make no exit where KVM can collect them.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._port = FastPort(posted=True)
        self._port.answer(DEBUGCON_PORT)

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [PioAddressConstraint.at(DEBUGCON_PORT, 1)]

    def get_fast_ports(self) -> Mapping[int, FastPort]:
        return {DEBUGCON_PORT: self._port}

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[0] = DEBUGCON_PORT

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self._sink.write(bytes(data))
