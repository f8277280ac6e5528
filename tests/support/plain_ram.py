"""PlainRam: a GuestRam that nobody runs in."""


class PlainRam:
    """Zeros from guest address 0 on."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def view(self, guest_addr: int, size: int) -> memoryview:
        return memoryview(self.data)[guest_addr : guest_addr + size]

    def read(self, guest_addr: int, size: int) -> bytes:
        return bytes(self.view(guest_addr, size))

    def write(self, guest_addr: int, data: bytes | bytearray | memoryview) -> None:
        self.view(guest_addr, len(data))[:] = data
