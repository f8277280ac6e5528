"""Machine: one virtual machine, from its configuration to its result."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from .board import Board
from .boot.image import ImageFile
from .boot.kernel import open_kernel
from .boot.layout import ram_ranges
from .boot.linux import LinuxBoot
from .config import BUILD_DIR, MachineConfig, StrPath
from .console import HURRY_S, Console
from .device_manager import DeviceManager
from .devices.device_io import DeviceIo
from .devices.io_manager import IoManager
from .devices.keyboard import Ps2Keyboard
from .devices.resource_manager import ResourceManager
from .errors import VmmError
from .event_loop import EventLoop
from .guest_entry import TICK_NS
from .host import host_kind
from .kvm._libc import install_kick_handler
from .kvm.kvm import Kvm
from .memory import GuestMemory
from .panic_watch import when_silent
from .power_cycle import PowerCycle, survey
from .quirks import Quirks, quirks_for
from .result import EXIT_CODES, ExitReason, RunResult
from .run_control import End, RunControl

if TYPE_CHECKING:  # most runs don't import them
    from .command_port import CommandPort
    from .paused_guest import PausedGuest
    from .profile.recorder import Profile
    from .symbols import Symbols

# How a boot that has panicked may end: at once, by its own reset, by reboot=t.
_AFTER_A_PANIC: Final = (ExitReason.PANIC, ExitReason.RESET, ExitReason.CRASH)
_REPORTED: Final = (ExitReason.CRASH, ExitReason.HANG)


class Machine:
    """A machine that runs once, over as many boots as its guest resets.

    The constructor checks everything that can be checked: it raises ConfigError
    (a field of the configuration), ImageError (a file), KvmUnavailable (the
    host). `start`, `wait`, `stop` and `close` may be called from any thread;
    leaving the `with` block stops the guest and releases everything. `warnings`
    are lines about what may not work, or take long, on this host. A `profile`
    records where the time goes; such a run uses the run loop in Python.

    Threads: vCPU 0's also builds the VM of every further boot; the event loop's
    does all host I/O. Lock order: DeviceManager, a device, its sink, RunControl.
    """

    def __init__(
        self, config: MachineConfig | None = None, profile: "Profile | None" = None
    ) -> None:
        self.config = config or MachineConfig()
        self._profile = profile
        self._control = RunControl()
        self._io_manager = IoManager()
        self._result: RunResult | None = None
        self._done = threading.Event()
        self._exits: dict[str, int] = {}
        self._insn_emulation = 0
        self._resets = 0
        self._powered = False
        self._report = ""
        self._paused: PausedGuest | None = None
        self._symbols = _asked_symbols(self.config)
        self._started_ns: int | None = None
        with ExitStack() as stack:
            self._quirks = _quirks(self.config)
            self._boot = _open_boot(self.config, self._quirks, stack)
            self.warnings = self._quirks.warnings(self._boot.kernel, self.config.cpus)
            kvm = stack.enter_context(Kvm())
            self._host = survey(kvm, self._quirks, self.config.cpus)
            self._memory = GuestMemory(ram_ranges(self.config.memory_size))
            stack.callback(self._memory.close)
            self._loop = EventLoop(self._on_error)
            stack.callback(self._loop.close)
            self._devices = DeviceManager(
                ResourceManager(),
                self._io_manager,
                self._loop,
                posts=self._host.posts,
            )
            tap = None if profile is None else profile.console
            self.console = Console(self._loop, self.config, self._fail, tap)
            stack.callback(self.console.close)
            stack.callback(self._devices.close)
            stack.callback(self._loop.stop)  # before what its callbacks use is closed
            self._board = Board(self.console, self._loop, self._reset)
            for device in self._board.devices:
                self._devices.add(device)
            self.console.connect(self._board.serial)
            self.console.watch.on_panic = self._on_panic
            self._consoles = [self.console]
            self._command = self._plug_command_port(stack)
            self._cleanup = stack.pop_all()
        self._thread = threading.Thread(target=self._main, name="vmm-vcpu0")

    # What a user does

    def start(self) -> None:
        """Power on; returns while the guest boots. Raises VmmError, KvmError."""
        if self._started_ns is not None:
            raise VmmError("this machine was started already: make another")
        install_kick_handler()
        self._cycle = self._power_on()
        self._started_ns = self._loop.now_ns()
        if self.config.timeout is not None:
            due = self._started_ns + int(self.config.timeout * 1e9)
            self._loop.call_at(due, self._on_timeout)
        if self._host.posts and (self._host.entry == "python" or self._profile):
            self._poke()
        if self.config.hang_s is not None:
            from .hang_watch import HangWatch

            HangWatch(self._loop, self.config.hang_s, self._progress, self._on_hang)
        self._loop.start()
        self._thread.start()

    def wait(self, timeout: float | None = None) -> RunResult:
        """Wait for the end of the run or a pause, up to `timeout` seconds.

        Raises TimeoutError if the guest still runs then; it goes on running.
        """
        if self._started_ns is None:
            raise VmmError("this machine was never started")
        if not self._done.wait(timeout):
            raise TimeoutError(f"the guest still runs after {timeout} s")
        assert self._result is not None
        return self._result

    def run(self) -> RunResult:
        """`start` and `wait`."""
        self.start()
        return self.wait()

    def stop(self, detail: str = "", exit_code: int | None = None) -> None:
        """End the run now, with reason `stopped`; returns before it has ended.

        The result of a paused guest stays what it is.
        """
        self._control.finish(End(ExitReason.STOPPED, detail, exit_code))
        self._abandon_output()

    @property
    def paused(self) -> "PausedGuest | None":
        """The guest to look at, where a policy has paused it."""
        return self._paused

    def resume(self) -> None:
        """Let a paused guest go on where it stands; after a reset it boots again.

        After a crash it will hardly come far. Raises VmmError unless it is paused.
        """
        if self._paused is None:
            raise VmmError("the guest isn't paused")
        self.console.resume()
        self._done.clear()
        self._paused = None
        if not self._control.resume():
            self._done.set()
            raise VmmError("the guest isn't paused any more: the run has ended")

    def join(self) -> None:
        """Wait until the guest is gone; a paused one until `stop` or its timeout."""
        if self._thread.ident is not None:
            self._thread.join()

    def plug(self, device: DeviceIo) -> None:
        """Put a device of the user's on the buses, before start or while it runs.

        Raises ResourceError or DeviceOverlap if it doesn't fit.
        """
        self._devices.add(device)

    def unplug(self, device: DeviceIo) -> None:
        """Take a device off again. Raises NoDevice if it isn't plugged in."""
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
    def error(self) -> Exception | None:
        """What was raised, when the result's reason is `error`."""
        return self._control.end.error if self._control.end else None

    def close(self) -> None:
        """Stop the guest if it runs, and release everything. Idempotent."""
        self.stop("the machine was closed")
        if self._thread.ident is not None:
            self._thread.join()
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plug_command_port(self, stack: ExitStack) -> "CommandPort | None":
        if not self.config.runs_command:
            return None
        from .command_port import CommandPort

        port = CommandPort(self._loop, self.config, self._fail, self._on_command_end)
        for device in port.devices:
            self._devices.add(device)
        if port.output is not None:
            stack.callback(port.output.close)
            self._consoles.append(port.output)
        return port

    # What makes it end

    def _reset(self) -> None:
        """The guest pulled the reset line: it takes effect after this access."""
        self._control.finish(End(ExitReason.RESET))

    def _on_command_end(self, word: int) -> None:
        """The guest's command has ended, or couldn't be started."""
        from .guest_command import describe_status

        detail = describe_status(word, self.config.command)
        self._control.finish(End(ExitReason.EXITED, detail, word & 0xFF))

    def _on_timeout(self) -> None:
        detail = f"the guest still ran after {self.config.timeout:g} s"
        self._control.finish(End(ExitReason.TIMEOUT, detail))
        self._abandon_output()

    def _on_panic(self) -> None:
        """A panic was printed: don't wait for what the guest does then.

        But shortly, for the rest of its report.
        """
        turn = self._control.turn

        def panicked() -> None:
            end = End(ExitReason.PANIC, self.console.watch.line or "")
            self._control.finish(end, turn)

        when_silent(self._loop, lambda: self.console.sink.accepted, panicked)

    def _progress(self) -> object:
        """Something that changes whenever the guest does something."""
        if len(self.console.sink) == self.config.serial_buffer:  # it waits for us
            return object()
        exits = self._cycle.exits
        del exits["intr"]  # kicks of ours
        return self._control.turn, self.console.sink.accepted, exits

    def _on_hang(self) -> None:
        detail = f"no console output and no exit for {self.config.hang_s:g} s"
        self._control.finish(End(ExitReason.HANG, detail), self._control.turn)

    def _on_error(self, error: Exception) -> None:
        known = isinstance(error, VmmError)
        self._fail(str(error) if known else f"{type(error).__name__}: {error}", error)

    def _fail(self, detail: str, error: Exception | None = None) -> None:
        self._control.finish(End(ExitReason.ERROR, detail, error=error))
        self._abandon_output()

    def _abandon_output(self) -> None:
        for console in self._consoles:
            console.abandon()

    def _poke(self) -> None:
        """Now and then: what a guest has written without an exit is to be seen."""
        self._control.poke()
        if self._paused is not None or not self._done.is_set():
            self._loop.call_at(self._loop.now_ns() + TICK_NS, self._poke)

    # Its life, on vCPU 0's thread

    def _power_on(self) -> PowerCycle:
        if self._profile is not None:
            self._profile.power_on()
        for console in self._consoles:
            console.power_on()
        cycle = PowerCycle(
            self._host,
            self._memory,
            self._boot,
            self._devices,
            self._control,
            self._profile,
        )
        self._powered = True
        return cycle

    def _main(self) -> None:
        concluded = False
        try:
            try:
                concluded = self._live()
            finally:
                self._power_off()
        except Exception as error:
            self._on_error(error)
        try:
            if not concluded:
                self._conclude()
        finally:
            self._done.set()

    def _live(self) -> bool:
        """Run one boot after another; whether the last one's result is made."""
        while True:
            self._cycle.run()
            self._look_back()
            policy = self._policy()
            if policy == "pause":
                if not self._pause():
                    return True
                end = self._control.end
                if end is None or end.reason is not ExitReason.RESET:
                    self._control.rearm()
                    continue
            elif policy == "exit":
                return False
            self._boot_again()

    def _look_back(self) -> None:
        """Note what is lost once the VM is gone."""
        end = self._control.end
        assert end is not None
        if end.reason is ExitReason.RESET:
            self._resets += 1
        if end.reason in _REPORTED:
            from .crash_report import crash_report

            self._report = crash_report(
                self._cycle.vcpus, self._memory, self._find_symbols()
            )

    def _verdict(self) -> End:
        """Why the boot has ended; the end of one that has panicked is a panic."""
        end = self._control.end
        assert end is not None
        panic = self.console.panic_line
        if panic is not None and end.reason in _AFTER_A_PANIC:
            return End(ExitReason.PANIC, panic)
        return end

    def _policy(self) -> str:
        policies: dict[ExitReason, str] = {
            ExitReason.RESET: self.config.on_reset,
            ExitReason.PANIC: self.config.on_panic,
            ExitReason.CRASH: self.config.on_crash,
        }
        return policies.get(self._verdict().reason, "exit")

    def _pause(self) -> bool:
        """Show the result and the guest until it is resumed: True, or stopped."""
        from .paused_guest import PausedGuest

        guest = PausedGuest(self._cycle.vcpus, self._memory, self._find_symbols())
        self._conclude()
        self._paused = guest
        self._done.set()
        resumed = self._control.hold()
        if not resumed:
            self._paused = None
        guest.release()
        return resumed

    def _boot_again(self) -> None:
        end = self._control.end
        if end is not None and end.reason is not ExitReason.RESET:  # we do it for it
            self._resets += 1
        self._power_off()
        self._memory.discard()
        self._devices.reset()
        self._control.rearm()
        self._cycle = self._power_on()

    def _power_off(self) -> None:
        """Take the VM down, and keep what it has counted. Idempotent."""
        if not self._powered:
            return
        if self._profile is not None:
            self._profile.power_off()
        self._exits, self._insn_emulation = self._totals()
        self._powered = False
        self._cycle.close()

    def _totals(self) -> tuple[dict[str, int], int]:
        """Exits by kind and emulated instructions, over all boots."""
        exits = dict(self._exits)
        if not self._powered:
            return exits, self._insn_emulation
        for kind, count in self._cycle.exits.items():
            exits[kind] = exits.get(kind, 0) + count
        return exits, self._insn_emulation + self._cycle.insn_emulation

    def _find_symbols(self) -> "Symbols | None":
        if self._symbols is None:
            from .symbols import symbols_of

            self._symbols = symbols_of(self.config.images()[0])
        return self._symbols

    def _conclude(self) -> None:
        """Let the console finish, and make the result that `wait` waits for."""
        end = self._verdict()
        assert self._started_ns is not None
        wall_ns = self._loop.now_ns() - self._started_ns
        hurried = end.reason in (ExitReason.STOPPED, ExitReason.TIMEOUT)
        for console in self._consoles:
            console.finish(HURRY_S if hurried else None)
        detail = end.detail
        ended_early = end.reason in (ExitReason.RESET, ExitReason.POWEROFF)
        if self._command is not None and ended_early:
            detail = "but its command's status never came"
            end = end._replace(exit_code=1)
        if end.reason is ExitReason.CRASH:
            detail += self._quirks.note()
        code = EXIT_CODES[end.reason] if end.exit_code is None else end.exit_code
        first_ns = self.console.first_output_ns
        exits, insn_emulation = self._totals()
        self._result = RunResult(
            reason=end.reason,
            exit_code=code,
            guest_status=code if end.reason is ExitReason.EXITED else None,
            detail=detail,
            resets=self._resets,
            wall_s=round(wall_ns / 1e9, 6),
            first_output_s=(
                None
                if first_ns is None
                else round((first_ns - self._started_ns) / 1e9, 6)
            ),
            exits=exits,
            insn_emulation=insn_emulation,
            quirks=self._quirks.counts,
            cmdline=self._boot.cmdline.decode(errors="surrogateescape"),
            console_bytes=self.console.sink.accepted,
            console_dropped=sum(console.sink.dropped for console in self._consoles),
            unclaimed_accesses=self._io_manager.unclaimed_accesses,
            oops=self.console.watch.oops,
            report=self._report,
            output=None if self._command is None else self._command.kept_output(),
        )
        for console in self._consoles:
            console.end(self._result)


