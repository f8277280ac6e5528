"""What guest/bare/count.S does to a device, checked."""

from typing import Annotated, Final

from vmm.devices import (
    DeviceIo,
    MmioAddressConstraint,
    PioAddressConstraint,
    ResourceConstraint,
    State,
    Uint64,
)

from .guests import wait_until

PORT: Final = 0x500
ADDRESS: Final = 0xE800_0000
STORES: Final = 0x2000  # from one CPU's to the next one's


class CountedState(State):
    written: tuple[Uint64, ...]
    loads: tuple[Uint64, ...]
    stores: tuple[Uint64, ...]
    low: tuple[Annotated[bytes, range(4, 5)] | None, ...]


class Counted(DeviceIo):
    """What count.S does, checked: nothing is lost, nothing comes twice."""

    def __init__(self, cpus: int = 1) -> None:
        self.wrong: list[str] = []
        self.written, self.loads, self.stores = [0] * cpus, [0] * cpus, [0] * cpus
        self.low: list[bytes | None] = [None] * cpus

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [
            PioAddressConstraint.at(PORT, 2),
            MmioAddressConstraint.at(ADDRESS, 0x1_0000),
        ]

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        if data[0] != self.written[offset] % 256:
            self.wrong.append(f"{data[0]:#x} after {self.written[offset]} bytes")
        self.written[offset] += 1

    def read(self, base: int, offset: int, data: memoryview) -> None:
        cpu = offset // 8
        self.loads[cpu] += 1
        data[:] = self.loads[cpu].to_bytes(8, "little")
        if self.written[cpu] != self.loads[cpu] * 256:
            self.wrong.append(f"load {self.loads[cpu]} after {self.written[cpu]} bytes")

    def write(self, base: int, offset: int, data: memoryview) -> None:
        cpu, is_high = divmod(offset - STORES + 4, STORES)
        if not is_high:
            self.low[cpu] = bytes(data)
            return
        low, self.low[cpu] = self.low[cpu], None
        self.stores[cpu] += 1
        value = int.from_bytes((low or b"") + bytes(data), "little")
        if low is None or value != self.stores[cpu]:
            self.wrong.append(f"store {self.stores[cpu]} of {value}")

    def state(self) -> CountedState:
        return CountedState(
            tuple(self.written), tuple(self.loads), tuple(self.stores), tuple(self.low)
        )

    def restore(self, state: State | None) -> None:
        kept = CountedState.of(state)
        self.written, self.loads = list(kept.written), list(kept.loads)
        self.stores, self.low = list(kept.stores), list(kept.low)


def goes_on(device: Counted) -> None:
    before = list(device.stores)
    wait_until(
        lambda: all(now > was for now, was in zip(device.stores, before, strict=True)),
        "all CPUs go on",
    )
