"""RunResult and the file it is written to."""

import json
import os
import pickle
import stat
from pathlib import Path

import pytest

from vmm.errors import ConfigError, GuestEnded, KvmError, VmmError
from vmm.result import EXIT_CODES, ExitReason, RunResult
from vmm.result_file import check_result_path, write_result

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

    def fail(source: str, target: str) -> None:
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
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=r"^result: no permission to write in"):
        check_result_path(str(tmp_path / "result.json"))
