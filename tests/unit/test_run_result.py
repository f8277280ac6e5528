"""RunResult and the file it is written to."""

import json
import os
import pickle
import socket
import stat
import threading
from pathlib import Path

import pytest

from vmm.cli.result_file import check_result_path, write_result
from vmm.errors import ConfigError, GuestEnded, KvmError, RunFailed, VmmError
from vmm.result import EXIT_CODES, ExitReason, RunResult, told_apart

RESULT = RunResult(
    ExitReason.PANIC, 34, detail="Kernel panic", resets=1, exits={"io": 3}
)


def test_dict_has_the_contracts_fields() -> None:
    contract = (
        "reason exit_code guest_status detail resets wall_s first_output_s exits "
        "console_bytes"
    )
    assert set(contract.split()) <= RESULT.to_dict().keys()


def test_dict_has_the_reasons_word() -> None:
    assert RESULT.to_dict()["reason"] == "panic"


def test_result_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(RESULT)) == RESULT


def test_guest_ended_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(GuestEnded("no 'x'", RESULT)))
    assert (str(error), error.result) == ("no 'x'", RESULT)


def test_kvm_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(KvmError(22, "KVM_RUN failed")))
    assert (error.errno, str(error)) == (22, "[Errno 22] KVM_RUN failed")


def test_every_reason_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(ExitReason)


@pytest.mark.parametrize("code", sorted({*EXIT_CODES.values(), 1, 129, 130, 143}))
def test_no_end_of_ours_is_a_status_of_debug_exit(code: int) -> None:
    """Those are value << 1 | 1."""
    ours = told_apart(code, command=False, debug_exit=True)
    assert ours % 2 == 0
    assert (ours == 0) == (code == 0)


def test_ends_of_ours_stay_apart_from_each_other_beside_debug_exit() -> None:
    codes = {0, 1, 2, 33, 34, 35, 124, 129, 130, 143}
    ours = {told_apart(code, command=False, debug_exit=True) for code in codes}
    assert len(ours) == len(codes)


@pytest.mark.parametrize("debug_exit", [False, True])
def test_beside_a_command_an_end_of_ours_is_125(debug_exit: bool) -> None:
    for code in (1, 33, 34, 35, 124, 129, 130, 143):
        assert told_apart(code, command=True, debug_exit=debug_exit) == 125
    for code in (0, 2):
        assert told_apart(code, command=True, debug_exit=debug_exit) == code


def test_without_a_guests_status_codes_are_what_they_were() -> None:
    for code in range(256):
        assert told_apart(code, command=False, debug_exit=False) == code


def test_result_file_is_the_dict_as_json(tmp_path: Path) -> None:
    write_result(str(tmp_path / "result.json"), RESULT)
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text) == RESULT.to_dict()
    assert text.endswith("}\n")


def test_result_file_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old" * 10_000)
    write_result(str(path), RESULT)
    assert json.loads(path.read_text())["exit_code"] == 34
    assert list(tmp_path.iterdir()) == [path]


def test_older_file_stays_whole_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail(source: str, target: str, **folders: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(VmmError, match=r"result.json': No space left on device"):
        write_result(str(path), RESULT)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_link_to_a_result_file_stays(tmp_path: Path) -> None:
    link, path = tmp_path / "latest", tmp_path / "result.json"
    path.touch()
    link.symlink_to(path)
    write_result(str(link), RESULT)
    assert link.is_symlink()
    assert json.loads(path.read_text())["exit_code"] == 34


def test_fifo_is_written_to_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    check_result_path(str(path))
    write_result(str(path), RESULT)
    assert json.loads(os.read(reader, 4096))["exit_code"] == 34
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_result_path_that_can_be_written_is_taken(tmp_path: Path) -> None:
    check_result_path(str(tmp_path / "result.json"))
    assert list(tmp_path.iterdir()) == []


def test_directory_is_no_result_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^result: .* is a directory"):
        check_result_path(str(tmp_path))


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^result: there is no directory '.*/none'"):
        check_result_path(str(tmp_path / "none" / "result.json"))


@pytest.mark.parametrize("path", ["", "new/"])
def test_path_without_a_file_name_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^result: .* names no file"):
        check_result_path(path)


def test_directory_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the refusal itself is made up.
    def deny(path: str, flags: int, mode: int = 0, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, mode, dir_fd=dir_fd)

    opened = os.open
    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(ConfigError, match=r"^result: .* written: Permission denied$"):
        check_result_path(str(tmp_path / "result.json"))


def test_directory_that_takes_no_files_is_found_out_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"^result: '/proc/x' can't be written: "):
        check_result_path("/proc/x")


