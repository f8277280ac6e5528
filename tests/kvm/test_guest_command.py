"""A command in a guest: its status and its output reach the host, and nothing else."""

import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.guests import DEADLINE, built, kernel, with_script

import vmm
from vmm import ExitReason, RunResult
from vmm.guest import cpio

pytestmark = pytest.mark.linux

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <unistd.h>
#include <sys/reboot.h>

int main(int argc, char **argv)
{
    printf("out of %s\n", argv[0]);
    fflush(stdout);
    fprintf(stderr, "err\n");
    if (argc > 1 && !strcmp(argv[1], "reboot"))
        reboot(RB_AUTOBOOT);
    if (argc > 1 && !strcmp(argv[1], "die"))
        raise(SIGTERM);
    return argc > 1 ? atoi(argv[1]) : 0;
}
"""
OUTPUT = b"out of /prog\nerr\n"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static C program that prints, and ends as it is told."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "prog.c").write_text(PROGRAM)
    gcc = ["gcc", "-static", "-O2", "-s", "-o", "prog", "prog.c"]
    subprocess.run(gcc, cwd=folder, check=True)
    return folder / "prog"


def run(program: Path, *words: str, **settings: object) -> RunResult:
    """Run the program in the smallest guest."""
    return vmm.run(
        initrd=built("initramfs-tiny.cpio"),
        command=[f"/{program.name}", *words],
        files=[str(program)],
        timeout=DEADLINE,
        **{"append": "quiet", **settings},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("word", "status"), [("0", 0), ("3", 3), ("255", 255), ("die", 128 + 15)]
)
def test_status_of_a_static_c_program(program: Path, word: str, status: int) -> None:
    result = run(program, word)
    assert result.reason is ExitReason.EXITED
    assert result.guest_status == result.exit_code == status
    assert result.output == OUTPUT
    assert pickle.loads(pickle.dumps(result)) == result


@pytest.mark.both
def test_output_is_clean_of_a_verbose_kernel(
    each: Callable[[str], Path], program: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    result = run(
        program, "5", kernel=each("vmlinux-tiny"), append="", serial=f"file:{log}"
    )
    assert (result.guest_status, result.output) == (5, OUTPUT)
    assert b"Run /vmm-exec as init process" in log.read_bytes()
    assert b"out of" not in log.read_bytes()


def test_output_goes_to_the_console_unless_captured(
    program: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    result = run(program, capture=None, serial=f"file:{log}")
    assert (result.guest_status, result.output) == (0, None)
    assert b"out of /prog\r\nerr\r\n" in log.read_bytes()


def test_guest_that_resets_before_the_status_is_a_failure(program: Path) -> None:
    result = run(program, "reboot")
    assert result.reason is ExitReason.RESET
    assert (result.exit_code, result.guest_status) == (125, None)
    assert "its command's status never came" in result.detail


def test_command_that_isnt_in_the_guest_from_the_shell() -> None:
    tiny = str(built("initramfs-tiny.cpio"))
    given = ["--exec", "nowhere 1", "--initrd", tiny, "--append", "quiet", "--capture"]
    done = subprocess.run(
        [sys.executable, "-m", "vmm", "run", *given],
        capture_output=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 127
    assert done.stdout == b""
    default, end = done.stderr.splitlines()
    assert default.startswith(b"vmm: no --kernel: booting our vmlinux-tiny")
    assert end.startswith(
        b"vmm: the guest has ended the run: 'nowhere' could not be started in the "
        b"guest: no such file or directory ("
    )


def test_users_initramfs_keeps_its_symlinked_directories_in_any_thread(
    program: Path, tmp_path: Path
) -> None:
    """Ours is added to one where /bin is usr/bin, of a size that needs padding."""
    initrd = tmp_path / "initrd"
    members = [
        cpio.directory("usr"),
        cpio.directory("usr/bin"),
        cpio.symlink("bin", "usr/bin"),
    ]
    initrd.write_bytes(cpio.write(members) + b"\0")
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(
            vmm.run,
            initrd=initrd,
            command="prog 7",
            files=[(program, "/bin/prog")],
            append="quiet",
            timeout=DEADLINE,
        ).result()
    assert result.guest_status == 7
    assert result.output == b"out of prog\nerr\n"
    again = vmm.run(
        initrd=initrd,
        command="/usr/bin/prog 8",
        files=[(program, "/bin/prog")],
        append="quiet",
        timeout=DEADLINE,
    )
    assert again.guest_status == 8


def packed(name: str, *options: str) -> Callable[[bytes], bytes]:
    """What a program of this name makes of its input."""

    def pack(data: bytes) -> bytes:
        command = [name, "-c", *options]
        return subprocess.run(
            command, input=data, capture_output=True, check=True
        ).stdout

    return pack


EMPTY = cpio.write([])
# Of what our kernel unpacks.
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": packed("gzip", "-1"),
    "lz4": packed("lz4", "-l"),
    "zstd": packed("zstd", "-1"),
    "cpio, lz4": lambda data: EMPTY + packed("lz4", "-l")(data),
    "lz4, lz4": lambda data: packed("lz4", "-l")(EMPTY) + packed("lz4", "-l")(data),
    "gzip, zeros, lz4, a zero": lambda data: (
        packed("gzip")(EMPTY) + bytes(4) + packed("lz4", "-l")(data) + bytes(1)
    ),
}


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_files_come_with_an_initrd_however_it_is_packed(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    initrd, added = tmp_path / "initrd", tmp_path / "added"
    initrd.write_bytes(pack(built("initramfs-busybox.cpio").read_bytes()))
    added.write_text("added")
    result = vmm.run(
        kernel=kernel("full"),
        initrd=initrd,
        command="cat /added",
        files=[added],
        append="quiet",
        timeout=DEADLINE,
    )
    assert (result.exit_code, result.output) == (0, b"added"), result


def test_script_has_what_a_script_expects(tmp_path: Path) -> None:
    script = tmp_path / "check.sh"
    script.write_text(
        "#!/bin/sh\n"
        "pwd; cat; echo $PATH; [ -d /sys ] && [ -r /proc/uptime ] && echo proc\n"
        "cat /data/sub/file; seq 200; exit 5\n"
    )
    script.chmod(0o755)
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/sub/file").write_text("added\n")
    result = vmm.run(
        script=script,
        files=[str(tmp_path / "data")],
        append="quiet",
        timeout=DEADLINE,
    )
    assert result.guest_status == 5
    lines = ["/", "/bin:/sbin:/usr/bin:/usr/sbin", "proc", "added"]
    expected = [*lines, *map(str, range(1, 201))]
    assert result.output == "".join(f"{line}\n" for line in expected).encode()


CONTAINER = r"""
echo to stderr > /dev/stderr; echo to stdout > /dev/stdout; echo by number > /dev/fd/1
for path in /dev/fd/0 /dev/stdin /dev/shm /dev/pts /tmp; do
    [ -e $path ] || echo no $path
