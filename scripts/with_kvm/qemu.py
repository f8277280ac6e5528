"""The software machine's QEMU: its command line and its process.

Source: QEMU's Invocation manual; SVM in TCG: target/i386/tcg/sysemu/svm_helper.c.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PORTS: Final = ("control", "stdin", "stdout", "stderr")
AGENT: Final = Path(__file__).with_name("agent.py")
# Without XSAVE and what needs it: there (QEMU 7.2) Linux in a nested guest warns
# that CPUID leaf 0xD is as for XCR0 = 1. It looks as if XSETBV didn't reach KVM.
CPU: Final = "EPYC,+svm,+npt,-xsave,-avx,-avx2,-fma,-f16c"
# With two, both wait for ever after some 30 VMs, for an interrupt from the other as
# their lockup traces say. A likely cause: helper_vmrun in svm_helper.c sets a bit of
# interrupt_request, which others change under a lock, without it (`|=`). One CPU is
# faster, too.
CPUS: Final = "1"
KERNEL_PARAMETERS: Final = (
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "mitigations=off",  # emulated, they cost and guard nothing
    "tsc=reliable",  # QEMU keeps it in step; the HPET would cost an exit a look
    "cryptomgr.notests",
)


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What a software machine is started with; `out` is writable inside."""

    directory: Path
    memory_mib: int = 2048
    out: Path | None = None


def escaped(path: Path) -> str:
    """Return a path for a QEMU option, in which a comma is doubled."""
    return str(path).replace(",", ",,")


def share(tag: str, path: Path, extra: str) -> list[str]:
    """Return the options of one 9p share."""
    return [
        "-fsdev",
        f"local,id={tag},path={escaped(path)},security_model=none,"
        f"multidevs=remap{extra}",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]


def command_line(options: MachineOptions, ports: dict[str, int]) -> list[str]:
    """Return QEMU's argv; `ports` maps each port's name to its descriptor."""
    python = os.path.realpath(sys.executable)
    parameters = " ".join([*KERNEL_PARAMETERS, "--", python, str(AGENT)])
    argv = ["qemu-system-x86_64", "-M", "q35", "-nodefaults", "-no-user-config"]
    argv += ["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]
    argv += ["-accel", "tcg", "-cpu", CPU, "-smp", CPUS]
    argv += ["-m", str(options.memory_mib)]
    argv += ["-kernel", str(options.directory / "vmlinux")]
    argv += ["-initrd", str(options.directory / "initramfs.cpio")]
    argv += ["-append", parameters, "-device", "virtio-serial-pci"]
    for name, fd in ports.items():
        argv += ["-chardev", f"socket,id={name},fd={fd}"]
        argv += ["-device", f"virtserialport,chardev={name},name={name}"]
    argv += share("host", Path("/"), ",readonly=on")
    if options.out:
        argv += share("out", options.out, "")
    return argv


class Machine:
    """A running software machine; close() kills it. Nothing of it is on disk."""

    def __init__(self, options: MachineOptions) -> None:
        """Start QEMU; raises OSError.

        It dies with us, even by SIGKILL (prctl(2), PR_SET_PDEATHSIG), and is
        in a session of its own, so that a terminal's Ctrl-C passes it by.
        """
        self.ports: dict[str, socket.socket] = {}
        self._last_words: deque[bytes] = deque(maxlen=40)
        with ExitStack() as theirs, ExitStack() as ours:
            fds: dict[str, int] = {}
            for name in PORTS:
                near, far = socket.socketpair()
                self.ports[name] = ours.enter_context(near)
                fds[name] = theirs.enter_context(far).fileno()
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command_line(options, fds)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=list(fds.values()),
                start_new_session=True,
            )
            self._cleanup = ours.pop_all()
        self._cleanup.callback(self._end)
        self._log = threading.Thread(target=self._read_log, daemon=True)
        self._log.start()

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        self._last_words.extend(self._process.stdout)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def last_words(self) -> str:
        """Return the end of what QEMU and the guest's kernel said, once dead."""
        self.close()
        lines = [line.decode(errors="replace").strip() for line in self._last_words]
        return "\n".join(line for line in lines if "TCG doesn't support" not in line)

    def close(self) -> None:
        """Kill QEMU and close the ports; idempotent."""
        self._cleanup.close()