def test_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.touch(mode=0o600)
    write_result(str(path), RESULT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_link_is_followed_by_the_kernel_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fs.protected_symlinks has it for another user's link in /tmp."""
    link, victim = tmp_path / "latest", tmp_path / "victim"
    victim.write_text("precious")
    link.symlink_to(victim)
    judged = os.fspath(link)

    def refuse(path: str, *rest: object, **more: object) -> object:
        if os.fspath(path) == judged:
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest, **more)  # type: ignore[arg-type]

    opened = os.open
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        check_result_path(judged)
    with pytest.raises(VmmError, match="Permission denied"):
        write_result(judged, RESULT)
    assert victim.read_text() == "precious"
    assert link.is_symlink()


def test_link_that_names_nothing_yet_makes_its_file(tmp_path: Path) -> None:
    link, path = tmp_path / "latest", tmp_path / "result.json"
    link.symlink_to(path)
    check_result_path(str(link))
    write_result(str(link), RESULT)
    assert json.loads(path.read_text())["exit_code"] == 34


@pytest.mark.parametrize("name", ["/dev/fd/{fd}", "{file}"])
def test_open_file_is_written_on_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    """As /dev/stdout with `> FILE`: what the console wrote there stays."""
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as log:
        log.write(b"console\n")
        place = name.format(fd=log.fileno(), file=path)
        check_result_path(place)
        write_result(place, RESULT)
        log.write(b"more\n")
    first, *middle, last = path.read_text().splitlines()
    assert (first, last) == ("console", "more")
    assert json.loads("".join(middle))["exit_code"] == 34
    assert list(tmp_path.iterdir()) == [path]


def test_open_socket_is_written_to_by_its_name() -> None:
    here, there = socket.socketpair()
    with here, there:
        write_result(f"/dev/fd/{here.fileno()}", RESULT)
        assert json.loads(there.recv(4096))["exit_code"] == 34


def test_fifo_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(VmmError, match="fifo': nobody reads from it"):
        write_result(str(path), RESULT)


def test_slow_reader_of_a_stream_that_does_not_block_gets_all() -> None:
    big = RESULT.replace(oops="x" * 300_000)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    read = bytearray()
    os.set_blocking(reader, True)

    def drain() -> None:
        while part := os.read(reader, 65536):
            read.extend(part)

    thread = threading.Thread(target=drain)
    thread.start()
    write_result(f"/dev/fd/{writer}", big)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert json.loads(read)["oops"] == big.oops


# check


def test_check_of_a_success_gives_the_result() -> None:
    result = RunResult(ExitReason.RESET, 0)
    assert result.success
    assert result.check() is result


def test_check_of_anything_else_raises_what_happened() -> None:
    lines = b"".join(b"line %d\n" % number for number in range(100))
    result = RunResult(
        ExitReason.EXITED, 3, guest_status=3, detail="t: status 3", output=lines
    )
    with pytest.raises(RunFailed) as caught:
        result.check()
    first, *tail = str(caught.value).splitlines()
    assert first == "exited, exit code 3: t: status 3"
    assert tail == [f"line {number}" for number in range(80, 100)]
    assert caught.value.result is result
    assert caught.value.exit_code == 3


def test_without_output_it_shows_the_oops() -> None:
    result = RunResult(ExitReason.PANIC, 34, oops="Oops: 0000 [#1]\nRIP: 0010:f")
    assert str(RunFailed(result)) == (
        "panic, exit code 34\nOops: 0000 [#1]\nRIP: 0010:f"
    )


def test_a_guests_output_can_not_blow_the_message_up_nor_command_a_reader() -> None:
    result = RunResult(ExitReason.EXITED, 1, output=b"\x1b[2J" + b"x" * (1 << 20))
    assert len(str(RunFailed(result))) < 1 << 13
    short = RunResult(ExitReason.EXITED, 1, output=b"\x1b[2J::error::")
    assert "\x1b" not in str(RunFailed(short))


def test_run_failed_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RunFailed(RESULT)))
    assert (str(error), error.result) == (str(RunFailed(RESULT)), RESULT)
    assert error.exit_code == 34