done
for node in null zero full random urandom tty; do
    [ "$(stat -c '%F %a' /dev/$node)" = "character special file 666" ] || echo no $node
done
echo x > /dev/shm/x && stat -c '%a' /dev/shm /tmp
"""


def test_command_has_what_a_container_has() -> None:
    """The tiny kernel has no devtmpfs: what that makes elsewhere is made by us."""
    words = ["sh", "-c", CONTAINER]
    result = vmm.run(command=words, append="quiet", timeout=DEADLINE)
    assert result.output is not None
    lines = ["to stderr", "to stdout", "by number", "1777", "1777"]
    assert result.output.decode().splitlines() == lines


def test_guests_script_has_what_a_container_has(tmp_path: Path) -> None:
    """With devtmpfs, which the full kernel has, and devpts; init is another program."""
    script = "echo to-stderr > /dev/stderr; stat -c %a /dev/shm; ls -d /dev/pts/ptmx"
    log = tmp_path / "log"
    vmm.run(
        kernel("full"),
        with_script(tmp_path, script),
        serial=f"file:{log}",
        append="quiet",
        timeout=DEADLINE,
    )
    assert {"to-stderr", "1777", "/dev/pts/ptmx"} <= set(log.read_text().split())


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"#!/bin/sh\r\necho\r\n", "its lines end in CR LF, as Windows"),
        (b"echo\r\n", "its lines end in CR LF, as Windows"),
        (b"#!/nowhere/sh\n", "it is there, but the guest has neither what its first"),
    ],
    ids=["crlf", "crlf-without-interpreter", "no-interpreter"],
)
@pytest.mark.parametrize("name", ["/bin/script", "script"])
def test_file_that_is_there_and_can_not_be_started(
    tmp_path: Path, name: str, content: bytes, detail: str
) -> None:
    (tmp_path / "script").write_bytes(content)
    (tmp_path / "script").chmod(0o755)
    result = vmm.run(
        initrd=built("initramfs-tiny.cpio"),
        command=[name],
        files={"/bin/script": tmp_path / "script"},
        append="quiet",
        timeout=DEADLINE,
    )
    assert result.guest_status in (126, 127)
    assert result.detail.startswith(f"{name!r} could not be started in the guest: ")
    assert detail in result.detail


@pytest.mark.parametrize(
    ("command", "output"),
    [("seq 3", b"1\n2\n3\n"), ("factor 6", b"6: 2 3\n")],
    ids=["with-a-link", "without"],
)
def test_busybox_applet(command: str, output: bytes) -> None:
    result = vmm.run(command=command, append="quiet", timeout=DEADLINE)
    assert (result.guest_status, result.output) == (0, output)


def test_what_the_kernel_is_told_of_glibcs_tunables_a_program_is_told(
    tmp_path: Path,
) -> None:
    """Linux makes init's environment of words that it doesn't know."""
    tunables = "GLIBC_TUNABLES=glibc.malloc.perturb=7"
    settings = {"append": f"quiet {tunables}", "timeout": DEADLINE}
    result = vmm.run(command="env", **settings)  # type: ignore[arg-type]
    assert result.output is not None
    assert tunables in result.output.decode().splitlines()
    script = with_script(tmp_path, "env")
    log = tmp_path / "log"
    vmm.run(initrd=script, serial=f"file:{log}", **settings)  # type: ignore[arg-type]
    assert tunables in log.read_text().splitlines()


THREADS = r"""
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turns;
static volatile sig_atomic_t signals;

