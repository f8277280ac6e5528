"""A fixture of the project's own, on top of the plugin's."""

import subprocess
from pathlib import Path

import pytest

from vmm.machine import Machine
from vmm.testing import VmFactory

SOURCE = """
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    FILE *console = fopen("/dev/console", "r");
    char line[80];

    if (argc == 1)
        puts("ready");
    while (argc == 1 && fgets(line, sizeof(line), console))
        printf("answer: %s", line);
    return argc > 1 ? atoi(argv[1]) : 0;
}
"""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program, which is all that a guest of this project has."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "p.c").write_text(SOURCE)
    gcc = ["gcc", "-static", "-O2", "-o", "p", "p.c"]
    subprocess.run(gcc, cwd=folder, check=True)
    return folder / "p"


@pytest.fixture(scope="class")
def talker(vm_class: VmFactory, program: Path) -> Machine:
    """A guest with the program, running."""
    machine = vm_class(command="/p", files={"/p": program}, capture=None)
    machine.start()
    machine.console.expect("ready", timeout=300)
    return machine
