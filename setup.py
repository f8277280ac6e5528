"""What pyproject.toml can't say: programs in C, each built if it can be.

The compiled run loop, by cffi; and vmm-exec and vmm-agent, which run commands in a
guest. In a checkout, scripts/build-guest builds these for an editable installation.
"""

import os
import shlex
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "guest/linux"
PROGRAMS = {"vmm-exec": "--exec", "vmm-agent": "--agent"}  # and what needs them


class BuildWithPrograms(build_py):
    """Adds them to the package; without a C compiler the package goes without."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in PROGRAMS:
                self._build(name, self._target(name))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs: list[str] = super().get_outputs(include_bytecode)
        built = (str(self._target(name)) for name in PROGRAMS)
        return [*outputs, *filter(os.path.exists, built)]

    def _target(self, name: str) -> Path:
        return Path(self.build_lib, "vmm/guest", name)

    def _build(self, name: str, target: Path) -> None:
        target.unlink(missing_ok=True)  # an older one
        compiler = shlex.split(os.environ.get("CC", "cc"))
        flags = [*(SOURCE / "cflags").read_text().split(), "-Wno-error"]
        command = [*compiler, *flags, "-o", str(target), str(SOURCE / f"{name}.c")]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.warn(f"{name} isn't built, so {PROGRAMS[name]} won't work: {error}")


setup(
    cffi_modules=["vmm/vcpu/run_loop_build.py:ffibuilder"],
    cmdclass={"build_py": BuildWithPrograms},
)
