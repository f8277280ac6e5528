"""What pyproject.toml can't say: two programs in C, each built if it can be.

The compiled run loop, by cffi; and vmm-exec, which runs one command in a guest. In a
checkout, scripts/build-guest builds the latter for an editable installation.
"""

import os
import shlex
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "guest/linux"
HELPER = "vmm/guest/vmm-exec"


class BuildWithHelper(build_py):
    """Adds vmm-exec to the package; without a C compiler the package goes without."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self._build_helper(Path(self.build_lib, HELPER))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs: list[str] = super().get_outputs(include_bytecode)
        helper = os.path.join(self.build_lib, HELPER)
        return [*outputs, helper] if os.path.exists(helper) else outputs

    def _build_helper(self, target: Path) -> None:
        target.unlink(missing_ok=True)  # an older one
        compiler = shlex.split(os.environ.get("CC", "cc"))
        flags = [*(SOURCE / "cflags").read_text().split(), "-Wno-error"]
        command = [*compiler, *flags, "-o", str(target), str(SOURCE / "vmm-exec.c")]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.warn(f"vmm-exec isn't built, so --exec won't work: {error}")


setup(
    cffi_modules=["vmm/vcpu/run_loop_build.py:ffibuilder"],
    cmdclass={"build_py": BuildWithHelper},
)
