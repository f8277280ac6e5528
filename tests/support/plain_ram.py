"""PlainRam: a GuestRam that nobody runs in."""

from vmm.devices.errors import NotRam

PAGE_SIZE = 4096


class PlainRam:
    """Zeros at guest addresses `start`..`start + size - 1`, and nothing elsewhere."""

    def __init__(self, size: int, start: int = 0) -> None:
        self.data = bytearray(size)
        self._start = start

    def view(self, guest_addr: int, size: int) -> memoryview:
        at = guest_addr - self._start
        if not 0 <= at <= at + size <= len(self.data):
            raise NotRam(f"[{guest_addr:#x}, {guest_addr + size:#x}) is not RAM")
        return memoryview(self.data)[at : at + size]

    def read(self, guest_addr: int, size: int) -> bytes:
        return bytes(self.view(guest_addr, size))

    def write(self, guest_addr: int, data: bytes | bytearray | memoryview) -> None:
        self.view(guest_addr, len(data))[:] = data

    def discard(self, guest_addr: int, size: int) -> None:
        view = self.view(guest_addr, size)
        start, end = -guest_addr % PAGE_SIZE, size - (guest_addr + size) % PAGE_SIZE
        view[start:end] = bytes(max(0, end - start))
