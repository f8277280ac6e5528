"""Trigger: how a device asks for an interrupt without knowing what listens.

vm-superio's concept of the same name. A VMM passes something that ends in an
irqfd; a test passes something that counts.
"""

from typing import Protocol


class Trigger(Protocol):
    """Something a device can pull to notify its driver."""

    def trigger(self) -> None:
        """Raise one edge. Never blocks; callable from any thread.

        Raises TriggerError when the edge can't be delivered.
        """


class InterruptLine:
    """A Trigger that is wired after the device was made; unwired it does nothing.

    A chip is created before the resource manager has found it an interrupt, so
    it is given a line, and its bus adapter connects the line when the
    resources are assigned.
    """

    __slots__ = ("_target",)

    def __init__(self) -> None:
        self._target: Trigger | None = None

    def connect(self, target: Trigger | None) -> None:
        """Send further edges to `target`; None disconnects."""
        self._target = target

    def trigger(self) -> None:
        """Pass the edge on, or drop it while nothing is connected."""
        if self._target is not None:
            self._target.trigger()
