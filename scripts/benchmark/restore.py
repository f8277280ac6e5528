"""Measure `restore`: from a process's start to a saved guest's answer on its console.

The guest is a shell on ttyS0; it is told to calculate before it is there, which is the
first thing that it reads. Nobody else's console has an agent behind it: that a shell
answers is what all can be asked for. Each round saves its own, moments before: on PVM a
guest's TSC goes on while it is saved, and time that has passed costs ticks.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from vmm.config import MachineConfig
from vmm.errors import VmmError
from vmm.machine.machine import Machine

from .children import Command, NotMeasured, complaint, started, wait_for
from .memory import DIRTY, own_kb, smaps_of
from .peers import peer_command
from .rounds import Job, Sample
from .variants import VMM

if TYPE_CHECKING:
    from pathlib import Path

    from .peers import Guest

OURS: Final = "all"
FIRECRACKER: Final = "firecracker"
MEASURES: Final = {
    f"restore-{size}": f"process start to a shell's answer on ttyS0, {size} MiB of RAM"
    for size in (128, 512)
} | {
    "restore-memory": "memory beyond guest RAM, written to and private, then (128 MiB)"
}
DEADLINE_S: Final = 300.0
PROMPT: Final = b"# "
SNAPSHOT: Final = "saved"
API: Final = "api"  # in the child's directory, as its path has to be short
POLL_S: Final = 0.0002


def jobs(guest: Guest) -> list[Job]:
    """Return the runs of one round."""
    measure = f"restore-{guest.memory_mib}"
    return [
        Job(measure, variant, partial(run, guest))
        for variant, run in ((OURS, _ours), (FIRECRACKER, _firecracker))
    ]


def config_of(guest: Guest, *, agent: bool = False) -> MachineConfig:
    """What boots it here, its console to be read."""
    return MachineConfig(
        kernel=guest.kernel,
        initrd=guest.initrd,
        cmdline=guest.cmdline,
        memory=f"{guest.memory_mib}M",
        serial="capture",
        agent=agent,
    )


def _ours(guest: Guest, folder: Path) -> list[Sample]:
    try:
        with Machine(config_of(guest)) as machine:
            machine.start()
            machine.console.expect(PROMPT, timeout=DEADLINE_S)
            with machine.snapshot() as snapshot:
                snapshot.save(folder / SNAPSHOT)
    except (VmmError, TimeoutError) as error:
        raise NotMeasured(str(error).splitlines()[0]) from None
    how = Command([str(VMM), "restore", SNAPSHOT, "--quiet"], {})
    return _answer(guest, how, folder)


def _firecracker(guest: Guest, folder: Path) -> list[Sample]:
    how = peer_command(FIRECRACKER, guest, folder)
    program = how.argv[0]
    boots = [word for word in how.argv if word != "--no-api"]
    how = Command([*boots, "--api-sock", API], how.environment)
    with started(how, folder, subprocess.PIPE, subprocess.PIPE) as process:
        wait_for(process, PROMPT, folder, DEADLINE_S)
        request = partial(_request, process, folder)
        request("PATCH", "/vm", {"state": "Paused"})
        files = {"snapshot_path": SNAPSHOT, "mem_file_path": "memory"}
        request("PUT", "/snapshot/create", {"snapshot_type": "Full", **files})
    os.unlink(folder / API)
    backend = {"backend_type": "File", "backend_path": "memory"}
    load = {"snapshot_path": SNAPSHOT, "mem_backend": backend, "resume_vm": True}
    argv = [program, "--level", "Error", "--api-sock", API]
    how = Command(argv, how.environment)
    return _answer(guest, how, folder, load)


def _answer(
    guest: Guest, how: Command, folder: Path, load: dict[str, object] | None = None
) -> list[Sample]:
    """Start it, have it `load` what is to be told by an API, and ask the guest."""
    number = secrets.randbelow(10**6)
    before = time.monotonic_ns()
    with started(how, folder, subprocess.PIPE, subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(f"echo answer-$(({number}+1))-\n".encode())
        process.stdin.flush()
        if load is not None:
            _request(process, folder, "PUT", "/snapshot/load", load)
        after = wait_for(process, f"answer-{number + 1}-".encode(), folder, DEADLINE_S)
        smaps = smaps_of(process.pid)
    measure = f"restore-{guest.memory_mib}"
    samples = [Sample(measure, (after - before) / 1e6, "ms")]
    if guest.memory_mib == 128:  # they differ in nothing else
        memory = own_kb(smaps, guest.memory_mib << 20, DIRTY) / 1024
        samples.append(Sample("restore-memory", memory, "MiB"))
    return samples


def _request(
    process: subprocess.Popen[bytes],
    folder: Path,
    method: str,
    path: str,
    body: dict[str, object],
) -> None:
    """Ask a Firecracker by its API, as soon as it answers. Raises NotMeasured."""
    connection = http.client.HTTPConnection("localhost", timeout=DEADLINE_S)
    connection.sock = _connected(process, folder)
    headers = {"Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException):
        raise NotMeasured(complaint(process, folder)) from None
    finally:
        connection.close()
    if response.status // 100 != 2:
        raise NotMeasured(f"{method} {path}: {text.decode(errors='replace')}")


def _connected(process: subprocess.Popen[bytes], folder: Path) -> socket.socket:
    end = time.monotonic() + DEADLINE_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(folder / API))
            return sock
        except OSError:
            sock.close()
        if process.poll() is not None or time.monotonic() > end:
            raise NotMeasured(complaint(process, folder))
        time.sleep(POLL_S)
