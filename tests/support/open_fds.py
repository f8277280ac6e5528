"""What descriptors this process has, for tests that nothing is left open."""

import os


def open_fds() -> dict[int, str]:
    """Every open descriptor and what it is."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # it was listdir's own
            continue
    return found
