"""DeviceThreads: an event loop, on a thread, for each device that wants its own."""

import threading
from typing import TYPE_CHECKING

from ..event_loop import EventLoop
from .kvm_wiring import class_name

if TYPE_CHECKING:
    from ..devices.device_io import DeviceIo


class DeviceThreads:
    """They run while the machine's loop does. Thread-safe."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._loops: list[EventLoop] = []
        self._runs = False

    def new(self, device: "DeviceIo") -> EventLoop:
        """A loop for `device`. Raises VmmError if there can't be another thread."""
        loop = self._loop.sibling(f"vmm-{class_name(device)}")
        try:
            with self._lock:
                if self._runs:
                    loop.start()
                self._loops.append(loop)
        except BaseException:
            loop.close()
            raise
        return loop

    def start(self) -> None:
        """Start all of them. Raises VmmError."""
        with self._lock:
            self._runs = True
            for loop in self._loops:
                loop.start()

    def stop(self) -> None:
        """End their threads; what has rung until then is served. Idempotent."""
        with self._lock:
            self._runs = False
            loops = list(self._loops)
        for loop in loops:
            loop.stop()

    def settle(self) -> None:
        """Wait until each is through with what had rung. For who isn't one of them."""
        with self._lock:
            loops = list(self._loops) if self._runs else []
        for loop in loops:
            loop.settle(lambda: None)

    def end(self, loop: EventLoop) -> None:
        """The device goes: close its loop; on its own thread, where nobody can wait
        for that to end, only with all others."""
        if loop.is_own_thread():
            return
        with self._lock:
            if loop in self._loops:
                self._loops.remove(loop)
        loop.close()

    def close(self) -> None:
        """Close all that there are. Idempotent."""
        self.stop()
        with self._lock:
            loops, self._loops = self._loops, []
        for loop in loops:
            loop.close()

    def is_own_thread(self) -> bool:
        """Whether the calling thread is one of them."""
        with self._lock:
            return any(loop.is_own_thread() for loop in self._loops)
