"""`python -m vmm.vhost_user`: serve a virtio device to QEMU, or whoever speaks that."""

import argparse
import importlib
import inspect
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress

from ..devices.errors import InvalidDevice
from ..devices.virtio.device import VirtioDevice
from ..errors import ConfigError, VmmError
from .server import Server


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until the front end of --fd leaves.

    Returns the exit code: 0, 1 if the device has failed, 2 for wrong arguments.
    """
    options = _parser().parse_args(arguments)
    try:
        device = _device(options.device)
        sock = _socket(options)
        made = _inode(options.socket_path)
        try:
            return _serve(device, sock)
        finally:
            if made is not None and _inode(options.socket_path) == made:
                os.unlink(options.socket_path)
    except VmmError as error:
        _tell(f"error: {error}")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vmm.vhost_user",
        description="Serve a virtio device to a vhost-user front end, such as QEMU.",
    )
    parser.add_argument(
        "device",
        metavar="MODULE:NAME",
        help="a VirtioDevice, or what returns one when it is called",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--socket-path", metavar="PATH", help="a Unix socket to be made, and removed"
    )
    where.add_argument(
        "--fd", type=int, help="one that is open, and listens or is connected"
    )
    return parser


def _device(name: str) -> VirtioDevice:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"device {name}: it must be MODULE:NAME")
    sys.path.insert(0, os.getcwd())  # as of python -m
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"device {name}: {error}") from error
    device: object = found
    if callable(found):
        _check_call(name, found)
        try:
            device = found()
        except InvalidDevice as error:
            raise ConfigError(f"device {name}: {error}") from error
    if not isinstance(device, VirtioDevice):
        raise ConfigError(f"device {name}: {type(device).__name__} is no VirtioDevice")
    return device


def _check_call(name: str, found: Callable[..., object]) -> None:
    with suppress(ValueError):  # of one in C, which may say nothing of itself
        try:
            inspect.signature(found).bind()
        except TypeError:
            raise ConfigError(
                f"device {name}: it can't be called without arguments: name a function "
                "that makes the device"
            ) from None


def _socket(options: argparse.Namespace) -> socket.socket:
    if options.fd is not None:
        try:
            return socket.socket(fileno=options.fd)
        except OSError as error:
            raise ConfigError(f"--fd {options.fd}: {error.strerror}") from error
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _inode(options.socket_path) is not None:  # as another run has left it
            os.unlink(options.socket_path)
        listener.bind(options.socket_path)
        listener.listen()
    except OSError as error:
        listener.close()
        what = error.strerror or str(error)
        raise ConfigError(f"--socket-path {options.socket_path}: {what}") from error
    return listener


def _inode(path: str | None) -> tuple[int, int] | None:
    """Which socket is there, if one is."""
    if path is not None:
        with suppress(FileNotFoundError):
            found = os.stat(path)
            if stat.S_ISSOCK(found.st_mode):
                return found.st_dev, found.st_ino
    return None


def _serve(device: VirtioDevice, sock: socket.socket) -> int:
    server = Server(device, sock, _tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.leave())
    try:
        server.start()
        _tell(f"{device.name} waits for a front end")
        server.wait()
    finally:
        server.close()
    return 0


def _tell(text: str) -> None:
    print(f"vhost-user: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
