"""What `vmm run` takes: its options, in groups.

An option that isn't given is None, so that the defaults are MachineConfig's. The
name under which it is kept (`dest`) is that of the field it is for.
"""

from types import SimpleNamespace
from typing import Any, Final

from ..config import (
    BOOT_PROTOCOLS,
    CONSOLE_DEVICES,
    DEFAULT_CMDLINE,
    POLICIES,
    QUIRKS,
    TRANSPORTS,
)
from ..console.config import PLAIN, SERIAL_POLICIES
from ..place import Place, parse_place


class Options(SimpleNamespace):
    """What was given, by `dest`; argparse fills it, or `plain.read`."""


def _serial(text: str) -> Place:
    if text == "capture":  # nobody could read it
        raise ValueError("capture is for programs: see vmm.Machine")
    return parse_place(text, PLAIN)


def _copy(text: str) -> Place:
    return parse_place(text, ())


def _port(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no port: 0x501, 1281") from None


def _named(text: str) -> str:
    _, equals, where = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=PLACE: log=file:guest.log")
    _serial(where)
    return text


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise ValueError(f"{text!r} is no mode: 660, 0600") from None


def _policy(flag: str, verb: str) -> "Option":
    return flag, {"choices": POLICIES, "help": f"when the guest {verb} (exit)"}


Option = tuple[str, dict[str, Any]]

RUN_OPTIONS: Final[dict[str, list[Option]]] = {
    "boot": [
        (
            "--kernel",
            {
                "metavar": "P",
                "help": "bzImage, ELF or multiboot (default: our tiny guest, on a PVM "
                "host the one that runs in ring 3)",
            },
        ),
        ("--initrd", {"metavar": "P", "help": "initramfs or initrd image"}),
        (
            "--cmdline",
            {"metavar": "S", "help": f"kernel command line ({DEFAULT_CMDLINE!r})"},
        ),
        ("--append", {"metavar": "S", "help": "add S to the command line"}),
        (
            "--boot-protocol",
            {
                "choices": BOOT_PROTOCOLS,
                "help": "how the kernel is entered; 'vmm doctor IMAGE' tells what it "
                "offers (auto)",
            },
        ),
        (
            "--module",
            {
                "metavar": "FILE",
                "dest": "modules",
                "action": "append",
                "help": "for PVH and multiboot, after the initrd; may be repeated; "
                "'FILE STRING' as one word: all of it is the string that the kernel "
                "reads",
            },
        ),
    ],
    "machine": [
        ("--memory", {"metavar": "SIZE", "help": "RAM: 512M, 2G (128M)"}),
        ("--cpus", {"metavar": "N", "type": int, "help": "virtual CPUs (1)"}),
        (
            "--no-acpi",
            {
                "dest": "acpi",
                "action": "store_false",
                "default": None,
                "help": "no ACPI tables, only the MP table; the guest can't power off",
            },
        ),
        (
            "--pci",
            {
                "action": "store_const",
                "const": True,
                "help": "a PCI bus, though nothing is in it but its host bridge",
            },
        ),
        (
            "--transport",
            {
                "choices": TRANSPORTS,
                "help": "how virtio devices come to the guest (auto: by PCI, or where "
                "its kernel says that it has none, by MMIO)",
            },
        ),
        (
            "--debugcon",
            {
                "metavar": "WHERE",
                "type": _serial,
                "help": "where port 0xe9 goes, QEMU's isa-debugcon: stdio, null, "
                "file:P or unix:P",
            },
        ),
        (
            "--disk",
            {
                "metavar": "PATH[,cow[=FILE]][,ro]...",
                "dest": "disks",
                "action": "append",
                "help": "a file or block device as vda, the next as vdb...; cow: what "
                "is written vanishes, or goes to FILE; ro: nothing is; also format=, "
                "serial=, cache=writethrough, rate=SIZE, burst=, iops=N, iops_burst=",
            },
        ),
        (
            "--boot-from-disk",
            {
                "action": "store_const",
                "const": True,
                "help": "boot the first disk's own kernel, as its GRUB or boot loader "
                "entries name it",
            },
        ),
        (
            "--seed",
            {
                "metavar": "USER-DATA[,META-DATA]",
                "help": "what cloud-init is told, on one more disk: a file that begins "
                "with #cloud-config, or a script",
            },
        ),
        (
            "--share",
            {
                "metavar": "DIR[:TAG][,ro]",
                "dest": "shares",
                "action": "append",
                "help": "a directory that the guest can mount: mount -t virtiofs TAG "
                "/mnt; TAG is DIR's name, or this one; takes virtiofsd",
            },
        ),
        (
            "--rng",
            {
                "action": "store_const",
                "const": True,
                "help": "the guest has /dev/hwrng: the host's random bytes, by virtio",
            },
        ),
        (
            "--balloon",
            {
                "metavar": "SIZE",
                "nargs": "?",
                "const": "0",
                "help": "a virtio balloon that takes SIZE of the guest's RAM (0), and "
                "what the guest reports as free",
            },
        ),
        (
            "--vsock",
            {
                "metavar": "PATH",
                "help": "the guest has AF_VSOCK: who connects to PATH says 'CONNECT "
                "port'; the guest's connections go to PATH_port; ',cid=N' behind it is "
                "the guest's address (3)",
            },
        ),
        (
            "--quirks",
            {
                "choices": QUIRKS,
                "help": "work-arounds for this kind of KVM; 'vmm doctor' tells (auto)",
            },
        ),
    ],
    "console": [
        (
            "--console",
            {
                "dest": "console_device",
                "choices": CONSOLE_DEVICES,
                "help": "what the console is on: ttyS0, or hvc0 of virtio (serial)",
            },
        ),
        (
            "--port",
            {
                "metavar": "NAME=WHERE",
                "dest": "ports",
                "type": _named,
                "action": "append",
                "help": "a line of bytes for a program in the guest, by virtio, which "
                "knows it by NAME; WHERE as for --serial; may be repeated",
            },
        ),
        (
            "--serial",
            {
                "metavar": "WHERE",
                "type": _serial,
                "help": "where the console goes: stdio, stdout (no input), null, "
                "file:P, or unix:P to listen on (stdio; with --capture null)",
            },
        ),
        (
            "--tee",
            {
                "metavar": "WHERE",
                "type": _copy,
                "action": "append",
                "help": "a copy of ttyS0's output, too: file:P or unix:P; may be "
                "repeated",
            },
        ),
        (
            "--socket-mode",
            {
                "metavar": "MODE",
                "type": _mode,
                "help": "of the files of unix:P, octal: who may connect (600)",
            },
        ),
        (
            "--serial-policy",
            {
                "choices": SERIAL_POLICIES,
                "help": "a slow reader holds the guest, or loses output (block)",
            },
        ),
        (
            "--serial-buffer",
            {"metavar": "SIZE", "help": "what a slow reader may be behind (1M)"},
        ),
        (
            "--serial-limit",
            {
                "metavar": "SIZE",
                "help": "drop console output after SIZE (1G where it goes to a file)",
            },
        ),
        (
            "--serial-rate",
            {"metavar": "SIZE", "help": "at most SIZE of console output a second"},
        ),
    ],
    "command": [
        (
            "--exec",
            {
                "metavar": "CMD",
                "dest": "command",
                "help": "run 'cmd args' in the guest in place of its init; its status "
                "is ours",
            },
        ),
        ("--script", {"metavar": "FILE", "help": "run this file of the host's"}),
        (
            "--add",
            {
                "metavar": "HOST[:GUEST]",
                "dest": "files",
                "action": "append",
                "help": "put a file or directory into the initramfs, in / or as GUEST",
            },
        ),
        (
            "--capture",
            {
                "action": "store_const",
                "const": "stdout",
                "help": "the command's output alone comes to stdout, by ttyS1",
            },
        ),
        (
            "--agent",
            {
                "action": "store_const",
                "const": True,
                "help": "have an agent in the guest, by which programs run commands: "
                "see machine.guest",
            },
        ),
        (
            "--shell",
            {
                "action": "store_const",
                "const": True,
                "help": "boot quietly and have a shell in the guest, by its agent; its "
                "status is ours",
            },
        ),
    ],
    "outcome": [
        (
            "--timeout",
            {"metavar": "S", "type": float, "help": "end with 124 after S seconds"},
        ),
        _policy("--on-reset", "resets"),
        _policy("--on-panic", "panics"),
        _policy("--on-crash", "crashes"),
        (
            "--hang",
            {
                "metavar": "S",
                "dest": "hang_s",
                "type": float,
                "help": "end with 35 after S seconds without console output or exits",
            },
        ),
        (
            "--debug-exit",
            {
                "metavar": "PORT",
                "type": _port,
                "nargs": "?",
                "const": 0x501,  # COMMAND_EXIT_PORT, which most runs don't import
                "help": "end when the guest writes to PORT (0x501): exit code and "
                "guest_status are then value << 1 | 1, as with QEMU's isa-debug-exit",
            },
        ),
        (
            "--symbols",
            {
                "metavar": "FILE",
                "help": "System.map or vmlinux that names addresses in a crash report",
            },
        ),
    ],
    "snapshot": [
        (
            "--save",
            {
                "metavar": "DIR",
                "help": "where Ctrl-A s on the terminal, or --save-when, saves the "
                "machine for 'vmm restore'; it runs on",
            },
        ),
        (
            "--save-when",
            {
                "metavar": "TEXT",
                "help": "save when ttyS0 has printed TEXT, taken literally",
            },
        ),
    ],
    "reports": [
        ("--result", {"metavar": "FILE", "help": "write how it ended to FILE as JSON"}),
        (
            "--profile",
            {
                "metavar": "FILE",
                "help": "write where the time went: a page to FILE.html, or to "
                "FILE.json a trace for ui.perfetto.dev; the run loop is the one in "
                "Python then, and slower",
            },
        ),
        ("--quiet", {"action": "store_true", "help": "no messages of ours but errors"}),
        (
            "--debug",
            {
                "action": "store_true",
                "help": "show a traceback for an error",
            },
        ),
    ],
}
# What no device of the machine is made of, and may be another one after a restore.
_RESTORABLE: Final = {
    *("--debugcon", "--port", "--serial", "--tee", "--socket-mode", "--serial-policy"),
    *("--serial-buffer", "--serial-limit", "--serial-rate", "--timeout", "--on-reset"),
    *("--on-panic", "--on-crash", "--hang", "--symbols", "--save", "--save-when"),
    *("--shell", "--vsock", "--result", "--quiet", "--debug"),
}
RESTORE_OPTIONS: Final = {
    title: kept
    for title, options in RUN_OPTIONS.items()
    if (kept := [option for option in options if option[0] in _RESTORABLE])
}
# And what they are made of, for who only wants to know.
_NO_DEVICE: Final = (_RESTORABLE | {"--capture", "--profile"}) - {
    "--debugcon",
    "--port",
    "--vsock",
}
MACHINE_OPTIONS: Final = {
    title: kept
    for title, options in RUN_OPTIONS.items()
    if (kept := [option for option in options if option[0] not in _NO_DEVICE])
}
OPTIONS_OF: Final = {"run": RUN_OPTIONS, "restore": RESTORE_OPTIONS}
EXCLUSIVE: Final = ("--exec", "--script")


def dest_of(flag: str, settings: dict[str, Any]) -> str:
    """The name under which an option is kept."""
    dest: str = settings.get("dest", flag.removeprefix("--").replace("-", "_"))
    return dest


def in_options(message: str) -> str:
    """A ConfigError's message, with the option's name in place of the field's."""
    field, colon, rest = message.partition(": ")
    for flag, settings in (item for group in RUN_OPTIONS.values() for item in group):
        if field == dest_of(flag, settings):
            return f"{flag.removeprefix('--')}{colon}{rest}"
    return message
