"""Trigger: how a device asks for an interrupt without knowing what listens.

vm-superio's concept of the same name. A VMM passes something that ends in an
irqfd; a test passes something that counts.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Trigger(Protocol):
    """Something a device can pull to notify its driver."""

    def trigger(self) -> None:
        """Raise one edge. Never blocks; callable from any thread.

        Raises TriggerError when the edge can't be delivered.
        """


class Interrupt(Trigger, Protocol):
    """What a device is assigned for an interrupt: of edges or, as asked, of a level.

    A level is part of the device's own state, as it is of a chip's pin: nobody else
    saves it, so that a device's `restore` sets it again, and its `reset` to low.
    """

    def trigger(self) -> None:
        """Raise one edge. Raises TriggerError where a level was asked for."""

    def set_level(self, high: bool) -> None:
        """Hold a level-triggered line high, or let it go. Never blocks.

        A driver is interrupted for as long as anybody holds the line: again after
        each end of interrupt. To set what is set already does nothing. Callable from
        any thread. Raises TriggerError where edges were asked for, or when the line
        can't be reached.
        """


class MsiInterrupt(Interrupt, Protocol):
    """An Interrupt that is a message, as PCI's MSI and MSI-X are, of one edge each."""

    def route(self, address: int, data: int) -> None:
        """Send that message from now on: 32 bits of `data` to a 64-bit `address`.

        Edges before the first one are lost. May take milliseconds where it isn't what
        it was. Raises TriggerError if it can't be sent there.
        """

    def together(self) -> "AbstractContextManager[None]":
        """What any of its kind is routed to in the ``with`` is one change at its end.

        Edges wait until then. Raises TriggerError there if the host refuses; it is
        tried again with the next change.
        """

    def listen(self, eventfd: int) -> None:
        """Have signals of `eventfd`, too, send the message, by the host's kernel.

        One that it has is sent at once. May take milliseconds. Raises TriggerError.
        """

    def unlisten(self, eventfd: int) -> None:
        """Undo it; from then on its signals stay in it. Idempotent."""


class Signal(Protocol):
    """An eventfd by which somebody outside of the VMM raises a device's interrupt."""

    @property
    def fd(self) -> int:
        """Its number."""

    def relay(self, is_wanted: bool, /) -> None:
        """Whether to wait for it, and call the device: nobody else listens then.

        Never blocks.
        """


class InterruptLine:
    """An Interrupt that is wired after the device was made; unwired it does nothing.

    A chip is created before the resource manager has found it an interrupt, so
    it is given a line, and its bus adapter connects the line when the
    resources are assigned.
    """

    __slots__ = ("_high", "_target")

    def __init__(self) -> None:
        self._target: Interrupt | None = None
        self._high = False

    def connect(self, target: Interrupt | None) -> None:
        """Send edges to `target`, and a level that is held; None disconnects."""
        self._target = target
        if self._high and target is not None:
            target.set_level(True)

    def trigger(self) -> None:
        """Pass the edge on, or drop it while nothing is connected."""
        target = self._target  # which an unplug may take away meanwhile
        if target is not None:
            target.trigger()

    def set_level(self, high: bool) -> None:
        """Pass the level on, now and to what is connected later."""
        self._high = high
        target = self._target
        if target is not None:
            target.set_level(high)
