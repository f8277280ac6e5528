"""Programs that serve devices: how they are started, and how they end."""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from support.guests import wait_until

from vmm.errors import ConfigError, VmmError
from vmm.vhost_user import program as program_module
from vmm.vhost_user.program import Program, find_program

SERVE = (
    "import socket, sys; sock = socket.socket(fileno=int(sys.argv[1])).accept()[0]; "
)
ECHO = SERVE + "sock.sendall(sock.recv(100)); sock.recv(1)"


def python(code: str, starts: int = 1) -> Program:
    def arguments(fd: int) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", code, str(fd)]

    return Program("it", arguments, starts)


def is_over(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def test_we_are_connected_to_it_and_nobody_else_can_be() -> None:
    program = python(ECHO)
    with program.connect() as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        path = sock.getpeername()
        with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError, match="No"):
            other.connect(path)
    program.close()
    assert is_over(program.pid)


def test_it_takes_signals_and_has_a_session_of_its_own() -> None:
    code = SERVE + (
        "import os, signal; "
        "held = signal.pthread_sigmask(signal.SIG_BLOCK, ()); "
        "sock.sendall(repr((len(held), os.getsid(0) == os.getpid())).encode())"
    )
    program = python(code)
    with program.connect() as sock:
        assert sock.recv(100) == b"(0, True)"
    program.close()


def test_it_lives_on_when_the_thread_ends_that_has_connected() -> None:
    program = python(ECHO)
    found: list[socket.socket] = []
    thread = threading.Thread(target=lambda: found.append(program.connect()))
    thread.start()
    thread.join()
    with found[0] as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    program.close()


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        + SERVE
        + "sock.sendall(b'ready'); signal.pause()"
    )
    program = python(code)
    with program.connect() as sock:
        assert sock.recv(100) == b"ready"
        monkeypatch.setattr(program_module, "END_S", 0.01)
        program.close()
        monkeypatch.undo()
        program.close()
    assert is_over(program.pid)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(3)", "it ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by SIGKILL"),
        ("import sys; sys.exit('no\\nroom')", "it: room"),
        ("import sys; sys.exit('it: no\\nroom')", "it: no"),
        ("import sys; sys.exit('x' * 10000)", "it: " + "x" * 4095),
    ],
)
def test_last_words(code: str, words: str) -> None:
    program = python(code)
    with program.connect() as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    assert program.last_words() == words
    program.close()


def test_it_is_started_as_often_as_it_may_be() -> None:
    program = python(ECHO, starts=2)
    for _ in range(2):
        with program.connect() as sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
    with pytest.raises(VmmError, match="it isn't started again"):
        program.connect()
    program.close()


def test_folder_for_the_socket_may_have_a_long_name_and_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    program = python(ECHO)
    with program.connect():
        assert list(folder.iterdir()) == []
    program.close()


def test_it_does_not_outlive_a_process_that_is_killed() -> None:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        program = python(ECHO)
        kept = program.connect()
        os.write(theirs, b"%d" % program.pid)
        while True:
            kept.recv(1)
    child = int(os.read(ours, 100))
    os.close(ours)
    os.close(theirs)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    wait_until(lambda: is_over(child), "its end")


def test_program_is_found_or_its_package_named() -> None:
    assert os.path.basename(find_program(["nobody", "sh"], "it", "")) == "sh"
    with pytest.raises(ConfigError, match=r"^it takes nobody, which isn't here: ins"):
        find_program(["nobody"], "it", "install somebody")
