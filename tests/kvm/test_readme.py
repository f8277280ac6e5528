"""The README's device, as it stands there, driven by real guests."""

import doctest
import re
from pathlib import Path

import pytest
from support.guests import DEADLINE, bare, bare_machine, kernel, with_script

import vmm.agent.guest
import vmm.machine.machine
from vmm import ExitReason, Machine, MachineConfig
from vmm.devices.device_io import DeviceIo

README = Path(__file__).parents[2] / "README.md"


def readme_device() -> DeviceIo:
    """An Adder, made from the code block that the README shows."""
    section = README.read_text().partition("\n## Add a device\n")[2]
    match = re.search(r"runs this block.*?```python\n(.*?)```", section, re.S)
    assert match is not None
    names: dict[str, type[DeviceIo]] = {}
    exec(match[1], names)
    return names["Adder"]()


def test_a_bare_guest_adds_and_gets_the_interrupt() -> None:
    with bare_machine("adder", timeout=DEADLINE) as machine:
        machine.plug(readme_device())
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read() == b"sum c8\noverflow 2c\n"


@pytest.mark.linux
def test_a_program_in_linux_adds(tmp_path: Path) -> None:
    script = "portio w1 0x500 200 r1 0x500 w1 0x500 100 r1 0x500"
    config = MachineConfig(
        initrd=with_script(tmp_path, script), append="quiet", timeout=DEADLINE
    )
    with Machine(config) as machine:
        machine.plug(readme_device())
        assert machine.run().reason is ExitReason.RESET
        assert b"0xc8\r\n0x2c\r\n" in machine.console.read()


@pytest.mark.linux
def test_the_example_in_the_machines_docstring() -> None:
    assert doctest.testmod(vmm.machine.machine) == (0, 2)


@pytest.mark.linux
def test_the_program_that_runs_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README.read_text().partition("\n## Run many commands in one guest\n")[2]
    match = re.search(r"This is a program:\n\n```python\n(.*?)```", section, re.S)
    assert match is not None
    monkeypatch.chdir(tmp_path)
    exec(match[1], {})
    assert (tmp_path / "copy-of-hello.sh").read_text() == "echo hello from $1\n"


@pytest.mark.linux
def test_the_clones_of_a_program() -> None:
    section = README.read_text().partition("\n## From Python\n")[2]
    match = re.search(r"puts one back:\n\n```python\n(.*?)```", section, re.S)
    assert match is not None
    exec(f"from vmm import Machine, MachineConfig\n{match[1]}", {})


@pytest.mark.linux
def test_the_example_in_the_guests_docstring() -> None:
    assert doctest.testmod(vmm.agent.guest) == (0, 2)


@pytest.mark.linux
@pytest.mark.parametrize(
    ("chapter", "kernel", "passed"),
    [("Test a kernel with pytest", "hello", 2), ("A fresh guest for each test", "", 4)],
)
def test_the_readmes_tests_pass(
    pytester: pytest.Pytester, chapter: str, kernel: str, passed: int
) -> None:
    section = README.read_text().partition(f"\n## {chapter}\n")[2]
    match = re.search(r"runs this block.*?```python\n(.*?)```", section, re.S)
    assert match is not None
    pytester.makepyfile(match[1])
    options = [f"--vmm-kernel={bare(kernel)}"] if kernel else []
    result = pytester.runpytest_subprocess("-pno:cacheprovider", "-Werror", *options)
    result.assert_outcomes(passed=passed)


@pytest.mark.linux
def test_the_readmes_network(pytester: pytest.Pytester) -> None:
    section = README.read_text().partition("\n## Give it networks\n")[2]
    match = re.search(r"runs this block.*?```python\n(.*?)```", section, re.S)
    assert match is not None
    pytester.makepyfile(match[1])
    result = pytester.runpytest_subprocess(
        "-pno:cacheprovider", "-Werror", f"--vmm-kernel={kernel('full')}"
    )
    result.assert_outcomes(passed=1)
