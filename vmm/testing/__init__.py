"""What the pytest plugin `minivmm` gives to tests: fixtures that build machines.

The fixtures `vm`, `vm_class` and `vm_session` are VmFactory objects; annotate a test's
argument with it.
"""

from .factory import VmFactory

__all__ = ["VmFactory"]