def run(
    kernel: StrPath | None = None,
    initrd: StrPath | None = None,
    *,
    command: str | Sequence[str] | None = None,
    files: Mapping[str, StrPath] | Iterable[StrPath | tuple[StrPath, str]] = (),
    timeout: float | None = None,
    **settings: object,
) -> RunResult:
    """Run a machine to its end, and `command` in it, if there is one.

    The result is picklable: `guest_status` is the command's, `output` what it printed.
    `settings` are MachineConfig's others; the console goes nowhere unless `serial`
    says so. For any thread, and for workers of other processes.
    """
    runs_command = command is not None or settings.get("script") is not None
    capture = "capture" if runs_command else None
    settings = {"serial": "null", "capture": capture} | settings
    config = MachineConfig(
        kernel=kernel,
        initrd=initrd,
        command=command,
        files=files,
        timeout=timeout,
        **settings,  # type: ignore[arg-type]
    )
    with Machine(config) as machine:
        return machine.run()


def _asked_symbols(config: MachineConfig) -> "Symbols | None":
    if config.symbols is None:
        return None
    from .symbols import Symbols

    return Symbols.load(config.symbols)


def _quirks(config: MachineConfig) -> Quirks:
    return quirks_for(host_kind() if config.quirks == "auto" else config.quirks)


def _open_boot(config: MachineConfig, quirks: Quirks, stack: ExitStack) -> LinuxBoot:
    kernel_path, initrd_path = config.images()
    image = open_kernel(kernel_path)
    stack.callback(image.file.close)
    kernel = quirks.kernel(image)
    stack.callback(kernel.file.close)
    initrd = None
    if initrd_path is not None:
        initrd = stack.enter_context(ImageFile("initrd", initrd_path))
    added = b""
    if config.runs_command or config.files:
        from .guest_command import initramfs_segment

        added = initramfs_segment(config, BUILD_DIR)
    return LinuxBoot(
        kernel=kernel,
        initrd=initrd,
        cmdline=quirks.cmdline(config.full_cmdline).encode(errors="surrogateescape"),
        memory_size=config.memory_size,
        cpus=config.cpus,
        added=added,
    )
