"""scripts/with-kvm from outside: in a real software machine, and without one."""

from __future__ import annotations

import hashlib
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import pytest

from scripts.with_kvm.host_kvm import host_kvm

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
WITH_KVM = str(ROOT / "scripts/with-kvm")
# An emulated boot takes 7 s alone on a machine, and 40 s on a busy one.
pytestmark = pytest.mark.timeout(600)


def only_in_machine(test: T) -> T:
    """Mark a test that starts a software machine."""
    here = host_kvm().kind == "hardware"
    skip = pytest.mark.skipif(here, reason="with-kvm starts no machine here")
    return cast("T", pytest.mark.software_machine(skip(test)))


KVM_SCRIPT = """
import fcntl, os
kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, 0xAE01, 0)  # KVM_CREATE_VM
assert fcntl.ioctl(vm, 0xAE41, 0) >= 0  # KVM_CREATE_VCPU
print("api", fcntl.ioctl(kvm, 0xAE00, 0))  # KVM_GET_API_VERSION
"""


def machines_of(pid: int) -> list[int]:
    """Return the children of a process that are QEMU."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = {int(c): Path(f"/proc/{c}/comm").read_text() for c in children}
    return [child for child, name in names.items() if name.startswith("qemu")]


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Whole:
    """One run that tries most things at once, as a start takes long."""

    script = f"""
        cat >"$WITH_KVM_OUT/input"
        cat "$WITH_KVM_OUT/input"
        printf 'args=%s|%s|%s\\n' "$#" "$1" "$2" >&2
        printf 'cwd=%s var=%s umask=%s\\n' "$PWD" "$WITH_KVM_TEST" "$(umask)" >&2
        echo gone >"$3" && rm -r "$4" && echo "inside: $(cat "$3")" >&2
        {sys.executable} -I -S -c '{KVM_SCRIPT}' >&2
        ls /sys/module/kvm_amd/parameters/npt >&2
        (sleep 1000 &)
        exit 3
    """

    def __init__(self, directory: Path) -> None:
        self.input = random.Random(0).randbytes(1 << 20) + b"odd"
        self.out = directory / "out, comma"
        self.work = directory / "work"
        self.kept = self.work / "kept"
        self.work.mkdir()
        (self.kept / "deep").mkdir(parents=True)
        self.written = self.work / "written"
        arguments = ["a  b", "*", str(self.written), str(self.kept)]
        self.done = subprocess.run(
            [WITH_KVM, "--out", self.out, "sh", "-c", self.script, "sh", *arguments],
            input=self.input,
            capture_output=True,
            cwd=self.work,
            env=os.environ | {"WITH_KVM_TEST": "x y"},
            umask=0o027,
        )
        self.errors = self.done.stderr.decode().splitlines()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


@only_in_machine
class TestInMachine:
    """What one run in the software machine does."""

    def test_status_is_passed_on(self, whole: Whole) -> None:
        assert whole.done.returncode == 3, whole.errors

    def test_binary_goes_through_whole(self, whole: Whole) -> None:
        sums = [hashlib.sha256(d).hexdigest() for d in (whole.input, whole.done.stdout)]
        assert sums[0] == sums[1]

    def test_first_line_says_where_and_why(self, whole: Whole) -> None:
        where = "with-kvm: running in the software machine: "
        assert whole.errors[0] == where + host_kvm().reason

    def test_arguments_are_not_touched(self, whole: Whole) -> None:
        assert "args=4|a  b|*" in whole.errors

    def test_directory_environment_and_umask_are_the_callers(
        self, whole: Whole
    ) -> None:
        assert f"cwd={whole.work} var=x y umask=0027" in whole.errors

    def test_files_can_be_changed_inside(self, whole: Whole) -> None:
        assert "inside: gone" in whole.errors

    def test_host_files_are_unchanged(self, whole: Whole) -> None:
        assert not whole.written.exists()
        assert (whole.kept / "deep").is_dir()

    def test_out_is_kept(self, whole: Whole) -> None:
        assert (whole.out / "input").read_bytes() == whole.input

    def test_kvm_makes_a_vm_with_a_vcpu(self, whole: Whole) -> None:
        assert "api 12" in whole.errors

    def test_kvm_is_amds(self, whole: Whole) -> None:
        assert "/sys/module/kvm_amd/parameters/npt" in whole.errors


@only_in_machine
def test_interrupt_reaches_the_command_and_sigkill_ends_the_machine() -> None:
    script = "trap 'echo interrupted' INT; echo up; while :; do sleep .1; done"
    with subprocess.Popen(
        [WITH_KVM, "--quiet", "sh", "-c", script], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        (machine,) = machines_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"interrupted\n"
        process.kill()
    wait_until(lambda: not Path(f"/proc/{machine}").exists())


@only_in_machine
def test_interrupt_before_the_command_runs_ends_at_once() -> None:
    process = subprocess.Popen([WITH_KVM, "--quiet", "true"])
    wait_until(lambda: machines_of(process.pid))
    machine = machines_of(process.pid)[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert not Path(f"/proc/{machine}").exists()


@only_in_machine
def test_terminal_is_a_terminal_inside_and_restored() -> None:
    child, terminal = pty.fork()
    if child == 0:
        script = "tty; printf 'name? '; read name; echo hello $name; stty size"
        os.execv(WITH_KVM, [WITH_KVM, "--quiet", "sh", "-c", script])
    before = termios.tcgetattr(terminal)
    said = b""
    while b"name? " not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, b"someone\r")
    while b"hello someone" not in said:
        said += os.read(terminal, 4096)
    os.waitpid(child, 0)
    after = termios.tcgetattr(terminal)
    os.close(terminal)
    assert b"/dev/pts/" in said
    assert after == before


def test_help_says_what_it_does() -> None:
    done = subprocess.run([WITH_KVM, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "hardware-style KVM" in done.stdout


def test_no_command_is_125_and_usage() -> None:
    done = subprocess.run([WITH_KVM], capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr.startswith("usage: with-kvm")


def test_host_kind_is_printed_alone() -> None:
    done = subprocess.run([WITH_KVM, "--host-kind"], capture_output=True, text=True)
    assert done.stdout == f"{host_kvm().kind}\n"
    assert done.stderr == ""
