"""Hints that fit how we were installed: a checkout has scripts, a wheel none."""

import os
from typing import Final

ROOT: Final = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def is_checkout() -> bool:
    """Whether we run from a checkout, by an editable installation or in its folder."""
    return os.path.exists(os.path.join(ROOT, "scripts", "with-kvm"))


def script(words: str) -> str:
    """A call of one of the scripts, in quotes, such as "with-kvm vmm run ..."; for an
    installed package, which has none, whose they are."""
    if not is_checkout():
        return f"{words!r} of a checkout of minivmm"
    path = f"scripts/{words}"
    in_it = os.path.realpath(os.curdir) == ROOT
    return repr(path if in_it else os.path.join(ROOT, path))
