"""Guest memory by the virtual addresses of a vCPU that stands still."""

from ..boot.layout import PAGE_SIZE
from ..errors import GuestAddressError
from ..kvm.vcpu import Vcpu
from ..memory import GuestMemory


def read_virtual(vcpu: Vcpu, memory: GuestMemory, address: int, size: int) -> bytes:
    """Up to `size` bytes at a linear address; fewer where no RAM is mapped.

    Runs on the vCPU's thread.
    """
    data = b""
    while len(data) < size:
        at = address + len(data)
        physical = vcpu.translate(at)
        if physical is None:
            break
        count = min(size - len(data), PAGE_SIZE - at % PAGE_SIZE)
        try:
            data += memory.read(physical, count)
        except GuestAddressError:
            break
    return data
