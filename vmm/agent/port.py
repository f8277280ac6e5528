"""AgentPort: the devices by which the agent speaks, and what speaks with it."""

from collections.abc import Callable

from ..devices.clock import Clock
from ..devices.serial import Serial
from ..devices.trigger import InterruptLine
from ..result import RunResult
from .guest import Guest
from .line import AgentLine, AgentPorts, AgentSerialPio
from .session import Session


class AgentPort:
    """COM2 with its host's side. It is plugged in only where there is an agent."""

    def __init__(self, clock: Clock, read_caller: Callable[[int], bytes]) -> None:
        """`read_caller` as AgentPorts has it."""
        self._line = AgentLine()
        irq_line = InterruptLine()
        serial = Serial(irq_line, self._line, clock=clock, events=self._line)
        self._line.connect(serial)
        self.devices = (
            AgentSerialPio(serial, irq_line, self._line),
            AgentPorts(self._line, read_caller),
        )
        self._session = Session(self._line)
        self._line.on_output = self._receive
        self.guest = Guest(self._session)

    def _receive(self) -> None:
        self._session.receive(self._line.take)

    def power_on(self) -> None:
        """The guest is about to boot, for the first time or again."""
        self._line.power_on()
        self._session.power_on()
        self.guest.is_started = True

    def hold(self) -> None:
        """The guest stands still: nothing reaches it until `go_on`."""
        self._line.hold()

    def go_on(self) -> None:
        """Undo it."""
        self._line.release()

    def end(self, result: RunResult | None) -> None:
        """The run is over; None: it isn't, after all."""
        self._session.end(result)
