"""VideoWindow: 0xA0000 to 0xBFFFF, where RAM is unless a device has claimed it.

Kernels that print by writing text to 0xB8000 find memory there, whoever reads it; a
device that has an address in it gets the whole window, as a display adapter does.
"""

from ..kvm.vm import Vm
from ..memory import Region


class VideoWindow:
    """The window of one VM. Its callers, one at a time, hold DeviceManager's lock."""

    def __init__(self, vm: Vm, slot: int, region: Region, host_addr: int) -> None:
        """Back it by RAM: it is the VM's memory slot `slot`."""
        self._vm = vm
        self._slot = slot
        self._region = region
        self._host_addr = host_addr
        self._claims = 0
        self._back(region.size)

    def open(self) -> None:
        """Take the RAM away, for one device more."""
        if not self._claims:
            self._back(0)
        self._claims += 1

    def close(self) -> None:
        """Put it back, if that was the last one."""
        self._claims -= 1
        if not self._claims:
            self._back(self._region.size)

    def renew(self) -> None:
        """Take the slot away and put it back.

        With any slot that goes KVM forgets all that it knows of guest page tables: it
        is its only way to say so.
        """
        now, other = self._region.size, 0
        if self._claims:
            now, other = other, now
        self._back(other)
        self._back(now)

    def _back(self, size: int) -> None:
        address = self._region.guest_addr
        self._vm.set_user_memory_region(self._slot, address, size, self._host_addr)
