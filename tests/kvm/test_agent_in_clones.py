"""Snapshots of a guest whose agent is at work: nothing is lost, and clones answer."""

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.guests import DEADLINE

from vmm import Machine, MachineConfig
from vmm.agent.guest import Guest

pytestmark = pytest.mark.linux

CLONES = 10


def run(guest: Guest, chance: random.Random, folder: Path) -> None:
    data = chance.randbytes(chance.randrange(60_000))
    assert guest.run(["cat"], input=data, timeout=DEADLINE).stdout == data
    assert guest.run("echo x; exit 3", timeout=DEADLINE).returncode == 3


def put(guest: Guest, chance: random.Random, folder: Path) -> None:
    file = folder / "put"
    file.write_bytes(chance.randbytes(chance.randrange(200_000)))
    guest.put(file, "/tmp/put")
    assert guest.read_bytes("/tmp/put") == file.read_bytes()


def get(guest: Guest, chance: random.Random, folder: Path) -> None:
    there = f"/tmp/{chance.randrange(3)}"
    data = chance.randbytes(chance.randrange(200_000))
    guest.write_bytes(there, data)
    guest.get(there, folder / "got")
    assert (folder / "got").read_bytes() == data


@pytest.mark.parametrize("seed", range(2))
def test_snapshots_at_any_moment(seed: int, tmp_path: Path) -> None:
    over = threading.Event()
    chance = random.Random(seed)

    def go_on(do: Callable[[Guest, random.Random, Path], None]) -> int:
        own, count = random.Random(seed), 0
        while not over.is_set():
            do(machine.guest, own, tmp_path)
            count += 1
        return count

    config = MachineConfig(agent=True, timeout=DEADLINE, append="quiet")
    with Machine(config) as machine, ThreadPoolExecutor(3) as pool:
        machine.start()
        machine.guest.wait_ready(DEADLINE)
        workers = [pool.submit(go_on, do) for do in (run, put, get)]
        try:
            for number in range(CLONES):
                time.sleep(chance.random() * 0.05)
                with machine.snapshot() as snapshot, snapshot.clone() as clone:
                    word = os.fsencode(f"{seed}.{number}\n")
                    echo = ["echo", f"{seed}.{number}"]
                    assert clone.guest.run(echo, timeout=DEADLINE).stdout == word
                    clone.reset()
                    assert clone.guest.run(echo, timeout=DEADLINE).stdout == word
        finally:
            over.set()
        assert all(worker.result(DEADLINE) for worker in workers)


def test_clone_of_a_guest_that_runs_all_it_can(tmp_path: Path) -> None:
    config = MachineConfig(agent=True, timeout=DEADLINE, append="quiet")
    with Machine(config) as machine:
        machine.start()
        running = [machine.guest.popen("read x; exit $x") for _ in range(32)]
        with machine.snapshot() as snapshot, snapshot.clone() as clone:
            assert clone.guest.run(["true"], timeout=DEADLINE).returncode == 0
        for number, process in enumerate(running):
            assert process.communicate(b"%d\n" % number, DEADLINE) == (b"", b"")
            assert process.returncode == number
