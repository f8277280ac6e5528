"""Echo: a virtio device that answers with what it was told, as its test wants it."""

from typing import TYPE_CHECKING, Annotated, Final

from vmm.devices.errors import DeviceError
from vmm.devices.state import State
from vmm.devices.virtio.device import VirtioDevice
from vmm.devices.virtio.queue import Virtqueue

if TYPE_CHECKING:
    from vmm.devices.virtio.chain import Chain

ECHO: Final = 61
"""Its type, which is nobody's."""
LOUD: Final = 0
"""A feature bit: it answers in capitals."""
LOUDER: Final = 3
"""Another one, which needs LOUD."""


class EchoState(State):
    capacity: Annotated[int, range(1 << 64)]
    tag: Annotated[bytes, range(4, 5)]


class Echo(VirtioDevice):
    """Queue 0 of up to 16, queue 1 of up to 8; 8 bytes of capacity, 4 of tag.

    It notes what is called. With `holds` it keeps chains until `answer_all`.
    """

    device_type = ECHO
    queue_sizes = (16, 8)
    features = 1 << LOUD | 1 << LOUDER

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.capacity = 0x1_0000_0002
        self.tag = b"echo"
        self.holds = False
        self.held: list[tuple[Virtqueue, Chain]] = []
        self.refuses_to_start = False

    def config(self) -> bytes:
        return self.capacity.to_bytes(8, "little") + self.tag

    def write_config(self, offset: int, data: bytes) -> None:
        if offset == 8 and len(data) == 4:
            self.tag = data

    def accepts(self, features: int) -> bool:
        return not features >> LOUDER & 1 or bool(features >> LOUD & 1)

    def activate(self) -> None:
        self.calls.append("activate")
        if self.refuses_to_start:
            raise DeviceError("nobody is there")

    def handle(self, queue: Virtqueue) -> None:
        self.calls.append(f"handle {queue.index}")
        for chain in queue:
            self.held.append((queue, chain))
        if not self.holds:
            self.answer_all()

    def answer_all(self) -> None:
        """For tests: from outside as well."""
        with self.working():
            held, self.held = self.held, []
            for queue, chain in held:
                words = chain.read(chain.readable_size)
                chain.write(words.upper() if self.has(LOUD) else words)
                queue.push(chain)

    def reset_queue(self, queue: Virtqueue) -> None:
        self.calls.append(f"reset queue {queue.index}")
        self.held = [each for each in self.held if each[0] is not queue]

    def reset(self) -> None:
        self.calls.append("reset")
        self.tag = b"echo"

    def state(self) -> EchoState:
        return EchoState(self.capacity, self.tag)

    def restore(self, state: State | None) -> None:
        new = EchoState.of(state)
        self.capacity, self.tag = new.capacity, new.tag
        self.held = []
