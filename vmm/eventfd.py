"""EventFd: a counter two threads, or a thread and KVM, wake each other with."""

import os
import threading

from .devices.errors import TriggerError


class EventFd:
    """A non-blocking eventfd. `close()` is idempotent."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def signal(self) -> None:
        """Add one. A counter at its limit is signalled enough as it is."""
        try:
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:
            return

    def take(self) -> bool:
        """Set the counter back to zero; whether it was more."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return False
        return True

    def drain(self) -> None:
        """Set the counter back to zero."""
        self.take()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class EventFdTrigger:
    """A devices.Interrupt of edges: an eventfd, which irqfd listens to.

    Closed, it is a wire that was cut: a thread of a device's own that was unplugged
    may still pull it, and nothing happens.
    """

    def __init__(self) -> None:
        self.eventfd = EventFd()
        self._has_fired = False
        self._lock = threading.Lock()  # or a closed number may be somebody else's

    def trigger(self) -> None:
        """Raise one edge. Raises TriggerError if the kernel refuses."""
        with self._lock:
            if self.eventfd.fd < 0:
                return
            self._has_fired = True
            try:
                self.eventfd.signal()
            except OSError as error:
                raise TriggerError(f"interrupt eventfd: {error.strerror}") from error

    def has_fired(self) -> bool:
        """Whether it was triggered since somebody has asked before."""
        with self._lock:
            fired, self._has_fired = self._has_fired, False
        return fired

    def set_level(self, high: bool) -> None:
        """Raises TriggerError: the next edge would end it."""
        raise TriggerError(
            "this interrupt is edge-triggered: trigger raises one, and "
            "LegacyIrqConstraint(level=True) asks for a level"
        )

    def close(self) -> None:
        with self._lock:
            self.eventfd.close()
