"""Messages: a function's MSIs or MSI-Xs on their way out; the same for both."""

from collections.abc import Sequence
from typing import TypeAlias

from ..errors import TriggerError
from ..trigger import MsiInterrupt

Message: TypeAlias = tuple[int, int]
"""A 64-bit address, and 32 bits of data."""


class Messages:
    """One interrupt for each vector, sent to where the guest wants it.

    A vector that can't send yet is pending, and does when it can. All methods want the
    device's lock held.
    """

    def __init__(self, count: int) -> None:
        self.pending = [False] * count
        self._targets: Sequence[MsiInterrupt] = ()
        self._routed: list[Message | None] = [None] * count

    def connect(self, targets: Sequence[MsiInterrupt]) -> None:
        """Send by these, which know of no message yet; none at all disconnects."""
        self._targets = targets
        self.forget_routes()

    def forget_routes(self) -> None:
        """Tell each target again where its message goes, when it is next told."""
        self._routed = [None] * len(self._routed)

    def fire(self, vector: int, message: Message | None) -> None:
        """Send it, or have it pending where there is no `message` for now."""
        self.pending[vector] = True
        self.update(vector, message)

    def update(self, vector: int, message: Message | None) -> None:
        """From now on `vector` is `message`, or masked: None. Sends what is pending."""
        if message is None or vector >= len(self._targets):
            return
        target = self._targets[vector]
        if message != self._routed[vector]:
            try:
                target.route(*message)
            except TriggerError:  # the guest's own message, which leads nowhere
                self._routed[vector] = None
                self.pending[vector] = False
                return
            self._routed[vector] = message
        if self.pending[vector]:
            self.pending[vector] = False
            target.trigger()

    def drop_pending(self) -> None:
        """Forget what has not been sent."""
        self.pending = [False] * len(self.pending)
