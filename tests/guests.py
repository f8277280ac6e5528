"""What the guest tests share: built images, and machines made of them."""

import os
from collections.abc import Callable
from pathlib import Path

import newc
import pytest

from vmm import Machine, MachineConfig
from vmm.config import BUILD_DIR

# Seconds that any step of a guest may take on the slowest host.
DEADLINE = int(os.environ.get("VMM_TEST_DEADLINE", "120"))


def built(name: str) -> Path:
    """An image that scripts/build-guest makes. A missing one is a failure."""
    path = Path(BUILD_DIR, name)
    if not path.exists():
        pytest.fail(f"{path} is not built: run scripts/build-guest all")
    return path


def bare(name: str) -> Path:
    """A bare-metal guest of guest/bare."""
    return built(f"bare/{name}.elf")


def bare_machine(name: str, **settings: object) -> Machine:
    """A machine with a bare-metal guest; settings are MachineConfig's."""
    return Machine(MachineConfig(kernel=bare(name), **settings))  # type: ignore[arg-type]


def with_script(folder: Path, script: str) -> Path:
    """The busybox initramfs with `script` as /etc/guest.sh."""
    image = folder / "initramfs.cpio"
    text = f"#!/bin/sh\n{script}\n".encode()
    extra = newc.write([newc.directory("etc"), newc.file("etc/guest.sh", text, 0o755)])
    image.write_bytes(built("initramfs-busybox.cpio").read_bytes() + extra)
    return image


def open_descriptors() -> list[str]:
    """What every descriptor of this process points to."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(link.readlink()))
        except FileNotFoundError:  # the one that listed them
            continue
    return sorted(links)


def thread_status(thread: int | None, field: str) -> str:
    """A field's first word in a thread's status: SigBlk, ..."""
    lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return values[field].split()[0]


def process_status(field: str) -> int:
    """A number of this process: VmSize, Threads, ..."""
    return int(thread_status(os.getpid(), field))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll for something that another process does; fail after the deadline."""
    import time

    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {DEADLINE} s: {what}")
        time.sleep(0.01)
