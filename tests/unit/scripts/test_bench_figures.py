"""scripts/bench: figures from what guests print and the kernel tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts.benchmark.exits import access_ns
from scripts.benchmark.host import this_host
from scripts.benchmark.memory import DIRTY, RESIDENT, field_kb, own_kb

if TYPE_CHECKING:
    from pathlib import Path

RAM = 128 << 20
SMAPS = """\
00400000-00401000 r-xp 00000000 08:01 42                         /usr/bin/vmm
Size:                  4 kB
Rss:                   4 kB
Private_Clean:         4 kB
Private_Dirty:         0 kB
7f0000000000-7f0008000000 rw-s 00000000 00:01 7                  /dev/zero (deleted)
Size:             131072 kB
Rss:                 512 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:       512 kB
7f0008000000-7f0008100000 rw-p 00000000 00:00 0
Rss:                  85 kB
Shared_Clean:         64 kB
Private_Clean:         1 kB
Private_Dirty:        20 kB
Private_Hugetlb:       2 kB
"""


def test_an_access_takes_cycles_over_accesses_at_the_rate_of_the_tsc() -> None:
    output = b"....\nbench 0000000000002710 0000000a\n"  # 10,000 cycles, 10 accesses
    assert access_ns(output, tsc_khz=2_000_000) == 500


def test_the_last_line_counts() -> None:
    lines = b"\nbench 0000000000000001 00000001\n.\nbench 0000000000000002 00000001\n"
    assert access_ns(lines, tsc_khz=1_000_000) == 2


@pytest.mark.parametrize("output", [b"", b"....", b"\nbench 0000000000002710 "])
def test_an_unfinished_guest_gives_no_figure(output: bytes) -> None:
    assert access_ns(output, tsc_khz=1) is None


def test_memory_of_the_guest_does_not_count() -> None:
    assert own_kb(SMAPS, RAM, DIRTY) == 20 + 2


def test_a_mapping_smaller_than_ram_counts() -> None:
    assert own_kb(SMAPS, 2 * RAM, DIRTY) == 512 + 20 + 2


def test_resident_memory_is_clean_and_dirty_and_of_huge_pages() -> None:
    assert own_kb(SMAPS, RAM, RESIDENT) == 4 + 85 + 2


def test_a_field_is_summed_over_all_mappings() -> None:
    smaps = "0-1 x\nPrivate_Dirty: 3 kB\nPss: 9 kB\n1-2 y\nPrivate_Dirty:   4 kB\n"
    assert field_kb(smaps, "Private_Dirty") == 7


def test_the_host_names_its_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name\t: A: fast\nmodel name\t: A: fast\n")
    host = this_host("pvm", str(cpuinfo))
    assert (host.kind, host.cpu, host.cpus) == ("pvm", "A: fast", 2)
