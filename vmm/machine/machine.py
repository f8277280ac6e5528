"""Machine: one virtual machine, from its configuration to its result."""

import atexit
import os
from _weakref import ref  # weakref imports a lot more
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from ..boot.layout import device_addresses
from ..config import MachineConfig
from ..console.console import Console
from ..devices.bus.io_manager import IoManager
from ..devices.bus.resource_manager import PoolLayout, ResourceManager
from ..devices.device_io import DeviceIo
from ..devices.errors import DeviceError
from ..devices.pc.cmos_setup import cmos_setup
from ..devices.pc.keyboard import Ps2Keyboard
from ..errors import ConfigError, VmmError
from ..event_loop import EventLoop
from ..kvm._libc import install_kick_handler
from ..kvm.kvm import Kvm
from ..memory import GuestMemory
from ..result import ExitReason, RunResult
from ..vcpu.control import End, RunControl, failure
from ..vcpu.entry import TICK_NS
from ..watch.panic import PanicWatch, when_silent
from .builder import asked_symbols, chosen_quirks, open_boot
from .device_manager import DeviceManager
from .legacy_devices import Board, acpi_pm
from .lifecycle import Life, Outside
from .vm_instance import Parts, survey

if TYPE_CHECKING:  # most runs don't import them
    from ..debug.paused_guest import PausedGuest
    from ..devices.guest_ram import GuestRam
    from ..guest.ports import CommandPort
    from ..profile.recorder import Profile

_open: "Final[dict[int, ref[Machine]]]" = {}


def open_machines() -> "list[Machine]":
    """All machines of this process that were made and not closed."""
    machines = (weak() for weak in list(_open.values()))
    return [machine for machine in machines if machine is not None]


@atexit.register
def _close_all() -> None:
    """What nobody has closed, before the interpreter goes, and its threads with it."""
    with ExitStack() as stack:  # all of them, whatever one raises
        for machine in open_machines():
            stack.callback(machine.close)


def _disown_all() -> None:
    for machine in open_machines():
        machine._disown()
    _open.clear()


os.register_at_fork(after_in_child=_disown_all)


class _Elsewhere:
    """Stands for the parts of a machine that another process has."""

    def __init__(self, process: int) -> None:
        self._process = process

    def __getattr__(self, name: str) -> NoReturn:
        raise VmmError(
            f"this machine belongs to process {self._process}: a forked child has no "
            "part in it"
        )


