"""python -m vmm.vhost_user: what it takes, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.guests import DEADLINE
from support.vhost_front_end import FrontEnd

from vmm.vhost_user.__main__ import main

ROOT = Path(__file__).parents[3]
READY = "vhost-user: CountingRng waits for a front end\n"


def start(*arguments: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vmm.vhost_user", *arguments],
        cwd=ROOT / "tests",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        pass_fds=fds,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what it has told."""
    try:
        _, told = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return process.returncode, told


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("no_such_module:Device", "No module named 'no_such_module'"),
        ("support.vhost_devices:Nothing", "has no attribute 'Nothing'"),
        ("support.vhost_devices", "it must be MODULE:NAME"),
        (":Nothing", "it must be MODULE:NAME"),
        ("support.vhost_devices:", "it must be MODULE:NAME"),
        ("support.vhost_devices:Wrong", "Wrong.queue_sizes has 24"),
        ("vmm.devices.virtio.rng:VirtioRng", "it can't be called without arguments"),
        ("os:sep", "str is no VirtioDevice"),
        ("os:getpid", "int is no VirtioDevice"),
    ],
)
def test_a_device_that_is_none_is_refused(
    device: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([device, "--fd", "0"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"vhost-user: error: device {device}: ")
    assert why in told
    assert told.count("\n") == 1


def test_a_socket_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = "support.vhost_devices:CountingRng"
    assert main([device, "--socket-path", str(tmp_path / "no/such/folder")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
    (tmp_path / "file").write_text("precious")
    assert main([device, "--socket-path", str(tmp_path / "file")]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"
    assert main([device, "--socket-path", "x" * 200]) == 2
    assert "too long" in capsys.readouterr().err
    with (tmp_path / "file").open() as file:
        assert main([device, "--fd", str(os.dup(file.fileno()))]) == 2
    assert "--fd" in capsys.readouterr().err


def begin(path: Path) -> FrontEnd:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    front_end = FrontEnd(client)
    front_end.begin()
    return front_end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(tmp_path: Path, number: int) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # as a run has left it that was killed
    process = start("support.vhost_devices:CountingRng", "--socket-path", str(path))
    assert process.stderr is not None
    assert process.stderr.readline() == READY
    front_end = begin(path)
    process.send_signal(number)
    assert front_end.is_over()
    front_end.close()
    assert end(process) == (0, "")
    assert not path.exists()


def test_a_socket_that_another_run_has_made_since_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    device = "support.vhost_devices:CountingRng"
    process = start(device, "--socket-path", str(path))
    assert process.stderr is not None
    assert process.stderr.readline() == READY
    path.unlink()
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(path))
        process.terminate()
        assert end(process) == (0, "")
        assert path.exists()


def test_a_socket_may_be_given_that_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = tmp_path / "socket"
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        process = start("support.vhost_devices:RNG", "--fd", str(fd), fds=(fd,))
    for _ in range(2):  # one after another; nobody has to wait until it is ready
        begin(path).close()
    process.terminate()
    assert end(process) == (0, READY)
    assert path.exists()  # it isn't ours


def test_a_device_that_raises_ends_it_with_its_name() -> None:
    ours, theirs = socket.socketpair()
    fd = theirs.fileno()
    process = start("support.vhost_devices:Raiser", "--fd", str(fd), fds=(fd,))
    theirs.close()
    front_end = FrontEnd(ours)
    front_end.begin()
    front_end.set_up()
    front_end.start(0, front_end.new_driver())
    code, told = end(process)
    front_end.close()
    assert code == 1
    assert told.endswith("vhost-user: error: Raiser: ValueError: on purpose\n")
