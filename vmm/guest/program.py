"""Our programs for guests: where they are, and what to do where they aren't built."""

import os

from ..errors import ConfigError
from ..installation import is_checkout, script


def program(name: str, field: str, build_dir: str) -> bytes:
    """One of them: scripts/build-guest's in a checkout, else the package's own.

    Raises ConfigError, by `field`, which asks for it.
    """
    for folder in (build_dir, os.path.dirname(__file__)):
        try:
            with open(os.path.join(folder, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            continue
    how = (
        f"run {script('build-guest busybox')}"
        if is_checkout()
        else "install a C compiler and then minivmm again "
        "(pip install --force-reinstall --no-cache-dir minivmm)"
    )
    raise ConfigError(f"{field}: the guest's {name} isn't built: {how}")