class Machine:
    """A machine that runs once, over as many boots as its guest resets.

    The constructor checks everything that can be checked: it raises ConfigError
    (a field of the configuration), ImageError (a file), KvmUnavailable (the
    host). `start`, `wait`, `stop` and `close` may be called from any thread;
    leaving the `with` block stops the guest and releases everything. So does the end
    of the program, for a machine that nobody has closed. In a forked child there is no
    machine: it raises VmmError, but for `close`, `join` and `stop`, which do nothing.
    `warnings` are lines about what may not work, or take long, on this host. A
    `profile` records where the time goes; such a run uses the run loop in Python.

    Threads: vCPU 0's also builds the VM of every further boot; the event loop's
    does all host I/O. Lock order: DeviceManager, a device, its sink or its interrupt,
    LevelLines, RunControl.

    >>> from vmm import Machine, MachineConfig
    >>> with Machine(MachineConfig(serial="null", timeout=600)) as machine:
    ...     machine.run().reason  # of our default kernel
    <ExitReason.RESET: 'reset'>
    """

    def __init__(
        self, config: MachineConfig | None = None, profile: "Profile | None" = None
    ) -> None:
        if not isinstance(config, MachineConfig | None):
            raise ConfigError(f"config: {type(config).__name__} is no MachineConfig")
        self.config = config or MachineConfig()
        self._profile = profile
        self._control = RunControl()
        self._closed = False
        self._is_disowned = False
        symbols = asked_symbols(self.config)
        with ExitStack() as stack:
            self._quirks = chosen_quirks(self.config)
            boot = open_boot(self.config, self._quirks, stack)
            self.warnings = [
                *boot.kernel.warnings,
                *self._quirks.warnings(boot.kernel, self.config.cpus),
            ]
            kvm = stack.enter_context(Kvm())
            self._host = survey(kvm, self._quirks, self.config.cpus)
            memory = GuestMemory(boot.ram)
            stack.callback(memory.close)
            self.memory: GuestRam = memory
            """The guest's RAM, for a device that does DMA, and for tests."""
            self._loop = EventLoop(self._on_error)
            stack.callback(self._loop.close)
            addresses = device_addresses(boot.ram)
            pools = ResourceManager(PoolLayout(addresses=addresses))
            self._devices = DeviceManager(
                pools,
                IoManager(),
                self._loop,
                self._control,
                posts=self._host.posts,
            )
            tap = None if profile is None else profile.console
            watch = PanicWatch(self._on_panic)
            self.console = Console(
                self._loop, self.config.console, self._fail, tap, watch.feed
            )
            stack.callback(self.console.close)
            stack.callback(self._devices.close)
            sizes = [region.size for region in memory.regions]
            setup = cmos_setup(sizes[0], sum(sizes[1:]))
            self._board = Board(self.console, self._loop, self._reset, setup, watch)
            for device in self._board.devices:
                self._devices.add(device)
            if self.config.acpi:
                self._devices.add(acpi_pm(self._power_off))
            self.console.connect(self._board.serial)
            command = self._plug_command_port(stack)
            self._plug_debug_exit()
            self.debugcon = self._plug_debugcon(stack)
            """What the guest writes to port 0xE9, where `debugcon` says "capture"."""
            stack.callback(self._loop.stop)  # before what its callbacks use is closed
            self._outside = Outside(
                self._loop, self.console, watch, command, self.debugcon, failures=[]
            )
            parts = Parts(
                self._host, memory, boot, self._devices, self._control, profile
            )
            self._life = Life(self.config, parts, self._outside, symbols)
            self._cleanup = stack.pop_all()
        key = id(self)
        _open[key] = ref(self, lambda _: _open.pop(key, None))

    # What a user does

    def start(self) -> None:
        """Power on; returns while the guest boots. Raises VmmError, KvmError."""
        if self._closed:
            raise VmmError("this machine is closed: make another")
        if self.is_started:
            raise VmmError("this machine was started already: make another")
        install_kick_handler()
        self._life.power_on()
        self._watch()
        self._loop.start()
        self._life.begin()

    @property
    def is_started(self) -> bool:
        """Whether `start` was called; the guest may have ended since."""
        return self._life.started_ns is not None

    @property
    def result(self) -> RunResult | None:
        """What `wait` returns, when it wouldn't have to wait."""
        return self._life.result

    def wait(self, timeout: float | None = None) -> RunResult:
        """Wait for the end of the run or a pause, up to `timeout` seconds.

        Raises TimeoutError if the guest still runs then; it goes on running.
        """
        return self._life.wait(timeout)

    def run(self) -> RunResult:
        """`start` and `wait`."""
        self.start()
        return self.wait()

    def stop(self, detail: str = "", exit_code: int | None = None) -> None:
        """End the run now, with reason `stopped`; returns before it has ended.

        The result of a paused guest stays what it is.
        """
        if self._is_disowned:
            return
        self._control.finish(End(ExitReason.STOPPED, detail, exit_code))
        self._outside.abandon()

    @property
    def paused(self) -> "PausedGuest | None":
        """The guest to look at, where a policy has paused it."""
        return self._life.paused

    def resume(self) -> None:
        """Let a paused guest go on where it stands; after a reset it boots again.

        After a crash it will hardly come far. Raises VmmError unless it is paused.
        """
        self._life.resume()

    def join(self) -> None:
        """Wait until the guest is gone; a paused one until `stop` or its timeout."""
        if not self._is_disowned:
            self._life.join()

    def plug(self, device: DeviceIo) -> None:
        """Put a device of the user's on the buses, before start or while it runs.

        Raises ResourceError or DeviceOverlap if it doesn't fit.
        """
        self._devices.add(device)

    def unplug(self, device: DeviceIo) -> None:
        """Take a device off again, when nobody is in it any more.

        From an access or a callback of a device it returns before that. Raises
        NoDevice if it isn't plugged in, and VmmError if somebody doesn't come out.
        """
        self._devices.remove(device)

    @property
    def keyboard(self) -> Ps2Keyboard:
        """The keyboard at the i8042; its `send_scancodes` presses keys."""
        return self._board.i8042.keyboard

    @property
    def silence_s(self) -> int:
        """Seconds without any output that are no surprise on this host."""
        return self._quirks.silence_s

    @property
    def exits(self) -> dict[str, int]:
        """Exits to us by kind in this boot, so far; the result has all boots'."""
        return self._life.cycle.exits if self.is_started else {}

    @property
    def error(self) -> Exception | None:
        """What was raised, when the result's reason is `error`."""
        return self._control.end.error if self._control.end else None

    def close(self) -> None:
        """Stop the guest if it runs, and release everything. Idempotent."""
        self._closed = True
        self.stop("the machine was closed")
        self.join()
        self._cleanup.close()
        _open.pop(id(self), None)

    def _disown(self) -> None:
        """In a forked child: the threads aren't here, and all else is the parent's.

        Its locks may be held for ever, its epoll object is shared, its socket's path
        is in use. So nothing is undone; what is dropped closes itself.
        """
        self._is_disowned = True
        self._cleanup.pop_all()
        gone: Any = _Elsewhere(os.getppid())
        self.console = self._control = self._life = self._outside = gone
        self.memory = gone
        self._devices = self._loop = self._board = self._host = gone
        if self.debugcon is not None:
            self.debugcon = gone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plug_command_port(self, stack: ExitStack) -> "CommandPort | None":
        command = self.config.command
        if command is None or not command.runs:
            return None
        from ..guest.ports import CommandPort

        port = CommandPort(
            self._loop,
            command.capture,
            self.config.console,
            self._fail,
            self._on_command_end,
        )
        for device in port.devices:
            self._devices.add(device)
        if port.output is not None:
            stack.callback(port.output.close)
        return port

    def _plug_debugcon(self, stack: ExitStack) -> Console | None:
        where = self.config.debugcon
        if where is None:
            return None
        from ..devices.pc.debugcon import Debugcon  # most runs have none

        settings = self.config.console.replace(
            serial=where,
            serial_policy="drop",  # its driver never asks whether there is room
            tee=(),
        )
        console = Console(self._loop, settings, self._fail, field="debugcon")
        console.owner = "the debug console"
        stack.callback(console.close)
        self._add("debugcon", Debugcon(console.sink))
        return console

    def _plug_debug_exit(self) -> None:
        if self.config.debug_exit is None:
            return
        from ..devices.pc.isa_debug_exit import IsaDebugExit

        port = self.config.debug_exit
        self._add("debug_exit", IsaDebugExit(self._on_debug_exit, port))

    def _add(self, field: str, device: DeviceIo) -> None:
        """Plug in what `field` of the configuration asks for.

        Raises ConfigError with its name where another device has the ports.
        """
        try:
            self._devices.add(device)
        except DeviceError as error:
            raise ConfigError(f"{field}: {error}") from None

    # What makes it end

    def _watch(self) -> None:
        """Look, while it runs, for what nobody else would notice."""
        started_ns = self._life.started_ns
        assert started_ns is not None
        if self.config.timeout is not None:
            due = started_ns + int(self.config.timeout * 1e9)
            self._loop.call_at(due, self._on_timeout)
        if self._host.posts and (self._host.entry == "python" or self._profile):
            self._poke()
        if self.config.hang_s is not None:
            from ..watch.hang import HangWatch

            HangWatch(self._loop, self.config.hang_s, self._progress, self._on_hang)

    def _reset(self) -> None:
        """The guest pulled the reset line: it takes effect after this access."""
        self._control.finish(End(ExitReason.RESET))

    def _power_off(self) -> None:
        """The guest switched off: likewise."""
        self._control.finish(End(ExitReason.POWEROFF))

    def _on_command_end(self, word: int) -> None:
        """The guest's command has ended, or couldn't be started."""
        from ..guest.command import describe_status

        command = self.config.command
        argv = None if command is None else command.command
        detail = describe_status(word, argv)
        self._control.finish(End(ExitReason.EXITED, detail, word & 0xFF))

    def _on_debug_exit(self, value: int) -> None:
        """The guest ends the run, as QEMU's isa-debug-exit does."""
        from ..devices.pc.isa_debug_exit import exit_status

        detail = f"{value:#x} was written to the debug-exit port"
        self._control.finish(End(ExitReason.EXITED, detail, exit_status(value)))

    def _on_timeout(self) -> None:
        detail = f"the guest still ran after {self.config.timeout:g} s"
        self._control.finish(End(ExitReason.TIMEOUT, detail))
        self._outside.abandon()

    def _on_panic(self) -> None:
        """A panic was told of: don't wait for what the guest does then.

        But shortly, for the rest of its report. Words alone may be a program's: the
        vCPUs are to show whether the kernel has panicked.
        """
        turn, watch = self._control.turn, self._outside.watch

        def panicked() -> None:
            if watch.has_crash_kernel:
                return  # it is to have its time
            if watch.is_proven:
                self._control.finish(End(ExitReason.PANIC, watch.detail), turn)
            else:
                self._control.look(turn)

        when_silent(self._loop, lambda: self.console.printed, panicked)

    def _progress(self) -> object:
        """Something that changes whenever the guest does something."""
        if self.console.is_held:  # it waits for us
            return object()
        exits = self._life.cycle.exits
        del exits["intr"]  # kicks of ours
        return self._control.turn, self.console.printed, exits

    def _on_hang(self) -> None:
        detail = f"no console output and no exit for {self.config.hang_s:g} s"
        self._control.finish(End(ExitReason.HANG, detail), self._control.turn)

    def _on_error(self, error: Exception) -> None:
        self._control.finish(failure(error))
        self._outside.abandon()

    def _fail(self, detail: str) -> None:
        """An output can't be written; the others are still to get what is theirs."""
        self._outside.failures.append(detail)
        self._control.finish(End(ExitReason.ERROR, detail))

    def _poke(self) -> None:
        """Now and then: what a guest has written without an exit is to be seen."""
        self._control.poke()
        if not self._life.is_over:
            self._loop.call_at(self._loop.now_ns() + TICK_NS, self._poke)
