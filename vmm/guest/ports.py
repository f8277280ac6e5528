"""CommandPort: the devices by which a guest's command tells how it ended and what it
printed. They are plugged in only where a command is run."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..console.config import ConsoleConfig
from ..console.console import Console
from ..devices.pc.command_exit import CommandExit
from ..devices.pc.platform import SerialPio
from ..devices.serial import Serial
from ..devices.trigger import InterruptLine
from ..event_loop import EventLoop
from ..expect.capture import CAPTURE_LIMIT
from ..place import Place

if TYPE_CHECKING:
    from ..devices.device_io import DeviceIo

COM2: Final = 0x2F8
COM2_IRQ: Final = 3


class CommandPort:
    """The exit port and, if output is captured, COM2, to be treated as `console` is."""

    def __init__(
        self,
        loop: EventLoop,
        capture: Place | None,
        console: ConsoleConfig,
        on_failure: Callable[[str], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """Raises ConfigError if the output can't be opened."""
        self.devices: list[DeviceIo] = [CommandExit(on_exit)]
        self.output: Console | None = None
        self._is_kept = capture is not None and capture.kind == "capture"
        if capture is None:
            return
        # What is kept has a limit after which it is dropped: nobody reads on.
        limit = CAPTURE_LIMIT if self._is_kept else console.serial_limit
        settings = console.replace(serial=capture, serial_limit=limit, tee=())
        self.output = Console(loop, settings, on_failure, field="capture")
        self.output.owner = "the command"
        line = InterruptLine()
        serial = Serial(line, self.output.sink, clock=loop, events=self.output.events)
        self.output.connect(serial)
        self.devices.append(SerialPio(serial, line, base=COM2, irq=COM2_IRQ))

    def kept_output(self) -> bytes | None:
        """What the command has printed, if it is kept."""
        if self.output is None or not self._is_kept:
            return None
        return self.output.read()
