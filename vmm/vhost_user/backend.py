"""Backend: a VirtioDevice at the end of a connection, for one front end."""

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from ..devices.virtio.device import NoTransport
from ..devices.virtio.features import VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1
from ..event_loop import READ
from . import protocol
from .protocol import Channel, Message, ProtocolError
from .shared_ram import SharedRam, map_region
from .vring import Vring, check_event_fd

if TYPE_CHECKING:
    from ..devices.virtio.device import VirtioDevice
    from ..devices.virtio.queue import Virtqueue
    from ..event_loop import EventLoop

_MOST_MESSAGES: Final = 64  # in one turn of the loop
_PROTOCOL_FEATURES: Final = (
    1 << protocol.PROTOCOL_F_MQ
    | 1 << protocol.PROTOCOL_F_REPLY_ACK
    | 1 << protocol.PROTOCOL_F_RESET_DEVICE
)
# Of a device that has a configuration space: else QEMU warns.
_CONFIG_FEATURES: Final = (
    1 << protocol.PROTOCOL_F_BACKEND_REQ | 1 << protocol.PROTOCOL_F_CONFIG
)


class Backend:
    """Serves `device` to the front end at the other end of `channel`.

    All on the loop's thread, until the connection ends: then the device is reset, and
    `on_end` is told why, or "" if the front end has left. It ends with the first
    message that breaks the rules; nothing else of ours does.

    A device learns that its driver is ready when the first ring is served. That it is
    reset it learns from RESET_DEVICE or, as not every front end sends that, when rings
    don't go on where they had stopped, or with other features: that they stop may be
    for a pause only.
    """

    def __init__(
        self,
        device: "VirtioDevice",
        channel: "Channel",
        loop: "EventLoop",
        on_end: Callable[[str], None],
    ) -> None:
        self._device = device
        self._channel = channel
        self._loop = loop
        self._on_end = on_end
        self._ram = SharedRam()
        self._features = 0
        self._active_features: int | None = None  # of the life that may go on
        self._protocol_features = 0
        self._rings_start_enabled = True
        self._requests: Channel | None = None  # of ours
        self._is_open = True
        self._vrings = [
            Vring(queue, loop, partial(self._serve, queue)) for queue in device.queues
        ]
        device.transport = self
        loop.watch(channel.fileno(), READ, self._on_messages)

    def close(self) -> None:
        """End the connection. Idempotent."""
        self._end("")

    def _end(self, why: str) -> None:
        if not self._is_open:
            return
        with self._device.lock:  # which whoever interrupts the driver has
            self._is_open = False
            self._device.stop()
            self._device.transport = NoTransport()
            for vring in self._vrings:
                vring.close()
            if self._requests is not None:
                self._requests.close()
        self._loop.unwatch(self._channel.fileno())
        self._channel.close()
        self._on_end(why)

    # The device's transport

    def interrupt_queue(self, queue: "Virtqueue", /) -> None:
        self._vrings[queue.index].call()

    def interrupt_config(self) -> None:
        """Tell the front end that the configuration has changed, or all is over."""
        if self._device.trouble:
            for vring in self._vrings:
                vring.err()
        if self._requests is not None and self._has(protocol.PROTOCOL_F_CONFIG):
            try:
                self._requests.send(protocol.BACKEND_CONFIG_CHANGE_MSG)
            except (ProtocolError, EOFError):  # it doesn't read them, and asks some day
                return

    def serve_again(self, queue: "Virtqueue", /) -> None:
        self._loop.call_soon(partial(self._serve, queue))

    def _serve(self, queue: "Virtqueue") -> None:
        vring = self._vrings[queue.index]
        with self._device.lock:
            if self._is_open and vring.is_started and vring.is_enabled:
                self._activate()
                self._device.serve(queue)

    def _activate(self) -> None:
        device = self._device
        if device.is_active or device.trouble:
            return
        goes_on = all(vring.goes_on for vring in self._vrings if vring.is_started)
        if goes_on and self._active_features == self._features:
            device.is_active = True
            return
        device.reset()
        device.negotiated = self._active_features = self._features
        device.start()

    # Messages

    def _on_messages(self) -> None:
        try:
            for _ in range(_MOST_MESSAGES):
                message = self._channel.receive()
                if message is None:
                    return
                try:
                    self._answer(message)
                finally:
                    message.close()
        except EOFError:
            self._end("")
        except ProtocolError as error:
            self._end(str(error))

    def _answer(self, message: Message) -> None:
        known = _HANDLERS.get(message.request)
        if known is None:
            raise ProtocolError(f"request {message.request}: we don't offer that")
        name, handler = known
        try:
            with self._device.lock:
                reply = handler(self, message)
        except ProtocolError as error:
            raise ProtocolError(f"{name}: {error}") from None
        needs_reply = message.flags & protocol.NEED_REPLY
        if reply is None and needs_reply and self._has(protocol.PROTOCOL_F_REPLY_ACK):
            reply = protocol.U64.pack(0)
        if reply is not None:
            self._channel.send(message.request, protocol.REPLY, reply)

    def _has(self, bit: int) -> bool:
        return bool(self._protocol_features >> bit & 1)

    def _ignore(self, message: Message) -> None:
        """SET_OWNER, which says nothing new, and RESET_OWNER, which means nothing."""

    def _get_features(self, message: Message) -> bytes:
        offered = self._device.offered | 1 << protocol.VHOST_USER_F_PROTOCOL_FEATURES
        return protocol.U64.pack(offered)

    def _set_features(self, message: Message) -> None:
        (features,) = message.unpack(protocol.U64)
        own = features & ~(1 << protocol.VHOST_USER_F_PROTOCOL_FEATURES)
        if strange := own & ~self._device.offered:
            raise ProtocolError(f"{strange:#x} isn't offered")
        if not own >> VIRTIO_F_VERSION_1 & 1:
            raise ProtocolError("without VERSION_1: a legacy driver is none of ours")
        if not self._device.accepts(own):
            raise ProtocolError(f"the device can't work with {own:#x}")
        self._features = own
        self._rings_start_enabled = own == features

    def _get_protocol_features(self, message: Message) -> bytes:
        return protocol.U64.pack(self._offered_protocol_features())

    def _offered_protocol_features(self) -> int:
        return _PROTOCOL_FEATURES | (_CONFIG_FEATURES if self._device.config() else 0)

    def _set_protocol_features(self, message: Message) -> None:
        (features,) = message.unpack(protocol.U64)
        if strange := features & ~self._offered_protocol_features():
            raise ProtocolError(f"{strange:#x} isn't offered")
        self._protocol_features = features

    def _get_queue_num(self, message: Message) -> bytes:
        return protocol.U64.pack(len(self._vrings))

    def _set_mem_table(self, message: Message) -> None:
        count, _ = protocol.MEMORY.unpack_from(message.payload.ljust(8, b"\0"))
        regions = message.payload[protocol.MEMORY.size :]
        if not 1 <= count <= protocol.MOST_REGIONS or count != len(message.fds):
            raise ProtocolError(f"{count} regions, {len(message.fds)} descriptors")
        if len(regions) != count * protocol.REGION.size:
            raise ProtocolError(f"{count} regions in {len(message.payload)} bytes")
        self._ram.regions = [
            map_region(fd, *fields)
            for fd, fields in zip(
                message.fds, protocol.REGION.iter_unpack(regions), strict=True
            )
        ]
        for vring in self._vrings:  # whose views are of the memory of before
            if vring.is_started:
                self._start_again(vring)

    def _vring(self, index: int) -> Vring:
        if index >= len(self._vrings):
            raise ProtocolError(f"ring {index} of {len(self._vrings)}")
        return self._vrings[index]

    def _stopped_vring(self, index: int) -> Vring:
        vring = self._vring(index)
        if vring.is_started:
            raise ProtocolError(f"ring {index} is started")
        return vring

    def _set_vring_num(self, message: Message) -> None:
        index, num = message.unpack(protocol.VRING_STATE)
        self._stopped_vring(index).num = num

    def _set_vring_addr(self, message: Message) -> None:
        index, _, desc, used, available, _ = message.unpack(protocol.VRING_ADDR)
        self._stopped_vring(index).user_addrs = desc, used, available

    def _set_vring_base(self, message: Message) -> None:
        index, base = message.unpack(protocol.VRING_STATE)
        self._stopped_vring(index).base = base

    def _get_vring_base(self, message: Message) -> bytes:
        index, _ = message.unpack(protocol.VRING_STATE)
        vring = self._vring(index)
        self._device.reset_queue(vring.queue)
        base = vring.stop(bool(self._features >> VIRTIO_F_RING_PACKED & 1))
        if not any(vring.is_started for vring in self._vrings):
            for vring in self._vrings:
                vring.pause()
            self._device.is_active = False
            if self._device.trouble:
                self._stop_device()
        return protocol.VRING_STATE.pack(index, base)

    def _fd_of_vring(self, message: Message) -> tuple[Vring, int]:
        """A ring, and the descriptor for it, or -1 for none."""
        (value,) = message.unpack(protocol.U64)
        vring = self._vring(value & protocol.VRING_INDEX)
        if value & protocol.VRING_NO_FD:
            return vring, -1
        for fd in message.fds:
            check_event_fd(fd)
        return vring, message.take_fd()

    def _set_vring_kick(self, message: Message) -> None:
        vring, fd = self._fd_of_vring(message)
        if fd < 0:
            raise ProtocolError("without a descriptor: we don't poll")
        vring.set_kick(fd)
        if not vring.is_started:
            vring.start(self._ram, self._features)
            if vring.is_paused and not vring.goes_on:
                self._begin_anew(vring)
            vring.is_paused = False
            vring.is_enabled = vring.is_enabled or self._rings_start_enabled
        self.serve_again(vring.queue)

    def _begin_anew(self, started: Vring) -> None:
        """The driver is another one: what rings before this one went on with isn't."""
        self._active_features = None
        self._device.is_active = False
        for vring in self._vrings:
            if vring.is_started and vring is not started:
                self._start_again(vring)

    def _start_again(self, vring: Vring) -> None:
        self._device.reset_queue(vring.queue)
        vring.start_again(self._ram, self._features)
        self.serve_again(vring.queue)

    def _set_vring_call(self, message: Message) -> None:
        vring, fd = self._fd_of_vring(message)
        vring.set_call(fd)

    def _set_vring_err(self, message: Message) -> None:
        vring, fd = self._fd_of_vring(message)
        vring.set_err(fd)

    def _set_vring_enable(self, message: Message) -> None:
        index, enable = message.unpack(protocol.VRING_STATE)
        vring = self._vring(index)
        vring.is_enabled = bool(enable)
        self.serve_again(vring.queue)

    def _set_backend_req_fd(self, message: Message) -> None:
        fd = message.take_fd()
        try:
            requests = Channel(socket.socket(fileno=fd))
        except OSError as error:
            os.close(fd)
            raise ProtocolError(f"no socket: {error.strerror}") from None
        if self._requests is not None:
            self._requests.close()
        self._requests = requests

    def _get_config(self, message: Message) -> bytes:
        offset, size, flags = self._config_range(message)
        config = self._device.config()[offset : offset + size].ljust(size, b"\0")
        return protocol.CONFIG.pack(offset, size, flags) + config

    def _set_config(self, message: Message) -> None:
        offset, size, _ = self._config_range(message)
        if offset + size > len(self._device.config()):
            raise ProtocolError(f"{size} bytes at {offset} are beyond its end")
        data = message.payload[protocol.CONFIG.size :]
        self._device.write_config(offset, data)

    def _config_range(self, message: Message) -> tuple[int, int, int]:
        """Offset, size and flags of an access of the size that its payload has."""
        header = message.payload[: protocol.CONFIG.size]
        if len(header) < protocol.CONFIG.size:
            raise ProtocolError(f"{len(header)} bytes")
        offset, size, flags = protocol.CONFIG.unpack(header)
        if size != len(message.payload) - len(header):
            raise ProtocolError(f"{size} bytes in a message of {len(message.payload)}")
        if offset + size > protocol.MOST_CONFIG:
            raise ProtocolError(f"{size} bytes at {offset} are beyond any end")
        return offset, size, flags

    def _reset_device(self, message: Message) -> None:
        for vring in self._vrings:
            vring.reset()
        self._stop_device()

    def _stop_device(self) -> None:
        self._device.stop()
        self._active_features = None


