"""What the pytest plugin `minivmm` gives to tests: fixtures that build machines.

`vm`, `vm_class` and `vm_session` are VmFactory objects; `guest`, `guest_class` and
`guest_session` are TestGuests; `vm_network` is a `vmm.Network`. Annotate a
test's argument with them.
"""

from .factory import VmFactory
from .guest import TestGuest

__all__ = ["TestGuest", "VmFactory"]
