"""Balloon: how much of its RAM a guest gives back, and what it says of the rest."""

import threading
import time

from .. import threads
from ..devices.virtio.balloon import VirtioBalloon
from ..errors import ConfigError, VmmError


class Balloon:
    """The guest's, as `machine.balloon`. All of it is for any thread; sizes are bytes.

    What the guest has freed, and reports, goes back to the host besides, if its kernel
    does that (CONFIG_PAGE_REPORTING). A clone goes on with the target it was saved by.
    """

    def __init__(self, device: VirtioBalloon) -> None:
        self._device = device
        self._changed = threading.Condition()
        device.on_actual = self._tell

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @property
    def target(self) -> int:
        """What it is to have, in whole pages of 4 KiB; 0 gives the guest all its RAM.

        The guest comes as near as it can, takes some back rather than kill a process,
        and tries again. Raises ConfigError for more than there is.
        """
        return self._device.target

    @target.setter
    def target(self, size: int) -> None:
        try:
            self._device.target = size
        except ValueError as error:
            raise ConfigError(f"balloon: {error}") from None

    @property
    def actual(self) -> int:
        """What it has, as the guest says."""
        return self._device.actual

    def wait(self, timeout: float = 30) -> None:
        """Wait until it has what it is to have. Raises TimeoutError after `timeout` s.

        That is also how it ends where the guest has no driver, or no such memory.
        """
        end = time.monotonic() + timeout
        with self._changed:
            while self.actual != self.target:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"balloon: it has {self.actual} of {self.target} bytes after "
                        f"{timeout:g} s"
                    )
                threads.nap(self._changed, left)

    def statistics(self, timeout: float = 10) -> dict[str, int]:
        """Of the guest's memory as it is now, those that its kernel knows.

        "free_memory", "available_memory", "total_memory", "disk_caches", "swap_in" and
        "swap_out" are bytes; the others are counts, such as "major_faults".
        Raises VmmError if the guest has no driver for it, TimeoutError if it is silent.
        """
        told: list[dict[str, int]] = []

        def take(statistics: dict[str, int]) -> None:
            told.append(statistics)
            self._tell()

        if not self._device.ask_statistics(take):
            raise VmmError(
                "balloon: no driver of the guest's is there that has statistics: is it "
                "still booting, or is CONFIG_VIRTIO_BALLOON missing?"
            )
        end = time.monotonic() + timeout
        with self._changed:
            while not told:
                left = end - time.monotonic()
                if left <= 0:
                    break
                threads.nap(self._changed, left)
        if not told:
            self._device.forget_statistics(take)
            raise TimeoutError(f"balloon: no statistics within {timeout:g} s")
        return told[0]
