"""A guest put back to its snapshot: no address leads where it did in a former life."""

import re
import subprocess
from pathlib import Path

import pytest
from support.guests import DEADLINE, Shell, built, kernel

from vmm import Machine, MachineConfig

pytestmark = pytest.mark.linux

LIVES = 3

# KVM that shadows page tables, as on PVM, isn't told when they change under it. The
# shadow of a directory, from another life, then leads one region to a table that is
# another's by now; whoever of the two comes second reads the first one's page.
PROGRAM = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define REGIONS 64
#define REACH (2ul << 20) /* of one page table: each region has its own */
#define BASE ((char *)0x100000000000)

static volatile int *first_word(int region)
{
    return (volatile int *)(BASE + region * REACH);
}

static void map(int regions)
{
    mmap(BASE, regions * REACH, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

/* Half of the regions get tables, from those that all of them had. */
static void live(void)
{
    munmap(BASE, REGIONS * REACH);
    map(REGIONS);
    for (int region = 1; region < REGIONS; region += 2)
        *first_word(region) = -region;
}

static int count_wrong(void)
{
    int wrong = 0;
    for (int region = 1; region < REGIONS; region += 2)
        wrong += *first_word(region) != region;
    for (int region = 0; region < REGIONS; region += 2)
        wrong += *first_word(region) != region;
    return wrong;
}

int main(void)
{
    char line[16];

    map(REGIONS + 1); /* the last one stays, and with it their directory */
    for (int region = 0; region <= REGIONS; region++)
        *first_word(region) = region;
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "live\n")) {
            printf("wrong: %d\n", count_wrong());
        } else {
            live();
            puts("lived");
        }
    }
    return 0;
}
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "tables.c").write_text(PROGRAM)
    gcc = ["gcc", "-static", "-O2", "-s", "-o", "tables", "tables.c"]
    subprocess.run(gcc, cwd=tmp_path, check=True)
    return tmp_path / "tables"


def test_a_process_finds_its_own_pages_whatever_its_tables_were(program: Path) -> None:
    config = MachineConfig(
        kernel=kernel("tiny"),
        initrd=built("initramfs-busybox.cpio"),
        files={"/tables": program},
        append="quiet guest.shell",
        timeout=DEADLINE,
    )
    with Machine(config) as machine:
        machine.start()
        console = Shell(machine).machine.console
        console.sendline("/tables")
        console.expect("ready\r\n", DEADLINE)
        with machine.snapshot():
            for _ in range(LIVES):
                console.sendline("live")
                console.expect("lived\r\n", DEADLINE)
                machine.reset()
                console.sendline("check")
                told = console.expect(re.compile(rb"wrong: \d+\r\n"), DEADLINE)
                assert told[0] == b"wrong: 0\r\n"
                machine.reset()
