"""Console: opening and closing."""

from pathlib import Path

import pytest
from support.console_rig import Rig
from support.open_fds import open_fds

from vmm.console.config import ConsoleConfig
from vmm.console.console import Console
from vmm.errors import ConfigError
from vmm.event_loop import EventLoop

pytest_plugins = ("support.loop_fixtures",)


def test_what_can_not_be_opened_leaves_nothing_open(
    loop: EventLoop, tmp_path: Path
) -> None:
    before = open_fds()
    with pytest.raises(ConfigError, match=r"^serial: "):
        Console(loop, ConsoleConfig(serial=f"file:{tmp_path}/no/log"), print)
    with pytest.raises(ConfigError, match=r"^tee: "):
        Console(loop, ConsoleConfig(tee=["file:/dev/null", "file:/no/log"]), print)
    assert open_fds() == before


@pytest.mark.parametrize("where", ["file:/no/log", "unix:/no/socket"])
def test_whose_output_can_not_be_opened_is_named(loop: EventLoop, where: str) -> None:
    with pytest.raises(ConfigError, match=r"^debugcon: (file|unix socket) '/no/"):
        Console(loop, ConsoleConfig(serial=where), print, field="debugcon")


@pytest.mark.parametrize("where", ["capture", "null", "file:{}/log", "unix:{}/sock"])
def test_closing_leaves_nothing_open(where: str, tmp_path: Path) -> None:
    before = open_fds()
    loop = EventLoop(lambda error: None)
    rig = Rig(
        loop, where.format(tmp_path), f"file:{tmp_path}/tee", f"unix:{tmp_path}/t"
    )
    loop.start()
    rig.print(b"x")
    loop.stop()
    rig.console.close()
    rig.console.close()
    loop.close()
    assert open_fds() == before
