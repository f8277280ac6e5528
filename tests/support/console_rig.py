"""A console with a guest at its inner end."""

import threading
from collections.abc import Callable

from vmm.console.config import ConsoleConfig
from vmm.console.console import Console
from vmm.devices.serial import Serial
from vmm.event_loop import EventLoop

DEADLINE = 10.0
RX, IER, FCR, MCR, LSR = 0, 1, 2, 4, 5  # offsets of registers
DATA_READY, BREAK = 1, 0x10
PIPE_SIZE = 4096

OnLoop = Callable[[Callable[[], object]], None]


class Guest:
    """A driver that reads its UART by interrupt."""

    def __init__(self, console: Console, loop: EventLoop) -> None:
        self._interrupt = threading.Event()
        self.serial = Serial(self, console.sink, clock=loop, events=console.events)

    def trigger(self) -> None:
        self._interrupt.set()

    def listen(self) -> None:
        """Turn the FIFOs and the receive interrupt on."""
        self.serial.write(FCR, 1)
        self.serial.write(IER, 1)

    @property
    def has_input(self) -> bool:
        return bool(self.serial.read(LSR) & DATA_READY)

    def read(self, count: int) -> bytes:
        return bytes(byte or 0 for byte in self.read_with_breaks(count))

    def read_with_breaks(self, count: int) -> list[int | None]:
        """Bytes, and None for each break."""
        data: list[int | None] = []
        while len(data) < count:
            assert self._interrupt.wait(DEADLINE)
            self._interrupt.clear()
            while (status := self.serial.read(LSR)) & DATA_READY:
                byte = self.serial.read(RX)
                data.append(None if status & BREAK else byte)
        return data


class Rig:
    """A console with a guest at its inner end."""

    def __init__(self, loop: EventLoop, serial: str, *tee: str) -> None:
        self.failures: list[str] = []
        self.failed = threading.Event()
        config = ConsoleConfig(serial=serial, tee=tee)
        self.shown = bytearray()
        """What the console shows to whoever watches it."""
        self.console = Console(loop, config, self._fail, on_output=self._watch)
        self.guest = Guest(self.console, loop)
        self.console.connect(self.guest.serial)

    def _fail(self, detail: str) -> None:
        self.failures.append(detail)
        self.failed.set()

    def _watch(self, position: int, data: bytes) -> None:
        self.shown[position : position + len(data)] = data

    def print(self, data: bytes) -> None:
        assert self.console.sink.write(data) == len(data)


Start = Callable[..., Rig]
