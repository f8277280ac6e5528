"""MachineConfig: what a user may choose, checked; errors name the field."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, get_args

from .boot.layout import GIB, MEMORY_MIN, MIB, PAGE_SIZE
from .devices.record import Record
from .errors import ConfigError
from .field_types import fitting
from .installation import ROOT, is_checkout, script
from .result import told_apart

DEFAULT_CMDLINE: Final = "console=ttyS0 reboot=k panic=-1"
MEMORY_MAX: Final = 1024 * GIB  # beyond this it is a typing error
CPUS_MAX: Final = 254  # APIC ids that xAPIC has, and one for the IOAPIC

# Where scripts/build-guest puts its results, when we run from a checkout.
BUILD_DIR: Final = os.path.join(ROOT, "guest", "build")

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE: Final = re.compile(r"(\d{1,20})([KMG]?)(?:i?B)?", re.IGNORECASE | re.ASCII)

StrPath = str | os.PathLike[str]

WhichQuirks = Literal["auto", "none", "pvm"]
QUIRKS: Final = get_args(WhichQuirks)
Policy = Literal["exit", "restart", "pause"]
POLICIES: Final = get_args(Policy)

BootProtocol = Literal["auto", "linux64", "linux32", "pvh", "multiboot"]
BOOT_PROTOCOLS: Final = get_args(BootProtocol)


class MachineConfig(Record):
    """One machine. Raises ConfigError where a value can't be.

    `kernel` None means the tiny guest of `scripts/build-guest`, on a PVM host the one
    that runs in ring 3; `cmdline` None the default one, to which `append` adds either
    way. `boot_protocol` is how the kernel is entered; "auto": as the image says.
    `modules` are more files for one that is booted by PVH or multiboot, after the
    initrd, which is the first: "PATH" or "PATH STRING", the whole of which the kernel
    reads. `memory` is in bytes, or a string such as "512M". `timeout` is in seconds
    from start; None: no limit.
    `on_reset`, `on_panic` and `on_crash` say what happens then: the run ends, the
    guest boots again, or its vCPUs stop and wait, to be looked at. With `hang_s`, a
    guest that for so many seconds neither prints nor makes an exit ends the run.
    `acpi` gives the guest ACPI tables, by which it finds devices, and powers off; there
    is an MP table either way.
    `symbols`, a System.map or an ELF file, names addresses in a crash report; one
    that belongs to the kernel is found beside it.
    `debug_exit` is a port by which the guest ends the run with reason `exited`: a
    value that is written there gives `guest_status` and `exit_code` value << 1 | 1,
    1..255, as QEMU's isa-debug-exit.
    `debugcon` is where what the guest writes to port 0xE9 goes, as QEMU's isa-debugcon:
    "capture" (for `machine.debugcon`), or as for `serial`, but without input; what
    isn't taken in time is dropped. None: nobody is at that port.
    `quirks` are work-arounds for the host's kind of KVM: "auto" finds it out.
    `serial` is where ttyS0 goes: "capture" (for `console.expect`), "stdio", "stdout",
    "null", "file:PATH", or "unix:PATH", on which we listen. `tee` names more files
    and sockets, each of which gets a copy of the output. `socket_mode` is that of all
    our sockets' files, 0..0o777: who may connect has the console. A reader who is too
    slow, by more than `serial_buffer` bytes, holds the guest ("block") or loses
    output ("drop"); `serial_rate` is in bytes per second, and what comes after
    `serial_limit` bytes is dropped (None: 1 GiB where the output is a file, else no
    limit).

    `command` is run in the guest in place of its init: words, or a line that is split
    as a shell does, but not expanded; or a file of the host, `script`. `initrd` None is
    then busybox's of `scripts/build-guest`; where that isn't built and a `command` is
    given, the guest has the `files` alone. They are put into the initramfs: a
    mapping of absolute guest paths to host paths, or "HOST[:GUEST]" strings, or (HOST,
    GUEST) pairs; directories with all that is in them. `capture` is where the output
    of the command goes by ttyS1: "capture" (the result's `output`), or as for `serial`,
    but without input; "stdout" is ours. None: to the console.
    """

    kernel: StrPath | None = None
    initrd: StrPath | None = None
    cmdline: str | None = None
    append: str = ""
    boot_protocol: BootProtocol = "auto"
    modules: str | Sequence[str] = ()
    memory: int | str = "128M"
    cpus: int = 1
    timeout: float | None = None
    on_reset: Policy = "exit"
    on_panic: Policy = "exit"
    on_crash: Policy = "exit"
    hang_s: float | None = None
    symbols: StrPath | None = None
    debug_exit: int | None = None
    debugcon: str | None = None
    quirks: WhichQuirks = "auto"
    serial: str = "capture"
    tee: str | Sequence[str] = ()
    socket_mode: int = 0o600
    serial_buffer: int | str = "1M"
    serial_policy: Literal["block", "drop"] = "block"
    serial_limit: int | str | None = None
    serial_rate: int | str | None = None
    command: str | Sequence[str] | None = None
    script: StrPath | None = None
    files: Mapping[str, StrPath] | Iterable[StrPath | tuple[StrPath, str]] = ()
    capture: str | None = None
    acpi: bool = True

    def __post_init__(self) -> None:
        self._check_types()
        object.__setattr__(self, "memory", parse_memory(self.memory))
        for field in ("serial_buffer", "serial_limit", "serial_rate"):
            value = getattr(self, field)
            if isinstance(value, str):
                value = parse_size(field, value)
                object.__setattr__(self, field, value)
            if value is not None and value < 1:
                raise ConfigError(f"{field}: {value} is not above 0")
        if not 1 <= self.cpus <= CPUS_MAX:
            raise ConfigError(f"cpus: {self.cpus} is not within 1..{CPUS_MAX}")
        self._check_times()
        self._check_debug_exit()
        if not 0 <= self.socket_mode <= 0o777:
            raise ConfigError(
                f"socket_mode: {self.socket_mode:#o} is not within 0..0o777"
            )
        self._check_modules()
        _check_output("serial", self.serial, "stdio")
        object.__setattr__(self, "tee", _checked_tee(self.tee, self.serial))
        self._check_debugcon()
        if self.runs_command or self.files or self.capture is not None:
            self._check_command()

    def _check_types(self) -> None:
        """Raises ConfigError for what isn't as its field is annotated."""
        for field, kind in MachineConfig.__annotations__.items():
            value = getattr(self, field)
            if value is not self._defaults[field]:
                object.__setattr__(self, field, fitting(field, value, kind))

    def _check_command(self) -> None:
        from .guest.command import check_command  # most runs have none

        if self.capture is not None:
            _check_output("capture", self.capture, "stdout")
        command, files = check_command(self)
        object.__setattr__(self, "command", command)
        object.__setattr__(self, "files", files)

    def _check_debug_exit(self) -> None:
        port = self.debug_exit
        if port is None:
            return
        if not 0 <= port <= 0xFFFC:
            raise ConfigError(f"debug_exit: port {port:#x} is not within 0..0xfffc")
        if self.runs_command:
            from .devices.pc.command_exit import COMMAND_EXIT_PORT

            if port == COMMAND_EXIT_PORT:
                raise ConfigError(
                    f"debug_exit: a command's status comes through port {port:#x}: "
                    "choose another, 0xf4"
                )

    def _check_debugcon(self) -> None:
        where = self.debugcon
        if where is None:
            return
        _check_output("debugcon", where, "stdio")
        if self.capture == "stdout" and where in ("stdio", "stdout"):
            raise ConfigError(
                "debugcon: with --capture, stdout has the command's output: pass null, "
                "file:PATH or unix:PATH"
            )
        path = path_of(where)
        others = (self.serial, *self.tee, self.capture or "")
        if path is not None and path in map(path_of, others):
            raise ConfigError(f"debugcon: other output goes to {where!r}, too")

    @property
    def runs_command(self) -> bool:
        """Whether the guest is to run a command, whose status it then tells."""
        return self.command is not None or self.script is not None

    def own_exit_code(self, code: int) -> int:
        """`code`, which stands for an end of ours, told apart from a guest's status."""
        return told_apart(
            code, command=self.runs_command, debug_exit=self.debug_exit is not None
        )

    def _check_times(self) -> None:
        for field in ("timeout", "hang_s"):
            value = getattr(self, field)
            if value is not None and not 0 < value < 1e9:
                raise ConfigError(f"{field}: {value} is no time in seconds")

    def _check_modules(self) -> None:
        modules = self.modules
        modules = (modules,) if isinstance(modules, str) else tuple(modules)
        for module in modules:
            if not module.split(" ", 1)[0]:
                raise ConfigError(f"modules: {module!r} is not FILE or 'FILE STRING'")
        object.__setattr__(self, "modules", modules)

    @property
    def memory_size(self) -> int:
        """`memory` in bytes."""
        assert isinstance(self.memory, int)
        return self.memory

    @property
    def full_cmdline(self) -> str:
        """The kernel's command line, with `append` added."""
        base = DEFAULT_CMDLINE if self.cmdline is None else self.cmdline
        words = f"{base} {self.append}".strip()
        if not self.runs_command:
            return words
        from .guest.command import command_parameters

        return f"{command_parameters(self, words)} {words}"

    def images(self) -> tuple[StrPath, StrPath | None]:
        """Kernel and initrd. Raises ConfigError if the one to be used isn't built."""
        if self.kernel is not None and (
            self.initrd is not None or not self.runs_command
        ):
            return self.kernel, self.initrd
        kernel = self.kernel or self._default_kernel()
        guest = "busybox" if self.runs_command else "tiny"
        initrd = self.initrd or os.path.join(BUILD_DIR, f"initramfs-{guest}.cpio")
        if self.initrd is None and not os.path.exists(initrd):
            if self.command is not None:  # one of the files, maybe
                return kernel, None
            raise _not_built("initrd", "--initrd", guest)
        return kernel, initrd

    def _default_kernel(self) -> str:
        from .host.report import default_kernel  # most programs name a kernel

        guest = default_kernel()
        kernel = os.path.join(BUILD_DIR, f"vmlinux-{guest}")
        if not os.path.exists(kernel):
            raise _not_built("kernel", "--kernel", guest)
        return kernel


def _check_output(field: str, where: str, standard: str) -> None:
    kind, _, path = where.partition(":")
    plain = where in ("capture", standard, "stdout", "null")
    if not plain and not (kind in ("file", "unix") and path):
        raise ConfigError(
            f"{field}: {where!r} is not {standard}, null, file:PATH or unix:PATH"
        )


def path_of(where: str) -> str | None:
    """The path in file:PATH and unix:PATH, the same for all names of one file."""
    kind, _, path = where.partition(":")
    return os.path.realpath(path) if kind in ("file", "unix") else None


def _not_built(field: str, option: str, guest: str) -> ConfigError:
    if not is_checkout():
        return ConfigError(
            f"{field}: none was given, and an installed minivmm has no guests of its "
            f"own: pass {option}"
        )
    return ConfigError(
        f"{field}: none was given and the {guest} guest isn't built: pass {option}, "
        f"or run {script(f'build-guest {guest}')}"
    )


def _checked_tee(tee: str | Sequence[str], serial: str) -> tuple[str, ...]:
    places = (tee,) if isinstance(tee, str) else tuple(tee)
    for where in places:
        kind, _, path = where.partition(":")
        if kind not in ("file", "unix") or not path:
            raise ConfigError(f"tee: {where!r} is not file:PATH or unix:PATH")
        if [path_of(place) for place in (serial, *places)].count(path_of(where)) > 1:
            raise ConfigError(f"tee: {where!r} is given twice")
    return places


def parse_memory(value: int | str) -> int:
    """Bytes of RAM from 536870912, "512M" or "2G". Raises ConfigError."""
    size = value if isinstance(value, int) else parse_size("memory", value)
    if size < MEMORY_MIN:
        bare = str(value).strip().isdecimal()  # no unit, which one then forgets
        hint = f"; did you mean {size}M?" if bare and 0 < size < MIB else ""
        raise ConfigError(f"memory: {value} is less than {MEMORY_MIN // MIB}M{hint}")
    if size > MEMORY_MAX:
        raise ConfigError(f"memory: {value} is more than {MEMORY_MAX // GIB}G")
    if size % PAGE_SIZE:
        raise ConfigError(f"memory: {value} is not a multiple of {PAGE_SIZE} bytes")
    return size


def parse_size(field: str, text: str) -> int:
    """Bytes from a number with K, M or G, powers of 1024. Raises ConfigError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{field}: {text!r} is no size: write 512M, 2G or 1048576K")
    return int(match[1]) * _UNITS[match[2].upper()]
