"""Messages: a function's MSIs or MSI-Xs on their way out; the same for both."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeAlias

from ..errors import TriggerError
from ..trigger import MsiInterrupt, Signal

Message: TypeAlias = tuple[int, int]
"""A 64-bit address, and 32 bits of data."""


class Messages:
    """One interrupt for each vector, sent to where the guest wants it.

    A vector that is masked is pending once it is raised, and sent when it is masked no
    longer. `on_pending` is called when those that are pending have changed. All methods
    want the device's lock held.
    """

    def __init__(
        self, count: int, on_pending: Callable[[], None] | None = None
    ) -> None:
        self.pending = [False] * count
        self._on_pending = on_pending or _nothing
        self._targets: Sequence[MsiInterrupt] = ()
        self._routed: list[Message | None] = [None] * count
        self._sends: list[Callable[[], None] | None] = [None] * count
        self._vectors: dict[Signal, int] = {}
        self._heard_by: dict[Signal, MsiInterrupt] = {}

    def connect(self, targets: Sequence[MsiInterrupt]) -> None:
        """Send by these, of which none has been told a message; or, by none, nothing.

        All are masked then.
        """
        self._targets = targets
        self.forget()

    def forget(self) -> None:
        """Mask all, and tell each target anew where its message goes."""
        self._routed = [None] * len(self._routed)
        self._sends = [None] * len(self._sends)
        self._settle()

    def fire(self, vector: int) -> None:
        """Raise one. Raises TriggerError if the host can't deliver it."""
        send = self._sends[vector]
        if send is None:
            self.pending[vector] = True
            self._on_pending()
        else:
            send()

    def set(self, vector: int, message: Message | None) -> None:
        """From now on `vector` is `message`, or masked: None. Sends what is pending."""
        self._aim(vector, message)
        self._send_pending(vector)
        self._settle()

    def set_all(self, messages: Iterable[Message | None]) -> None:
        """As `set` for each vector from 0 on, with one change of the host's routes."""
        with suppress(TriggerError), self._together():
            for vector, message in enumerate(messages):
                self._aim(vector, message)
        for vector in range(len(self._sends)):
            self._send_pending(vector)
        self._settle()

    def _together(self) -> AbstractContextManager[None]:
        return self._targets[0].together() if self._targets else nullcontext()

    def _aim(self, vector: int, message: Message | None) -> None:
        self._sends[vector] = None
        if message is not None and vector < len(self._targets):
            self._sends[vector] = self._route(vector, message)

    def _send_pending(self, vector: int) -> None:
        send = self._sends[vector]
        if send is not None and self.pending[vector]:
            self.pending[vector] = False
            self._on_pending()
            send()

    def take(self, signal: Signal, vector: int | None) -> None:
        """From now on `signal` raises `vector`, or none that there is here.

        With no call of `fire` as long as that can be sent; else it is to be relayed.
        """
        if vector is None or vector >= len(self.pending):
            self._vectors.pop(signal, None)
        else:
            self._vectors[signal] = vector
        self._settle()

    def _settle(self) -> None:
        """Have each signal heard by the target that sends its vector now, if any."""
        for signal in self._vectors.keys() | self._heard_by.keys():
            target = self._target_of(signal)
            heard_by = self._heard_by.get(signal)
            if target is heard_by:
                continue
            if heard_by is not None:
                del self._heard_by[signal]
                heard_by.unlisten(signal.fd)
            if target is not None:
                with suppress(TriggerError):
                    target.listen(signal.fd)
                    self._heard_by[signal] = target
            signal.relay(signal not in self._heard_by)

    def _target_of(self, signal: Signal) -> MsiInterrupt | None:
        vector = self._vectors.get(signal)
        if vector is None or self._sends[vector] in (None, _nothing):
            return None
        return self._targets[vector]

    def _route(self, vector: int, message: Message) -> Callable[[], None]:
        """What sends it: nothing, where the guest's own message leads nowhere."""
        target = self._targets[vector]
        if message != self._routed[vector]:
            self._routed[vector] = None
            try:
                target.route(*message)
            except TriggerError:
                return _nothing
            self._routed[vector] = message
        return target.trigger

    def drop_pending(self) -> None:
        """Forget what has not been sent."""
        self.pending = [False] * len(self.pending)
        self._on_pending()


def _nothing() -> None:
    """Nobody is there to be told."""
