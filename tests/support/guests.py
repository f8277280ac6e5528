"""What the guest tests share: built images, and machines made of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from scripts.with_kvm.host_kvm import host_kvm
from vmm import Machine, MachineConfig
from vmm.config import BUILD_DIR
from vmm.guest import cpio

# Seconds that any step of a guest may take on the slowest host.
DEADLINE = int(os.environ.get("VMM_TEST_DEADLINE", "120"))

# Linux as this host's KVM runs it best: where it emulates ring 0, in ring 3.
SUFFIX = "-ring3" if host_kvm().kind == "pvm" else ""


def refuse(reason: str) -> NoReturn:
    """Skip the test; fail it under scripts/test, which sets up all that it needs."""
    demanded = os.environ.get("VMM_TEST_SIDE") or os.environ.get("VMM_REQUIRE_KVM")
    raise (pytest.fail if demanded else pytest.skip).Exception(reason)


def built(name: str) -> Path:
    """An image that scripts/build-guest makes."""
    path = Path(BUILD_DIR, name)
    if not path.exists():
        refuse(f"{path} is not built: run scripts/build-guest all")
    return path


def kernel(name: str) -> Path:
    """Our kernel `name`, tiny or full, as this host's KVM runs it best.

    The stock one is `built(f"vmlinux-{name}")`; with it a test is marked `stock`.
    """
    return built(f"vmlinux-{name}{SUFFIX}")


class Shell:
    """A shell on the console of a guest that was booted with guest.shell.

    Or of any other, with the prompt that it comes with.
    """

    PROMPT = "<\x01>"  # that no command or kernel message has

    def __init__(
        self, machine: Machine, prompt: str = "# ", patience: float = DEADLINE
    ) -> None:
        """Wait until it is there, and have nothing but answers from then on."""
        self.machine = machine
        machine.console.expect(prompt, patience)
        machine.console.sendline("stty -echo; PS1=$(printf '<\\001>'); PS2=")
        machine.console.expect(self.PROMPT, DEADLINE)
        machine.console.read_until_idle(0.2, DEADLINE)

    def ask(self, command: str) -> str:
        """What the command prints."""
        self.machine.console.sendline(command)
        return self.machine.console.expect(self.PROMPT, DEADLINE).before.decode()


def follow(clone: Machine) -> Shell:
    """A Shell of a clone whose shell is set up."""
    shell = Shell.__new__(Shell)
    shell.machine = clone
    return shell


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
    extra = cpio.write([cpio.directory("etc"), cpio.file("etc/guest.sh", text, 0o755)])
    image.write_bytes(built("initramfs-busybox.cpio").read_bytes() + extra)
    return image


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
