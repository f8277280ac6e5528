"""The agent in an initramfs, and on the kernel's command line."""

from pathlib import Path

import pytest

from vmm import ConfigError, MachineConfig
from vmm.agent.image import agent_cmdline, agent_segment

OURS = "rdinit=/vmm-agent 8250.nr_uarts=2"


@pytest.mark.parametrize(
    ("cmdline", "init", "told"),
    [
        ("", None, OURS),
        ("console=ttyS0", None, f"{OURS} console=ttyS0"),
        ("a", "-", f"{OURS} VMM_AGENT_INIT=- a"),
        ("a rdinit=/x b", None, f"{OURS} VMM_AGENT_INIT=/x a b"),
        ("rdinit=/x rdinit=/y", "-", f"{OURS} VMM_AGENT_INIT=/y"),
        ("a -- rdinit=/x  b", None, f"{OURS} a -- rdinit=/x  b"),
        ("xrdinit=/x init=/y", None, f"{OURS} xrdinit=/x init=/y"),
    ],
)
def test_kernel_starts_the_agent_and_the_agent_the_init(
    cmdline: str, init: str | None, told: str
) -> None:
    assert agent_cmdline(cmdline, init) == told


def test_init_is_the_initrds_if_one_is_given() -> None:
    config = MachineConfig(agent=True, initrd="mine", cmdline="c")
    assert config.full_cmdline == f"{OURS} c"
    ours = MachineConfig(agent=True, cmdline="c")
    assert ours.full_cmdline == f"{OURS} VMM_AGENT_INIT=- c"


def test_segment_has_the_program(tmp_path: Path) -> None:
    (tmp_path / "vmm-agent").write_bytes(b"the agent")
    segment = agent_segment(str(tmp_path))
    assert b"vmm-agent\0" in segment
    assert b"the agent" in segment
    assert b"dev/console\0" in segment


def test_program_that_isnt_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent: the guest's vmm-agent isn't built"):
        agent_segment(str(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [{"command": "true"}, {"script": "x"}, {"command": "a", "capture": "null"}],
)
def test_agent_and_a_command(settings: dict[str, str], tmp_path: Path) -> None:
    if "script" in settings:
        script = tmp_path / "script"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        settings = {"script": str(script)}
    with pytest.raises(ConfigError, match="agent: it excludes command, script and"):
        MachineConfig(agent=True, **settings)  # type: ignore[arg-type]


def test_files_go_beside_it() -> None:
    config = MachineConfig(agent=True, files=["x"])
    assert config.agent
    assert config.command is not None