static void handler(int number)
{
    signals += number == SIGUSR1;
}

static void *take_turns(void *mine)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 25; i++) {
        while (turns % 4 != (long)mine)
            pthread_cond_wait(&turned, &lock);
        turns++;
        pthread_cond_broadcast(&turned);
    }
    pthread_mutex_unlock(&lock);
    pthread_kill(pthread_self(), SIGUSR1);
    return NULL;
}

int main(void)
{
    pthread_t threads[4];

    signal(SIGUSR1, handler);
    for (long i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, take_turns, (void *)i))
            return 1;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("%d turns, %d signals\n", turns, (int)signals);
    return 0;
}
"""


@pytest.mark.both
def test_threads_futexes_and_signals_which_go_needs(tmp_path: Path) -> None:
    """A static Go program is this to a kernel: clone, futex and tgkill."""
    (tmp_path / "threads.c").write_text(THREADS)
    gcc = ["gcc", "-static", "-pthread", "-O2", "-o", "threads", "threads.c"]
    subprocess.run(gcc, cwd=tmp_path, check=True)
    result = run(tmp_path / "threads")
    assert (result.guest_status, result.output) == (0, b"100 turns, 4 signals\n")


def test_a_matrix_over_a_process_pool(program: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        runs = {
            status: pool.submit(
                vmm.run,
                kernel=kernel("tiny"),
                initrd=built("initramfs-tiny.cpio"),
                command=f"/prog {status}",
                files={"/prog": program},
                append="quiet",
                timeout=DEADLINE,
            )
            for status in (0, 9)
        }
        results = {status: run.result() for status, run in runs.items()}
    assert {s: r.guest_status for s, r in results.items()} == {0: 0, 9: 9}
    assert [r.output for r in results.values()] == [OUTPUT, OUTPUT]
