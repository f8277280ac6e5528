"""Endpoints: input, its pauses and its end."""

import os
from pathlib import Path

from support.endpoint_rig import Rig

pytest_plugins = ("support.loop_fixtures", "support.endpoint_fixtures")


def test_input_of_a_pipe_reaches_the_host(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.serve(writer, reader)
    os.write(writer, b"ls\n")
    assert rig.input() == b"ls\n"


def test_input_of_a_file_reaches_the_host_to_its_end(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"x" * 10_000)
    _, writer = rig.pipe()
    with open(tmp_path / "script", "rb") as file:
        rig.serve(writer, file.fileno())
        assert sum(len(rig.input()) for _ in range(3)) == 10_000
        rig.loop.stop()


def test_paused_input_is_read_after_it_is_resumed(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.host.takes_input = False
    endpoint = rig.serve(writer, reader)
    os.write(writer, b"one")
    assert rig.input() == b"one"
    os.write(writer, b"two")
    rig.resume(endpoint)
    assert rig.input() == b"two"


def test_end_of_input_is_no_error(rig: Rig) -> None:
    _, writer = rig.pipe()
    with open(os.devnull, "rb") as null:
        endpoint = rig.serve(writer, null.fileno())
        rig.resume(endpoint)
        rig.resume(endpoint)
    assert rig.host.input.empty()


def test_hung_up_terminal_is_the_end_of_input(rig: Rig) -> None:
    ours, theirs = os.openpty()
    _, writer = rig.pipe()
    endpoint = rig.serve(writer, theirs)
    os.close(ours)
    rig.resume(endpoint)
    rig.resume(endpoint)
    rig.loop.stop()
    os.close(theirs)
    assert rig.host.input.empty()
