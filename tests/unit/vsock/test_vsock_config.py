"""VsockConfig: what a user writes, and what comes of it."""

from pathlib import Path
from typing import Any

import pytest

from vmm import MachineConfig
from vmm.console.config import ConsoleConfig
from vmm.errors import ConfigError
from vmm.vsock.config import PATH_MAX, VsockConfig


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        (False, None),
        (True, VsockConfig()),
        ("v", VsockConfig(path="v")),
        (Path("/a/v"), VsockConfig(path="/a/v")),
        ("v,cid=5", VsockConfig(path="v", cid=5)),
        (",cid=5", VsockConfig(cid=5)),
        ("a,b,cid=x", VsockConfig(path="a,b,cid=x")),
        (VsockConfig(cid=7), VsockConfig(cid=7)),
    ],
)
def test_what_is_given_and_what_is_kept(given: Any, kept: VsockConfig | None) -> None:  # noqa: ANN401
    assert MachineConfig(vsock=given).vsock == kept


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", r"^vsock: path: it is empty"),
        ("v,cid=2", r"^vsock: cid: 2 is no guest's: 3\.\.0xfffffffe"),
        ("v,cid=4294967295", r"^vsock: cid: 4294967295 is no guest's"),
        ("v" * 97, r"^vsock: path: 'v*' is too long: with _PORT behind it .* have 96"),
        ("ü" * 49, "is too long"),
        (7, r"^vsock: 7 is not True or False"),
        (ConsoleConfig(), r"^vsock: a ConsoleConfig is no VsockConfig"),
    ],
)
def test_what_can_not_be_is_refused(given: Any, said: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=said):
        MachineConfig(vsock=given)


def test_the_longest_path_has_room_for_each_port() -> None:
    path = "v" * 96
    assert VsockConfig(path=path).path == path
    assert len(f"{path}_{(1 << 32) - 2}") == PATH_MAX
