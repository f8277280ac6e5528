"""A clock that goes on while this process stands still: SIGSTOP, a freezer."""

from vmm.devices.clock import VirtualClock


class StoppedClock(VirtualClock):
    """Time may pass without that anybody runs."""

    def stand_still(self, delta_ns: int) -> None:
        """Let it pass: what falls due meanwhile runs once, and late."""
        self._now_ns += delta_ns
        self.advance(0)
