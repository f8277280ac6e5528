"""KVM's statistics, read from a file that is laid out as the kernel's."""

import os
import struct

import pytest
from support.open_fds import open_fds

from vmm.kvm.stats import read_stats

NAME_SIZE = 24


def stats_file(values: dict[str, int]) -> int:
    """A descriptor with these statistics, 64 bits each."""
    descriptors = 24 + 16  # behind the header and the id
    data = descriptors + len(values) * (16 + NAME_SIZE)
    content = struct.pack("<6I", 0, NAME_SIZE, len(values), 24, descriptors, data)
    content += b"kvm-1/vcpu-0".ljust(16, b"\0")
    for index, name in enumerate(values):
        content += struct.pack("<IhHII", 0, 0, 1, 8 * index, 0)
        content += name.encode().ljust(NAME_SIZE, b"\0")
    content += struct.pack(f"<{len(values)}Q", *values.values())
    fd = os.memfd_create("stats")
    os.write(fd, content)
    return fd


def test_values_are_found_by_their_names() -> None:
    before = open_fds()
    values = {"exits": 7, "insn_emulation": 6_856_136}
    assert read_stats(stats_file(values)) == values
    assert open_fds() == before


def test_descriptor_is_closed_upon_an_error() -> None:
    before = open_fds()
    fd = os.memfd_create("empty")
    with pytest.raises(ValueError, match="Buffer size too small"):
        read_stats(fd)
    assert open_fds() == before
