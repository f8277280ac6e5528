"""The C programs of the benchmark, compiled at their first use."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from .children import NotMeasured

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
TOOLS: Final = ROOT / "guest/build/bench"
FLAGS: Final = ("-O2", "-Wall", "-pthread")


def limit() -> Path:
    """Return the C limit: a program that runs a bare guest. Raises NotMeasured."""
    return compiled("limit.c", "limit", *FLAGS)


def first_run() -> Path:
    """Return the library that notes the first KVM_RUN. Raises NotMeasured."""
    return compiled("first_run.c", "first_run.so", *FLAGS, "-shared", "-fPIC")


def virtio_loop() -> Path:
    """Return the library with a device's loop. Raises NotMeasured."""
    return compiled("virtio_loop.c", "virtio_loop.so", *FLAGS, "-shared", "-fPIC")


def compiled(source: str, name: str, *flags: str, folder: Path = TOOLS) -> Path:
    """Return `source` compiled as `name`, kept in `folder` by its content and flags.

    Raises NotMeasured where there is no C compiler, or it fails.
    """
    text = (HERE / source).read_bytes() + repr(flags).encode()
    program = folder / hashlib.sha256(text).hexdigest()[:16] / name
    if program.exists():
        return program
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise NotMeasured(f"{source}: no C compiler (apt-get install gcc libc6-dev)")
    print(f"==> compiling {source} (a few seconds)", file=sys.stderr, flush=True)
    try:
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="new.", dir=folder) as scratch:
            new = Path(scratch, name)
            _compile([compiler, *flags, "-o", str(new), str(HERE / source)])
            os.replace(new, program)  # whole, or not there
    except OSError as error:
        raise NotMeasured(f"{source}: {error.filename}: {error.strerror}") from None
    return program


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise NotMeasured((errors or [f"{command[0]} failed"])[0])
