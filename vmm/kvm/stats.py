"""KVM's binary statistics, as a file descriptor gives them (API 4.133)."""

import os
from ctypes import sizeof
from struct import unpack_from

from .abi import kvm_stats_desc, kvm_stats_header


def read_stats(fd: int) -> dict[str, int]:
    """The first value of every statistic by its name; closes `fd`."""
    try:
        header = kvm_stats_header.from_buffer_copy(
            os.pread(fd, sizeof(kvm_stats_header), 0)
        )
        size = sizeof(kvm_stats_desc) + header.name_size
        table = os.pread(fd, header.num_desc * size, header.desc_offset)
        stats = {}
        for start in range(0, len(table), size):
            desc = kvm_stats_desc.from_buffer_copy(table, start)
            name = table[start + sizeof(kvm_stats_desc) : start + size]
            (value,) = unpack_from(
                "<Q", os.pread(fd, 8, header.data_offset + desc.offset)
            )
            stats[name.rstrip(b"\0").decode()] = value
        return stats
    finally:
        os.close(fd)
