"""MachineConfig: what a user may choose, checked; errors name the field.

It has parts, each of which is written down where it is used, and goes there alone:
`vmm.console.config`, `vmm.guest.config`. One more is a Checked in its room, a field
here (several of a kind: a tuple, by `setting`), and a line in `vmm.settings`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, get_args

from .boot.layout import GIB, MEMORY_MIN, MIB, PAGE_SIZE
from .console.config import ConsoleConfig, serial_place
from .devices.record import field
from .errors import ConfigError
from .field_types import (
    BootProtocol,
    Checked,
    ConsoleDevice,
    Policy,
    StrPath,
    WhichQuirks,
    WhichTransport,
    parse_size,
    seconds,
    setting,
)
from .installation import ROOT, is_checkout, script
from .place import Place, check_apart
from .result import told_apart

if TYPE_CHECKING:  # for type checkers alone, or a run without a command
    from typing import Unpack

    from .disk.config import DiskConfig
    from .guest.config import CommandConfig
    from .net.config import NetConfig
    from .settings import MachineSettings
    from .share.config import ShareConfig
    from .vsock.config import VsockConfig

DEFAULT_CMDLINE: Final = "console=ttyS0 reboot=k panic=-1"
# hvc0 is there once its driver is; until then ttyS0 shows what is printed.
HVC_CMDLINE: Final = "console=hvc0 earlycon=uart8250,io,0x3f8 reboot=k panic=-1"
MEMORY_MAX: Final = 1024 * GIB  # beyond this it is a typing error
CPUS_MAX: Final = 254  # APIC ids that xAPIC has, and one for the IOAPIC
PORT_MAX: Final = 0xFFFC  # of a debug exit, which has four
PORTS_MAX: Final = 31  # names of ports: what one virtio console has
SEED_MAX: Final = 2  # user-data and meta-data
PORT_NAME_MAX: Final = 128  # bytes
NO_INIT: Final = "-"  # the agent is all there is: our own guests' init resets

# Where scripts/build-guest puts its results, when we run from a checkout.
BUILD_DIR: Final = os.path.join(ROOT, "guest", "build")

QUIRKS: Final = get_args(WhichQuirks)
TRANSPORTS: Final = get_args(WhichTransport)
POLICIES: Final = get_args(Policy)
BOOT_PROTOCOLS: Final = get_args(BootProtocol)
CONSOLE_DEVICES: Final = get_args(ConsoleDevice)

# CommandConfig's defaults: most runs have no command, and don't import it.
_COMMAND: Final[dict[str, object]] = {
    "command": None,
    "script": None,
    "files": (),
    "capture": None,
}
_RUN: Final = ("command", "script")  # either


def _memory(_: str, value: int | str) -> int:
    return parse_memory(value)


def _cpus(field: str, value: int) -> int:
    if not 1 <= value <= CPUS_MAX:
        raise ConfigError(f"{field}: {value} is not within 1..{CPUS_MAX}")
    return value


def _port(field: str, port: int) -> int:
    if not 0 <= port <= PORT_MAX:
        raise ConfigError(f"{field}: port {port:#x} is not within 0..{PORT_MAX:#x}")
    return port


_Ports = Mapping[str, str | Place] | Iterable[str | tuple[str, str | Place]]


def _ports(field: str, ports: _Ports) -> tuple[tuple[str, Place], ...]:
    if isinstance(ports, Mapping):
        ports = ports.items()
    named: dict[str, Place] = {}
    for port in ports:
        name, where = _named(field, port) if isinstance(port, str) else port
        is_text = name.isprintable() and "/" not in name  # what isn't may have no bytes
        if not is_text or not 0 < len(name.encode()) <= PORT_NAME_MAX:
            raise ConfigError(
                f"{field}: {name!r} is no name: 1..{PORT_NAME_MAX} bytes of printable "
                "text without a /"
            )
        if name in named:
            raise ConfigError(f"{field}: {name!r} is there twice")
        named[name] = serial_place(field, where)
    if len(named) > PORTS_MAX:
        raise ConfigError(f"{field}: {len(named)} are more than {PORTS_MAX}")
    return tuple(named.items())


def _named(field: str, port: str) -> tuple[str, str]:
    name, equals, where = port.partition("=")
    if not equals:
        raise ConfigError(f"{field}: {port!r} is not NAME=PLACE")
    return name, where


def _balloon(field: str, size: int | str) -> int:
    bytes_ = parse_size(field, size) if isinstance(size, str) else size
    if bytes_ < 0:
        raise ConfigError(f"{field}: {bytes_} is less than 0")
    return bytes_


def _disks(field: str, given: object) -> "tuple[DiskConfig, ...]":
    from .disk.config import disks  # most runs have none

    return disks(field, given)


def _seed(field: str, paths: StrPath | Sequence[StrPath]) -> tuple[str, ...]:
    if isinstance(paths, str):
        paths = paths.split(",")
    elif isinstance(paths, os.PathLike):
        paths = (paths,)
    found = tuple(os.fspath(path) for path in paths)
    if len(found) > SEED_MAX or not all(found):
        raise ConfigError(f"{field}: {','.join(found)!r} is not USER-DATA[,META-DATA]")
    return found


def _shares(
    field: str, given: StrPath | Checked | Sequence[StrPath | Checked]
) -> "tuple[ShareConfig, ...]":
    from .share.config import shares  # most runs have none

    return shares(field, given)


def _vsock(field: str, given: object) -> "VsockConfig | None":
    from .vsock.config import vsock  # most runs have none

    return vsock(field, given)


def _nets(field: str, given: object) -> "tuple[NetConfig, ...]":
    from .net.config import nets  # most runs have none

    return nets(field, given)


def _modules(field: str, modules: str | Sequence[str]) -> tuple[str, ...]:
    several = (modules,) if isinstance(modules, str) else tuple(modules)
    for module in several:
        if not module.split(" ", 1)[0]:
            raise ConfigError(f"{field}: {module!r} is not FILE or 'FILE STRING'")
    return several


def _debugcon(field: str, where: str | Place) -> Place:
    found = serial_place(field, where)
    return Place("stdout") if found.kind == "stdio" else found  # it has no input


class MachineConfig(Checked):
    """One machine. Raises ConfigError where a value can't be.

    The fields of its parts may be given here as well: `MachineConfig(serial="null")` is
    `MachineConfig(console=ConsoleConfig(serial="null"))`, and `command="ls"` with
    `files`, `script` and `capture` a CommandConfig. They are kept in the part;
    `replace` takes them, too, `dataclasses.replace` the parts alone.
    """

    kernel: StrPath | None = None
    """bzImage, ELF or multiboot. None: the tiny guest of `scripts/build-guest`, on a
    PVM host the one that runs in ring 3."""
    initrd: StrPath | None = None
    """initramfs or initrd image. None: the tiny guest's, where the kernel is; with a
    command or an agent busybox's of `scripts/build-guest`, without its init, or, where
    that isn't built, its files alone."""
    cmdline: str | None = None
    """The kernel's command line. None: "console=ttyS0 reboot=k panic=-1", or hvc0's."""
    append: str = ""
    """More words for it, given or not."""
    boot_protocol: BootProtocol = "auto"
    """How the kernel is entered. "auto": as the image says."""
    modules: tuple[str, ...] = setting((), str | Sequence[str], _modules)
    """More files for a kernel that is booted by PVH or multiboot, after the initrd,
    which is the first: "PATH" or "PATH STRING", the whole of which it reads."""
    memory: int = setting(128 * MIB, int | str, _memory)
    """RAM in bytes, or "512M"."""
    cpus: int = setting(1, int, _cpus)
    """Virtual CPUs, 1..254."""
    timeout: float | None = setting(None, float | None, seconds)
    """Seconds from the start until the run ends. None: no limit."""
    on_reset: Policy = "exit"
    """What a reset of the guest's does: end the run, boot again ("restart"), or have
    its vCPUs stop and wait, to be looked at ("pause")."""
    on_panic: Policy = "exit"
    """Likewise, of a panic of its kernel."""
    on_crash: Policy = "exit"
    """Likewise, of a crash: a state in which its CPU can't go on."""
    hang_s: float | None = setting(None, float | None, seconds)
    """A guest that for so many seconds neither prints nor makes an exit ends the
    run. None: it may."""
    symbols: StrPath | None = None
    """System.map or ELF file that names addresses in a crash report. None: one that
    belongs to the kernel, where it is found beside it."""
    debug_exit: int | None = setting(None, int | None, _port)
    """A port by which the guest ends the run with reason `exited`: a value that is
    written there gives `guest_status` and `exit_code` value << 1 | 1, 1..255, as
    QEMU's isa-debug-exit. None: there is none."""
    debugcon: Place | None = setting(None, str | Place | None, _debugcon)
    """Where what the guest writes to port 0xE9 goes, as QEMU's isa-debugcon: "capture"
    (for `machine.debugcon`), or as for `serial`, but without input; what isn't taken in
    time is dropped. None: nobody is at that port."""
    quirks: WhichQuirks = "auto"
    """Work-arounds for the host's kind of KVM. "auto": those that it needs."""
    agent: bool = False
    """Have an agent in the guest, by which `machine.guest` runs commands: it is put
    into the initramfs, is started before the guest's init, and speaks by ttyS1."""
    console_device: ConsoleDevice = "serial"
    """What the console is on: ttyS0 ("serial"), or hvc0, virtio's, with what ttyS0
    prints before that is there ("virtio"). It chooses the default command line, too."""
    ports: tuple[tuple[str, Place], ...] = setting((), _Ports, _ports)
    """Lines of bytes for programs: a mapping of names to places as for `serial`, or
    "NAME=PLACE" texts. The guest finds them by virtio, as /dev/virtio-ports/NAME where
    it has udev, and by /sys/class/virtio-ports/*/name; `machine.port(NAME)` has the
    other end."""
    disks: "tuple[DiskConfig, ...]" = setting(
        (), StrPath | Checked | Sequence[StrPath | Checked], _disks
    )
    """vda, vdb and so on, by virtio: DiskConfigs, or what DiskConfig says of texts,
    "PATH,cow", as which they are kept; see `machine.disks`."""
    boot_from_disk: bool = False
    """Boot the kernel, with the initrd and the command line, that GRUB or a boot loader
    entry names in the first disk's image, as a cloud image has them; `cmdline` takes
    the place of that line. They are what the image has at the start, at later boots,
    too."""
    seed: tuple[str, ...] = setting((), StrPath | Sequence[StrPath], _seed)
    """What cloud-init in such an image is told, on one more disk, after all others: a
    file of user-data, or "USER-DATA,META-DATA"."""
    shares: "tuple[ShareConfig, ...]" = setting(
        (), StrPath | Checked | Sequence[StrPath | Checked], _shares
    )
    """Directories that the guest can mount, as virtiofs: ShareConfigs, or texts,
    "DIR:TAG,ro"; they take virtiofsd, with which RAM is shared: no snapshots."""
    nets: "tuple[NetConfig, ...]" = setting((), object, _nets)
    """Network cards, eth0 and so on, by virtio: Networks, NetConfigs, or what NetConfig
    says of texts, as which they are kept; see `machine.nets`."""
    rng: bool = False
    """Give the guest the host's random bytes, by virtio: its /dev/hwrng."""
    balloon: int | None = setting(None, int | str | None, _balloon)
    """Give the guest a virtio balloon that takes so many bytes of its RAM, or "64M",
    and what it reports as free, for the host: see `machine.balloon`. None: there is
    none."""
    vsock: "VsockConfig | None" = setting(None, bool | StrPath | Checked | None, _vsock)
    """The guest's sockets of AF_VSOCK, which `machine.vsock` connects to and accepts: a
    VsockConfig, or what it says of a text, "PATH"; True: for this program alone."""
    acpi: bool = True
    """Give the guest ACPI tables, by which it finds devices, and powers off; there is
    an MP table either way."""
    pci: bool | None = None
    """Whether there is a PCI bus. None: as soon as a PCI device is plugged in."""
    transport: WhichTransport = "auto"
    """How virtio devices come to the guest. "auto": by PCI, or where its kernel says
    that it has none, by MMIO."""
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    """ttyS0's host side: a ConsoleConfig, or its fields here."""
    command: "CommandConfig | None" = setting(
        None, Checked | None, lambda _, command: command
    )
    """What is run in the guest, and added to it: a CommandConfig, or its fields here.
    None: the guest's own init, and nothing."""

    def __init__(self, **settings: "Unpack[MachineSettings]") -> None:
        values: dict[str, Any] = dict(settings)
        flat = {name: values.pop(name) for name in _CONSOLE if name in values}
        if flat and "console" in values:
            raise _twice(min(flat), "console", "ConsoleConfig")
        if flat:
            values["console"] = ConsoleConfig(**flat)
        values["command"] = _command_part(
            {name: values.pop(name, default) for name, default in _COMMAND.items()}
        )
        super().__init__(**values)

    def __post_init__(self) -> None:
        if self.agent and self.runs_command:
            raise ConfigError(
                "agent: it excludes command, script and capture: run the command by "
                "machine.guest, or leave the agent out"
            )
        if self.balloon is not None and self.balloon > self.memory:
            raise ConfigError(
                f"balloon: {self.balloon} bytes are more than memory has, {self.memory}"
            )
        if self.boot_from_disk:
            self._check_boot_from_disk()
        if self.transport == "pci" and self.pci is False:
            raise ConfigError("transport: it is pci, and pci=False has no bus for it")
        if self.debug_exit is not None and self.runs_command:
            self._check_debug_exit(self.debug_exit)
        self._check_places()

    def _check_boot_from_disk(self) -> None:
        if not self.disks:
            raise ConfigError("boot_from_disk: there is no disk: pass one by disks")
        for name in ("kernel", "initrd", "agent"):
            if getattr(self, name):
                raise ConfigError(
                    f"{name}: it excludes boot_from_disk, by which the disk's own "
                    "kernel and init are booted"
                )
        if self.runs_command:
            raise ConfigError(
                "command: it excludes boot_from_disk, by which the disk's own init is "
                "booted"
            )

    @staticmethod
    def _check_debug_exit(port: int) -> None:
        from .devices.pc.command_exit import COMMAND_EXIT_PORT

        if port == COMMAND_EXIT_PORT:
            raise ConfigError(
                f"debug_exit: a command's status comes through port {port:#x}: "
                "choose another, 0xf4"
            )

    def _check_places(self) -> None:
        """Raises ConfigError where two outputs would be mixed."""
        places = self.places()
        check_apart(places)
        if dict(places).get("capture") == Place("stdout"):
            for name, where in places:
                if where.is_standard and name != "capture":
                    raise ConfigError(
                        f"{name}: with capture, stdout has the command's output: "
                        "choose null, file:PATH or unix:PATH"
                    )

    def places(self) -> list[tuple[str, Place]]:
        """All places where output goes, with the names of their fields."""
        found = self.console.places()
        if self.command is not None and self.command.capture is not None:
            found.append(("capture", self.command.capture))
        if self.debugcon is not None:
            found.append(("debugcon", self.debugcon))
        found += [("ports", where) for _, where in self.ports]
        return found

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401, fitting refuses
        """Another one, with other values for some fields: see `merged`."""
        return type(self)(**merged(self.to_dict(), changes))

    @classmethod
    def parameters(cls) -> dict[str, tuple[object, ...]]:
        """What each keyword takes, those for the fields of parts, too."""
        from .disk.config import DiskConfig
        from .guest.config import CommandConfig
        from .net.config import NetConfig
        from .net.network import Network
        from .share.config import ShareConfig
        from .vsock.config import VsockConfig

        flat = ConsoleConfig.parameters() | CommandConfig.parameters()
        disks = StrPath | DiskConfig | Sequence[StrPath | DiskConfig]
        shares = StrPath | ShareConfig | Sequence[StrPath | ShareConfig]
        nets = str | NetConfig | Network | Sequence[str | NetConfig | Network]
        parts: dict[str, tuple[object, ...]] = {
            "command": (CommandConfig | flat["command"][0], None),
            "disks": (disks, ()),
            "shares": (shares, ()),
            "nets": (nets, ()),
            "vsock": (bool | StrPath | VsockConfig | None, None),
        }
        return super().parameters() | flat | parts

    @property
    def runs_command(self) -> bool:
        """Whether the guest is to run a command, whose status it then tells."""
        return self.command is not None and self.command.runs

    def own_exit_code(self, code: int) -> int:
        """`code`, which stands for an end of ours, told apart from a guest's status."""
        return told_apart(
            code, command=self.runs_command, debug_exit=self.debug_exit is not None
        )

    @property
    def full_cmdline(self) -> str:
        """The kernel's command line, with `append` added."""
        default = DEFAULT_CMDLINE if self.console_device == "serial" else HVC_CMDLINE
        base = default if self.cmdline is None else self.cmdline
        words = f"{base} {self.append}".strip()
        if self.agent:
            from .agent.image import agent_cmdline

            return agent_cmdline(words, None if self.initrd is not None else NO_INIT)
        if self.command is None or not self.command.runs:
            return words
        from .guest.command import command_parameters

        return f"{command_parameters(self.command, words)} {words}"

    def images(self) -> tuple[StrPath, StrPath | None]:
        """Kernel and initrd, or the disk that has them.

        Raises ConfigError if the one to be used isn't built.
        """
        if self.boot_from_disk:
            return self.disks[0].path, None
        acts = self.runs_command or self.agent
        if self.kernel is not None and (self.initrd is not None or not acts):
            return self.kernel, self.initrd
        kernel = self.kernel or self._default_kernel()
        guest = "busybox" if acts else "tiny"
        initrd = self.initrd or os.path.join(BUILD_DIR, f"initramfs-{guest}.cpio")
        if self.initrd is None and not os.path.exists(initrd):
            if self.agent or (
                self.command is not None and self.command.command is not None
            ):
                return kernel, None  # what is run is one of the files, maybe
            raise _not_built("initrd", guest)
        return kernel, initrd

    def _default_kernel(self) -> str:
        from .host.report import default_kernel  # most programs name a kernel

        guest = default_kernel()
        kernel = os.path.join(BUILD_DIR, f"vmlinux-{guest}")
        if not os.path.exists(kernel):
            raise _not_built("kernel", guest)
        return kernel