_Handler = Callable[[Backend, Message], bytes | None]
_HANDLERS: Final[dict[int, tuple[str, _Handler]]] = {
    getattr(protocol, name): (name, handler)
    for name, handler in (
        ("GET_FEATURES", Backend._get_features),
        ("SET_FEATURES", Backend._set_features),
        ("SET_OWNER", Backend._ignore),
        ("RESET_OWNER", Backend._ignore),
        ("SET_MEM_TABLE", Backend._set_mem_table),
        ("SET_VRING_NUM", Backend._set_vring_num),
        ("SET_VRING_ADDR", Backend._set_vring_addr),
        ("SET_VRING_BASE", Backend._set_vring_base),
        ("GET_VRING_BASE", Backend._get_vring_base),
        ("SET_VRING_KICK", Backend._set_vring_kick),
        ("SET_VRING_CALL", Backend._set_vring_call),
        ("SET_VRING_ERR", Backend._set_vring_err),
        ("GET_PROTOCOL_FEATURES", Backend._get_protocol_features),
        ("SET_PROTOCOL_FEATURES", Backend._set_protocol_features),
        ("GET_QUEUE_NUM", Backend._get_queue_num),
        ("SET_VRING_ENABLE", Backend._set_vring_enable),
        ("SET_BACKEND_REQ_FD", Backend._set_backend_req_fd),
        ("GET_CONFIG", Backend._get_config),
        ("SET_CONFIG", Backend._set_config),
        ("RESET_DEVICE", Backend._reset_device),
    )
}
