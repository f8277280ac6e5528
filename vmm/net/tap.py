"""TapLink: a tap device that the host has; its kernel does the offloads.

Sources: Linux Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h.
"""

import errno
import fcntl
import os
from struct import pack
from typing import TYPE_CHECKING, Final

from ..devices.virtio.net import (
    FRAME_MAX,
    HEADER_SIZE,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
)
from ..errors import ConfigError
from .inlet import Inlet

if TYPE_CHECKING:
    from ..devices.clock import Clock
    from ..devices.virtio.net import VirtioNet
    from ..event_loop import EventLoop

TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
NAME_MAX: Final = 15

_TUN_F: Final = {
    VIRTIO_NET_F_GUEST_CSUM: 1,
    VIRTIO_NET_F_GUEST_TSO4: 2,
    VIRTIO_NET_F_GUEST_TSO6: 4,
}
_PIECES_MAX: Final = 64  # of a frame that are written as they are
_PROBLEMS: Final = {
    errno.EPERM: "it isn't ours: its owner may be set by 'ip tuntap add ... user NAME'",
    errno.EBUSY: "it is in use",
    errno.EINVAL: "it is no tap device, or one for several queues",
}


class TapLink:
    """A NetLink to the tap device of that name. Raises ConfigError if it can't be had.

    None is made: who may do that is root, and a network is more than a device.
    """

    has_header = True

    def __init__(self, loop: "EventLoop", clock: "Clock", name: str) -> None:
        self.is_up = True
        """Until the device is deleted."""
        self._card: VirtioNet | None = None
        self._clock = clock
        self._fd = _open(name)
        self._inlet = Inlet(loop, clock, self._fd, self._on_readable)

    def _on_readable(self) -> None:
        if self._card is not None:
            self._card.on_frames()

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._card = None
            self._inlet.close(lambda: os.close(fd))

    # As a NetLink

    def attach(self, card: "VirtioNet") -> None:
        self._card = card

    def is_full(self) -> bool:
        """Never: the kernel loses what it has no room for."""
        return False

    def send(self, frame: list[memoryview]) -> None:
        if self._fd < 0:
            return
        parts = [b"".join(frame)] if len(frame) > _PIECES_MAX else frame
        try:
            os.writev(self._fd, parts)
        except OSError:  # the device is down, or says that this is no frame: it is lost
            return

    def receive(self) -> bytes | None:
        if self._fd < 0:
            return None
        try:
            return os.read(self._fd, HEADER_SIZE + FRAME_MAX)
        except BlockingIOError:
            self._inlet.ask()
        except OSError:  # it was deleted; where it is down there is nothing to read
            self.is_up = False
            if self._card is not None:
                self._clock.call_at(0, self._card.link_changed)
        return None

    def set_offloads(self, features: int) -> None:
        if self._fd >= 0:
            flags = sum(flag for bit, flag in _TUN_F.items() if features >> bit & 1)
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, flags)


def _open(name: str) -> int:
    if not os.path.exists(f"/sys/class/net/{name}"):
        raise ConfigError(
            f"tap: there is no {name!r}: make it with 'ip tuntap add {name} mode tap'"
        )
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"tap: '/dev/net/tun': {error.strerror}") from None
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(fd, TUNSETIFF, pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, pack("i", HEADER_SIZE))
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
    except OSError as error:
        os.close(fd)
        problem = _PROBLEMS.get(error.errno or 0, error.strerror)
        raise ConfigError(f"tap: {name!r}: {problem}") from None
    return fd