_CONSOLE: Final = ConsoleConfig.field_names
KEYWORDS: Final = frozenset((*MachineConfig.field_names, *_CONSOLE, *_COMMAND))
"""What MachineConfig can be given."""


def _command_part(given: dict[str, Any]) -> "CommandConfig | None":
    """What these keywords, all of a CommandConfig's, amount to."""
    chosen = {n: value for n, value in given.items() if value is not _COMMAND[n]}
    if not chosen:
        return None
    from .guest.config import CommandConfig

    part = chosen.pop("command", None)
    if not isinstance(part, CommandConfig):
        part = CommandConfig(command=part, **chosen)
    elif chosen:
        raise _twice(min(chosen), "command", "CommandConfig")
    return part if part.runs or part.files else None


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a MachineConfig, with those of `changes` in place of others.

    A part takes the place of all its fields, and a field its own in a part. A command
    takes a script's place and a script a command's; where neither is left, there is
    nothing to capture.
    """
    values = dict(settings)
    for part, fields in (("console", _CONSOLE), ("command", tuple(_COMMAND))):
        if isinstance(changes.get(part), Checked):
            values = _without(values, fields)
        elif not changes.keys().isdisjoint(fields):
            whole = values.get(part)
            if isinstance(whole, Checked):
                del values[part]
                kept = {n: v for n, v in whole.to_dict().items() if v is not None}
                values = kept | values
    if "command" in changes:  # None: nothing is run
        values = _without(values, ("script",))
    elif changes.get("script") is not None:
        values = _without(values, ("command",))
    if not changes.keys().isdisjoint(_RUN):
        told = {**values, **changes}
        if all(told.get(name) is None for name in _RUN):
            values = _without(values, ("capture",))
    return {**values, **changes}


def _without(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: values[name] for name in values.keys() - names}


def _twice(name: str, part: str, kind: str) -> ConfigError:
    return ConfigError(
        f"{name}: it is given beside {part}=, of which it is a field: say it there, "
        f"{kind}({name}=...)"
    )


def _not_built(field: str, guest: str) -> ConfigError:
    if not is_checkout():
        return ConfigError(
            f"{field}: none was given, and an installed minivmm has no guests of its "
            f"own: pass --{field}"
        )
    return ConfigError(
        f"{field}: none was given and the {guest} guest isn't built: pass --{field}, "
        f"or run {script(f'build-guest {guest}')}"
    )


def parse_memory(value: int | str) -> int:
    """Bytes of RAM from 536870912, "512M" or "2G". Raises ConfigError."""
    size = value if isinstance(value, int) else parse_size("memory", value)
    if size < MEMORY_MIN:
        bare = str(value).strip().isdecimal()  # the unit was forgotten, maybe
        likely = bare and MEMORY_MIN // MIB <= size < MIB
        hint = f"; did you mean {size}M?" if likely else ""
        raise ConfigError(f"memory: {value} is less than {MEMORY_MIN // MIB}M{hint}")
    if size > MEMORY_MAX:
        raise ConfigError(f"memory: {value} is more than {MEMORY_MAX // GIB}G")
    if size % PAGE_SIZE:
        raise ConfigError(f"memory: {value} is not a multiple of {PAGE_SIZE} bytes")
    return size
