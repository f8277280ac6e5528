"""The `vmm` command: every bad input ends in one line, an exit code, and no trace."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.kernel_images import MIB, bzimage

import vmm
from vmm.cli.arguments import parser
from vmm.cli.main import main
from vmm.cli.options import OPTIONS_OF, in_options
from vmm.config import KEYWORDS
from vmm.machine.snapshot import FREE


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(cmdline_size=100, init_size=20 * MIB))
    return str(path)


@pytest.fixture(autouse=True)
def _hardware_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same whatever KVM the host has."""
    monkeypatch.setattr("vmm.machine.builder.host_kind", lambda: "hardware")


@pytest.fixture
def willing_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KVM that has everything, for what is checked after it; it can't run."""
    monkeypatch.setattr(
        "vmm.kvm.kvm.open_device", lambda path: os.open(os.devnull, os.O_RDWR)
    )
    monkeypatch.setattr("vmm.kvm.kvm.ioctl", lambda fd, request, argument=0: 12)


def error_of(code: int, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that fails with `code`."""
    try:
        got = main(arguments)
    except SystemExit as end:  # argparse's way
        got = end.code if isinstance(end.code, int) else -1
    out, err = capsys.readouterr()
    assert got == code
    assert out == ""
    assert re.fullmatch(r"vmm: error: [^\n]+\n", err)
    return err.removeprefix("vmm: error: ").rstrip("\n")


# Usage

PIPE = os.pipe()
USAGE = {
    "no command": ((), "the following arguments are required: COMMAND"),
    "unknown command": (("boot",), "invalid choice: 'boot'"),
    "unknown option": (("run", "--turbo"), "unrecognized arguments: --turbo"),
    "surplus argument": (("run", "vmlinux"), "unrecognized arguments: vmlinux"),
    "cpus is no number": (("run", "--cpus", "two"), "--cpus: invalid int value: 'two'"),
    "timeout is no number": (("run", "--timeout", "abc"), "--timeout: invalid float"),
    "value is missing": (("run", "--kernel"), "--kernel: expected one argument"),
    "on-reset": (("run", "--on-reset", "halt"), "--on-reset: invalid choice: 'halt'"),
    "on-panic": (("run", "--on-panic", "halt"), "--on-panic: invalid choice: 'halt'"),
    "on-crash": (("run", "--on-crash", "halt"), "--on-crash: invalid choice: 'halt'"),
    "hang": (("run", "--hang", "abc"), "--hang: invalid float"),
    "symbols": (("run", "--symbols", "/nowhere"), "symbols '/nowhere': no such file"),
    "exec nothing": (("run", "--exec", ""), "exec: it is empty"),
    "hang 0": (("run", "--hang", "0"), "hang: 0.0 is no time in seconds"),
    "quirks": (("run", "--quirks", "xen"), "--quirks: invalid choice: 'xen'"),
    "serial-policy": (("run", "--serial-policy", "x"), "--serial-policy: invalid choi"),
    "cpus 0": (("run", "--cpus", "0"), "cpus: 0 is not within 1..254"),
    "cpus 255": (("run", "--cpus", "255"), "cpus: 255 is not within 1..254"),
    "timeout 0": (("run", "--timeout", "0"), "timeout: 0.0 is no time in seconds"),
    "timeout -1": (("run", "--timeout", "-1"), "timeout: -1.0 is no time in seconds"),
    "memory 0": (("run", "--memory", "0"), "memory: 0 is less than 2M"),
    "memory -1M": (("run", "--memory=-1M"), "memory: '-1M' is no size"),
    "memory 12X": (("run", "--memory", "12X"), "memory: '12X' is no size"),
    "memory 512": (("run", "--memory", "512"), "did you mean 512M?"),
    "port x": (("run", "--debug-exit=x"), "--debug-exit: 'x' is no port: 0x501"),
    "port": (("run", "--debug-exit=0xffff"), "debug-exit: port 0xffff is not within"),
    "port of a command": (
        ("run", "--debug-exit", "--exec", "true"),
        "debug-exit: a command's status comes through port 0x501: choose another, 0xf4",
    ),
    "agent and command": (
        ("run", "--agent", "--exec", "true"),
        "agent: it excludes command, script and capture",
    ),
    "shell and command": (
        ("run", "--shell", "--exec", "true"),
        "agent: it excludes command, script and capture",
    ),
    "shell and stdio": (
        ("run", "--shell", "--serial", "stdio"),
        "shell: stdin and stdout are its own: choose --serial null, file:PATH",
    ),
    "debugcon": (("run", "--debugcon", "tty"), "debugcon: 'tty' is not stdio, null"),
    "debugcon twice": (
        ("run", "--debugcon", "file:x", "--serial", "file:x"),
        "debugcon: 'file:x' is where serial goes, too",
    ),
    "port of no name": (
        ("run", "--port", "log"),
        "port: 'log' is not NAME=PLACE: log=",
    ),
    "port to nowhere": (("run", "--port", "a=tty"), "port: 'tty' is not stdio, null"),
    "port twice": (
        ("run", "--port", "a=null", "--port", "a=null"),
        "port: 'a' is there twice",
    ),
    "port's name": (("run", "--port", "a/b=null"), "port: 'a/b' is no name: 1..128"),
    "port to where serial goes": (
        ("run", "--port", "a=file:x", "--serial", "file:x"),
        "port: 'file:x' is where serial goes, too",
    ),
    "result to where a port goes": (
        ("run", "--port", "a=file:x", "--result", "x"),
        "result: 'x' is where the guest's output goes",
    ),
    "console": (("run", "--console", "hvc0"), "console: invalid choice: 'hvc0'"),
    "balloon": (("run", "--balloon", "x"), "balloon: 'x' is no size"),
    "vsock": (("run", "--vsock", "v,cid=2"), "vsock: cid: 2 is no guest's: 3..0xfff"),
    "vsock too long": (("run", "--vsock", "v" * 97), "is too long"),
    "vsock nowhere": (("run", "--vsock", ""), "vsock: path: it is empty"),
    "balloon that is too large": (
        ("run", "--balloon", "1G"),
        "balloon: 1073741824 bytes are more than memory has, 134217728",
    ),
    "disk that isn't there": (
        ("run", "--disk", "none.img"),
        "disk: 'none.img': No such file or directory",
    ),
    "disk that is a directory": (
        ("run", "--disk", "/,format=raw"),
        "disk: '/': is a directory, not an image",
    ),
    "disk's option": (
        ("run", "--disk", "a.img,big"),
        "disk: 'a.img,big': 'big' is no option, but one of ro, cow, format, ",
    ),
    "disk of another format": (
        ("run", "--disk", "a.img,format=floppy"),
        "disk: 'a.img,format=floppy': format: 'floppy' is none that we know: raw",
    ),
    "disk twice": (
        ("run", "--disk", "a.img", "--disk", "a.img,cow"),
        "disk: 'a.img' is there twice, ",
    ),
    "serial": (
        ("run", "--serial", "tty"),
        "serial: 'tty' is not stdio, null, stdout, ",
    ),
    "serial file": (("run", "--serial", "file:"), "serial: 'file:' is not stdio, null"),
    "serial limit": (("run", "--serial-limit", "0"), "serial-limit: 0 is not above 0"),
    "serial rate": (("run", "--serial-rate", "x"), "serial-rate: 'x' is no size"),
    "result": (("run", "--result", "/nowhere/r"), "there is no directory '/nowhere'"),
    "result in /proc": (("run", "--result", "/proc/x"), "'/proc/x' can't be written"),
    "kernel from a pipe": (("run", "--kernel", f"/dev/fd/{PIPE[0]}"), "is a pipe, not"),
}


@pytest.mark.parametrize(("arguments", "problem"), USAGE.values(), ids=USAGE)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problem in error_of(2, capsys, *arguments)


# Images


def test_missing_kernel_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "none")
    error = error_of(2, capsys, "run", "--kernel", path)
    assert error == f"kernel '{path}': no such file or directory"


def test_missing_initrd_is_named(
    capsys: pytest.CaptureFixture[str], kernel: str
) -> None:
    error = error_of(2, capsys, "run", "--kernel", kernel, "--initrd", "none")
    assert error == "initrd 'none': no such file or directory"


def test_initrd_larger_than_memory_is_named(
    capsys: pytest.CaptureFixture[str], kernel: str, tmp_path: Path
) -> None:
    initrd = tmp_path / "initrd"
    initrd.touch()
    os.truncate(initrd, 200 * MIB)
    error = error_of(2, capsys, "run", "--kernel", kernel, "--initrd", str(initrd))
    assert error.startswith(f"initrd '{initrd}': its 200 MiB don't fit")
    assert "pass --memory 237M" in error


def test_too_little_memory_says_how_much(
    capsys: pytest.CaptureFixture[str], kernel: str
) -> None:
    error = error_of(2, capsys, "run", "--kernel", kernel, "--memory", "8M")
    assert "memory of 8M is too small: this kernel needs at least 36M" in error


def test_too_long_command_line_says_how_long_it_may_be(
    capsys: pytest.CaptureFixture[str], kernel: str
) -> None:
    error = error_of(2, capsys, "run", "--kernel", kernel, "--cmdline", "x" * 101)
    assert error.startswith("cmdline: 101 bytes are more than the 100")


# Places for output


@pytest.mark.usefixtures("willing_kvm")
class TestSerial:
    """What `--serial` can't open."""

    def refusal(
        self, capsys: pytest.CaptureFixture[str], kernel: str, where: str
    ) -> str:
        folder = Path(kernel).parent
        before = sorted(folder.iterdir())
        error = error_of(2, capsys, "run", "--kernel", kernel, "--serial", where)
        assert sorted(folder.iterdir()) == before
        return error

    def test_file_in_a_missing_directory(
        self, capsys: pytest.CaptureFixture[str], kernel: str
    ) -> None:
        path = f"{kernel}-none/log"
        error = self.refusal(capsys, kernel, f"file:{path}")
        assert error == f"serial: file '{path}': No such file or directory"

    def test_file_that_is_a_directory(
        self, capsys: pytest.CaptureFixture[str], kernel: str, tmp_path: Path
    ) -> None:
        error = self.refusal(capsys, kernel, f"file:{tmp_path}")
        assert error == f"serial: file '{tmp_path}': Is a directory"

    def test_fifo_that_nobody_reads(
        self, capsys: pytest.CaptureFixture[str], kernel: str, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "fifo")
        error = self.refusal(capsys, kernel, f"file:{tmp_path}/fifo")
        assert error.startswith(f"serial: file '{tmp_path}/fifo': ")

    def test_socket_where_there_is_a_file(
        self, capsys: pytest.CaptureFixture[str], kernel: str
    ) -> None:
        error = self.refusal(capsys, kernel, f"unix:{kernel}")
        assert error == f"serial: '{kernel}' exists and is not a socket"

    def test_socket_with_too_long_a_path(
        self, capsys: pytest.CaptureFixture[str], kernel: str, tmp_path: Path
    ) -> None:
        path = f"{tmp_path}/{'x' * 108}"
        error = self.refusal(capsys, kernel, f"unix:{path}")
        assert error == f"serial: unix socket '{path}': AF_UNIX path too long"

    def test_socket_in_a_missing_directory(
        self, capsys: pytest.CaptureFixture[str], kernel: str, tmp_path: Path
    ) -> None:
        error = self.refusal(capsys, kernel, f"unix:{tmp_path}/none/sock")
        assert error.endswith("/none/sock': No such file or directory")

    def test_socket_that_is_served(
        self, capsys: pytest.CaptureFixture[str], kernel: str, tmp_path: Path
    ) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{tmp_path}/sock")
            server.listen()
            error = self.refusal(capsys, kernel, f"unix:{tmp_path}/sock")
        assert error == f"serial: unix socket '{tmp_path}/sock' is served by another"


def test_result_tells_of_an_error_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    error_of(2, capsys, "run", "--kernel", "none", "--result", str(result))
    assert '"reason": "error"' in result.read_text()
    assert '"exit_code": 2' in result.read_text()


def test_error_is_told_though_the_result_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fifo = tmp_path / "result"
    os.mkfifo(fifo)
    assert main(["run", "--kernel", "none", "--result", str(fifo)]) == 2
    assert capsys.readouterr().err == (
        f"vmm: error: result: {str(fifo)!r}: nobody reads from it\n"
        "vmm: error: kernel 'none': no such file or directory\n"
    )


# Help


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    return capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of(capsys, "--version") == f"vmm {vmm.__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"run", "restore", "doctor"} <= set(help_of(capsys, "--help").split())


@pytest.mark.parametrize("command", OPTIONS_OF)
def test_help_has_every_option_in_its_group(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = help_of(capsys, command, "--help")
    assert max(map(len, text.splitlines())) <= 80
    for title, options in OPTIONS_OF[command].items():
        (section,) = re.findall(
            rf"^{title}:\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE
        )
        listed = re.findall(r"^  (--[a-z-]+)", section, re.MULTILINE)
        assert listed == [flag for flag, _ in options]


def test_every_option_is_a_field_or_the_commands_own() -> None:
    own = {"result", "profile", "quiet", "debug", "subcommand", "shell"}
    own |= {"save", "save_when"}
    options = vars(parser().parse_args(["run"]))
    assert options.keys() - own == KEYWORDS - {"console"}
    chosen = {name for name, value in options.items() if value is not None}
    assert chosen <= own  # or it would have a default of its own


def test_restore_takes_what_a_clone_may_change() -> None:
    own = {"result", "quiet", "debug", "subcommand", "save", "save_when", "snapshot"}
    own |= {"shell"}
    options = vars(parser().parse_args(["restore", "dir"]))
    assert options.keys() - own == FREE - {"console"}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("files: 'x': no such file", "add: 'x': no such file"),
        ("hang_s: 0 is no time", "hang: 0 is no time"),
        ("serial_rate: 'x' is no size", "serial-rate: 'x' is no size"),
        ("acpi: 256 devices", "no-acpi: 256 devices"),
        ("memory: files: x", "memory: files: x"),
        ("kernel 'files: x': no such file", "kernel 'files: x': no such file"),
        ("no field at all", "no field at all"),
    ],
)
def test_a_fields_name_becomes_its_options(message: str, shown: str) -> None:
    assert in_options(message) == shown


# As a process: the whole of stderr, whatever Python itself would add


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    result: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-m", "vmm", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )
    return result


def test_process_ends_with_2_and_one_line(tmp_path: Path) -> None:
    result = command("run", "--kernel", "none", "--serial", f"file:{tmp_path}/log")
    assert result.returncode == 2
    assert result.stderr == "vmm: error: kernel 'none': no such file or directory\n"
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_a_traceback_before_the_line() -> None:
    result = command("--debug", "run", "--kernel", "none")
    assert result.returncode == 2
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.splitlines()[-1].startswith("vmm: error: kernel 'none'")


@pytest.mark.parametrize("closed", [0, 1])
def test_closed_standard_stream_is_no_traceback(closed: int) -> None:
    result = command("run", "--kernel", "none", preexec_fn=lambda: os.close(closed))
    assert result.stderr == "vmm: error: kernel 'none': no such file or directory\n"


def test_terminal_of_another_session_is_no_traceback() -> None:
    ours, theirs = os.openpty()
    result = command("run", "--kernel", "none", stdin=theirs, start_new_session=True)
    os.close(ours)
    os.close(theirs)
    assert result.stderr == "vmm: error: kernel 'none': no such file or directory\n"
