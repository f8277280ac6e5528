"""Many runs at once: the README's lines, and what becomes of a worker that dies."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from support.guests import DEADLINE, bare, built, kernel, wait_until

import vmm
from vmm import ConfigError, ExitReason, RunFailed, RunResult
from vmm.errors import WorkerDied
from vmm.pool import RunPool

README = Path(__file__).parents[2] / "README.md"
PROGRAM = "int puts(const char *); int main(int c, char **v) { return !puts(v[1]); }"


def processes_with_a_guest() -> set[int]:
    """Descendants of this process that have a vCPU."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            links = [str(link.readlink()) for link in (folder / "fd").iterdir()]
        except OSError:  # it has ended
            continue
        if any("kvm-vcpu" in link for link in links) and _is_ours(folder):
            found.add(int(folder.name))
    return found


def _is_ours(folder: Path) -> bool:
    while folder.name not in ("0", "1", str(os.getpid())):
        try:
            stat = (folder / "stat").read_text()
        except FileNotFoundError:
            return False
        folder = folder.parent / stat.rpartition(")")[2].split()[1]
    return folder.name == str(os.getpid())


def spinning(pool: Executor, count: int = 1) -> "list[Future[RunResult]]":
    """Runs of a guest that never ends, which have begun."""
    runs = [pool.submit(vmm.run, bare("spin"), timeout=DEADLINE) for _ in range(count)]
    wait_until(lambda: len(processes_with_a_guest()) == count, "the guests run")
    return runs


# The README's lines


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder with the README's blocks and the program that they run."""
    after = README.read_text().partition("test_matrix.py runs this block")[2]
    first, second = re.findall(r"```python\n(.*?)```", after, re.S)[:2]
    (tmp_path / "matrix.py").write_text(first)
    (tmp_path / "over_dask.py").write_text(second)
    (tmp_path / "t.c").write_text(PROGRAM)
    gcc = ["gcc", "-static", "-o", "t", "t.c"]
    subprocess.run(gcc, cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.timeout(1500)  # two kernels at a time, where KVM emulates them
@pytest.mark.parametrize("script", ["matrix.py", "over_dask.py"])
def test_the_readmes_matrix(examples: Path, script: str) -> None:
    linux, initrd = str(kernel("tiny")), str(built("initramfs-tiny.cpio"))
    done = subprocess.run(
        [sys.executable, script, initrd, linux],
        cwd=examples,
        capture_output=True,
        timeout=1400,
        text=True,
    )
    assert done.stdout == f"{linux} /t a b'a\\n'\n{linux} /t b b'b\\n'\n", done.stderr
    assert processes_with_a_guest() == set()


# A worker that dies


def test_a_run_that_dies_fails_alone() -> None:
    with RunPool(2) as pool:
        (dying,) = spinning(pool)
        others = [pool.submit(vmm.run, bare("hello")) for _ in range(3)]
        (process,) = spinning_processes = processes_with_a_guest()
        os.kill(process, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"killed by signal 9 \(Killed\)"):
            dying.result(DEADLINE)
        results = [other.result(DEADLINE) for other in others]
    assert [result.reason for result in results] == [ExitReason.RESET] * 3
    assert not spinning_processes & processes_with_a_guest()


def test_a_run_that_is_to_succeed_tells_its_pool_why_it_did_not() -> None:
    with RunPool(1) as pool:
        run = pool.submit(vmm.run, bare("spin"), timeout=0.5, check=True)
        with pytest.raises(RunFailed, match="timeout, exit code 124: the guest still"):
            run.result(DEADLINE)


def test_a_process_pool_breaks_as_a_whole() -> None:
    """Why there is a pool of ours."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        dying, other = spinning(pool, 2)
        os.kill(min(processes_with_a_guest()), signal.SIGKILL)
        assert isinstance(dying.exception(DEADLINE), BrokenProcessPool)
        assert isinstance(other.exception(DEADLINE), BrokenProcessPool)


DASK = """
import os, signal, sys
import dask, vmm
from distributed import Client, KilledWorker, LocalCluster

if __name__ == "__main__":
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as here,
        Client(here) as client,
    ):
        pool = client.get_executor(pure=False)
        dying = pool.submit(vmm.run, sys.argv[1], timeout=600)
        sys.stdin.readline()  # it runs, and is killed
        assert isinstance(dying.exception(600), KilledWorker)
        others = [pool.submit(vmm.run, sys.argv[2]) for _ in range(3)]
        print([other.result(600).reason.value for other in others])
"""


def test_a_dask_worker_that_dies_fails_its_run_alone(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DASK)
    arguments = [sys.executable, "dying.py", str(bare("spin")), str(bare("hello"))]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdin=pipe, stdout=pipe, text=True
    ) as script:
        wait_until(lambda: bool(processes_with_a_guest()), "the guest runs")
        (worker,) = processes_with_a_guest()
        os.kill(worker, signal.SIGKILL)
        out, _ = script.communicate("killed\n", timeout=DEADLINE)
    assert out == "['reset', 'reset', 'reset']\n"
    assert processes_with_a_guest() == set()


# The pool's own rules


def test_an_exception_of_a_run_comes_back() -> None:
    with RunPool(1) as pool:
        run = pool.submit(vmm.run, "kernel", timeout=-1)
        with pytest.raises(ConfigError, match="timeout: -1 is no time"):
            run.result(DEADLINE)


def test_leaving_by_an_exception_ends_all() -> None:
    with pytest.raises(KeyboardInterrupt), RunPool(1) as pool:  # noqa: PT012
        (runs,) = spinning(pool)
        waiting = pool.submit(vmm.run, bare("spin"))
        raise KeyboardInterrupt
    assert processes_with_a_guest() == set()
    assert isinstance(runs.exception(), WorkerDied)
    assert waiting.cancelled()


PARENT = """
import sys, vmm
from vmm.pool import RunPool

if __name__ == "__main__":
    with RunPool(1) as pool:
        pool.submit(vmm.run, sys.argv[1], timeout=600)
"""


def test_no_guest_outlives_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, "parent.py", str(bare("spin"))]
    with subprocess.Popen(command, cwd=tmp_path) as parent:
        wait_until(lambda: bool(processes_with_a_guest()), "the guest runs")
        (process,) = processes_with_a_guest()
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{process}").exists(), "the run has ended")
